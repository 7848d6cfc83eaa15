"""Four-bit codes that look a value up: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

Layouts, tables and arithmetic as ggml's ``dequantize_row_*`` (ggml-quants.c), ``kvalues_iq4nl`` and
``kvalues_mxfp4`` (ggml-common.h).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import from_bits, from_half, load_u8, load_u16, opaque, put, to_float

_IQ4 = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
_E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.float32)  # doubled
_HALF_OF_256 = np.float32(128)
_THIRTY_TWO = np.float32(32)


@inline
def iq4_nl(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 16 bytes of codes: d times the code's value."""
    d = from_half(load_u16(raw, at))
    for i in range(opaque(16)):
        q = load_u8(raw, at + 2 + i)
        put(out, to + i, d * _IQ4[q & 15])
        put(out, to + 16 + i, d * _IQ4[q >> 4])


@inline
def iq4_xs(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 16 bits and 4 bytes of 6-bit scales s, 128 bytes of codes: d (s - 32) times the value."""
    d = from_half(load_u16(raw, at))
    high = load_u16(raw, at + 2)
    for group in range(8):
        low = load_u8(raw, at + 4 + (group >> 1)) >> 4 * (group & 1) & 15
        scale = d * (to_float(low | (high >> 2 * group & 3) << 4) - _THIRTY_TWO)
        for i in range(opaque(16)):
            q = load_u8(raw, at + 8 + 16 * group + i)
            put(out, to + 32 * group + i, scale * _IQ4[q & 15])
            put(out, to + 32 * group + 16 + i, scale * _IQ4[q >> 4])


@inline
def mxfp4(raw: Any, at: int, out: Any, to: int) -> None:
    """A byte e, 16 bytes of E2M1 codes: 2 ** (e - 128) times twice the code's value."""
    e = load_u8(raw, at)
    d = from_bits(0x00200000 << e if e < 2 else e - 1 << 23)
    for i in range(opaque(16)):
        q = load_u8(raw, at + 1 + i)
        put(out, to + i, d * _E2M1[q & 15])
        put(out, to + 16 + i, d * _E2M1[q >> 4])


@inline
def nvfp4(raw: Any, at: int, out: Any, to: int) -> None:
    """4 bytes of scales, then 8 bytes of E2M1 codes for each: scale times the code's value.

    A scale is an unsigned E4M3 without NaN (0x7F is 0): as a half, it lacks a factor of 256. The other
    half of a factor is for the doubled values.
    """
    for group in range(4):
        code = load_u8(raw, at + group)
        d = from_half(0 if code == 0x7F else (code & 0x7F) << 7) * _HALF_OF_256
        for i in range(8):
            q = load_u8(raw, at + 4 + 8 * group + i)
            put(out, to + 16 * group + i, d * _E2M1[q & 15])
            put(out, to + 16 * group + 8 + i, d * _E2M1[q >> 4])
