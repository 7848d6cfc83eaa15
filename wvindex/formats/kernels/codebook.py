"""Four-bit codes that stand for uneven values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

Layouts and arithmetic as ggml's ``dequantize_row_*`` (ggml-quants.c), values as its ``kvalues_iq4nl`` and
``kvalues_mxfp4`` (ggml-common.h). They are worked out rather than looked up: vector units have no fast
way to look up a table of floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import (
    field,
    from_bits,
    from_e2m1,
    from_half,
    load_u8,
    load_u16,
    opaque,
    put,
    to_float,
)

_QUARTIC = tuple(np.float32(c) for c in (0.00159, 0.07867, -0.13719, 11.51721, -4.30125))
_CENTRE = np.float32(7.5)
_ROUNDER = np.float32(3 << 22)  # Added and taken away again, it rounds to an integer.
_ZERO = np.float32(0)
_TWO = np.float32(2)
_REBIAS = np.float32(256)  # From half's exponent bias, 15, to E4M3's, 7.
_THIRTY_TWO = np.float32(32)


@inline
def _iq4_value(code: int) -> Any:
    """Give -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89 or 113.

    A quartic passes within 0.45 of all of them; rounded, it is exact.
    """
    a, b, c, d, e = _QUARTIC
    x = to_float(code) - _CENTRE
    return (((a * x + b) * x + c) * x + d) * x + e + _ROUNDER - _ROUNDER


@inline
def _e2m1_value(code: int) -> Any:
    """Give an E2M1 (OCP Microscaling Formats, table 5); adding zero makes zero of minus zero."""
    return from_e2m1(code) + _ZERO


@inline
def iq4_nl(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 16 bytes of codes: d times the code's value."""
    d = from_half(load_u16(raw, at))
    for i in range(16):
        q = load_u8(raw, at + 2 + i)
        put(out, to + i, d * _iq4_value(field(q, 0, 4)))
        put(out, to + 16 + i, d * _iq4_value(field(q, 4, 4)))


@inline
def iq4_xs(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 16 bits and 4 bytes of 6-bit scales s, 128 bytes of codes: d (s - 32) times the value."""
    d = from_half(load_u16(raw, at))
    high = load_u16(raw, at + 2)
    for group in range(8):
        low = load_u8(raw, at + 4 + (group >> 1)) >> 4 * (group & 1) & 15
        scale = d * (to_float(low | (high >> 2 * group & 3) << 4) - _THIRTY_TWO)
        for i in range(16):
            q = load_u8(raw, at + 8 + 16 * group + i)
            put(out, to + 32 * group + i, scale * _iq4_value(field(q, 0, 4)))
            put(out, to + 32 * group + 16 + i, scale * _iq4_value(field(q, 4, 4)))


@inline
def mxfp4(raw: Any, at: int, out: Any, to: int) -> None:
    """A byte e, 16 bytes of E2M1 codes: 2 ** (e - 128) times twice the code's value."""
    e = load_u8(raw, at)
    d = from_bits(0x00200000 << e if e < 2 else e - 1 << 23)
    for i in range(16):
        q = load_u8(raw, at + 1 + i)
        put(out, to + i, d * (_TWO * _e2m1_value(field(q, 0, 4))))
        put(out, to + 16 + i, d * (_TWO * _e2m1_value(field(q, 4, 4))))


@inline
def nvfp4(raw: Any, at: int, out: Any, to: int) -> None:
    """4 bytes of scales, then 8 bytes of E2M1 codes for each: scale times the code's value.

    A scale is an unsigned E4M3 without NaN (0x7F is 0): a half but for the bias.
    """
    for group in range(4):
        code = load_u8(raw, at + group)
        d = from_half(0 if code == 0x7F else (code & 0x7F) << 7) * _REBIAS
        for i in range(opaque(8)):
            q = load_u8(raw, at + 4 + 8 * group + i)
            put(out, to + 16 * group + i, d * _e2m1_value(field(q, 0, 4)))
            put(out, to + 16 * group + 8 + i, d * _e2m1_value(field(q, 4, 4)))
