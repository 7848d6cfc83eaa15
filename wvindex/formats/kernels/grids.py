"""Codes that look up 4 or 8 values at once: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.

The grids are the gguf package's; layouts and arithmetic as ggml's ``dequantize_row_iq*`` (ggml-quants.c).
Importing this module imports that package: only who decodes these types needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import quants
from numpy.typing import NDArray

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import from_half, load_u8, load_u16, load_u32, negate_if, to_float
from wvindex.formats.kernels._lanes import put_shifted, put_signed_4, put_signed_8


def _grid(of: Any) -> NDArray[np.uint8]:
    """Give a type's grid as bytes of int8, one entry after another: floats would not fit the cache."""
    of.init_grid()
    values = np.asarray(of.grid, np.float32).astype(np.int8)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _even_signs() -> NDArray[np.uint8]:
    """Give for 7 sign bits all 8: an even number of values is negative."""
    signs = np.arange(128, dtype=np.uint8)
    return signs | (np.bitwise_count(signs) & np.uint8(1)) << np.uint8(7)


_IQ1 = _grid(quants.IQ1_S)
_IQ2_XXS = _grid(quants.IQ2_XXS)
_IQ2_XS = _grid(quants.IQ2_XS)
_IQ2_S = _grid(quants.IQ2_S)
_IQ3_XXS = _grid(quants.IQ3_XXS)
_IQ3_S = _grid(quants.IQ3_S)
_SIGNS = _even_signs()

_QUARTER = np.float32(0.25)
_HALF = np.float32(0.5)
_DELTA = np.float32(0.125)


@inline
def iq2_xxs(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, then 8 times 4 bytes of entries, 4 times 7 sign bits and 4 of scale s: d (s + 1/2) / 4."""
    d = from_half(load_u16(raw, at))
    for group in range(8):
        entries = at + 2 + 8 * group
        signs = load_u32(raw, entries + 4)
        scale = d * (_HALF + to_float(signs >> 28)) * _QUARTER
        for i in range(4):
            bits = load_u8(_SIGNS, signs >> 7 * i & 127)
            put_signed_8(_IQ2_XXS, load_u8(raw, entries + i), scale, bits, out, to + 32 * group + 8 * i)


@inline
def iq2_xs(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 32 times 9 bits of entry and 7 of signs, 16 nibbles of scale s: d (s + 1/2) / 4."""
    d = from_half(load_u16(raw, at))
    for group in range(16):
        nibble = load_u8(raw, at + 66 + (group >> 1)) >> 4 * (group & 1) & 15
        scale = d * (_HALF + to_float(nibble)) * _QUARTER
        for i in range(2):
            code = load_u16(raw, at + 2 + 4 * group + 2 * i)
            bits = load_u8(_SIGNS, code >> 9)
            put_signed_8(_IQ2_XS, code & 511, scale, bits, out, to + 16 * group + 8 * i)


@inline
def iq2_s(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 32 bytes of entries, 32 of signs, 8 of the entries' high bits, 16 nibbles of scale."""
    d = from_half(load_u16(raw, at))
    for group in range(16):
        nibble = load_u8(raw, at + 74 + (group >> 1)) >> 4 * (group & 1) & 15
        scale = d * (_HALF + to_float(nibble)) * _QUARTER
        high = load_u8(raw, at + 66 + (group >> 1)) >> 4 * (group & 1)
        for i in range(2):
            code = at + 2 + 2 * group + i
            entry = load_u8(raw, code) | (high >> 2 * i & 3) << 8
            put_signed_8(_IQ2_S, entry, scale, load_u8(raw, code + 32), out, to + 16 * group + 8 * i)


@inline
def iq3_xxs(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 64 bytes of entries, 8 times 4 times 7 sign bits and 4 of scale s: d (s + 1/2) / 2."""
    d = from_half(load_u16(raw, at))
    for group in range(8):
        signs = load_u32(raw, at + 66 + 4 * group)
        scale = d * (_HALF + to_float(signs >> 28)) * _HALF
        for i in range(8):
            bits = load_u8(_SIGNS, signs >> 7 * (i >> 1) & 127) >> 4 * (i & 1)
            entry = load_u8(raw, at + 2 + 8 * group + i)
            put_signed_4(_IQ3_XXS, entry, scale, bits, out, to + 32 * group + 4 * i)


@inline
def iq3_s(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 64 bytes of entries, 8 of their ninth bits, 32 of signs, 8 nibbles of scale s: d (2 s + 1)."""
    d = from_half(load_u16(raw, at))
    for group in range(8):
        nibble = load_u8(raw, at + 106 + (group >> 1)) >> 4 * (group & 1) & 15
        scale = d * to_float(2 * nibble + 1)
        high = load_u8(raw, at + 66 + group)
        for i in range(8):
            bits = load_u8(raw, at + 74 + 4 * group + (i >> 1)) >> 4 * (i & 1)
            entry = load_u8(raw, at + 2 + 8 * group + i) | (high >> i & 1) << 8
            put_signed_4(_IQ3_S, entry, scale, bits, out, to + 32 * group + 4 * i)


@inline
def iq1_s(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 32 bytes of entries, 8 times 4 times 3 high bits, 3 of scale s, 1 of shift: d (2 s + 1)."""
    d = from_half(load_u16(raw, at))
    for group in range(8):
        high = load_u16(raw, at + 34 + 2 * group)
        scale = d * to_float(2 * (high >> 12 & 7) + 1)
        delta = negate_if(_DELTA, high >> 15)
        for i in range(4):
            entry = load_u8(raw, at + 2 + 4 * group + i) | (high >> 3 * i & 7) << 8
            put_shifted(_IQ1, entry, scale, delta, out, to + 32 * group + 8 * i)


@inline
def iq1_m(raw: Any, at: int, out: Any, to: int) -> None:
    """32 bytes of entries, 32 nibbles of 3 high bits and a shift, 4 times 4 scales of 3 bits: d (2 s + 1).

    Half d is spread over the top nibbles of the four uint16 of scales.
    """
    bits = 0
    for i in range(4):
        bits |= load_u16(raw, at + 48 + 2 * i) >> 12 << 4 * i
    d = from_half(bits)
    for group in range(16):
        scales = load_u16(raw, at + 48 + 2 * (group >> 2))
        scale = d * to_float(2 * (scales >> 3 * (group & 3) & 7) + 1)
        high = load_u8(raw, at + 32 + group)
        for i in range(2):
            nibble = high >> 4 * i
            entry = load_u8(raw, at + 2 * group + i) | (nibble & 7) << 8
            delta = negate_if(_DELTA, nibble >> 3)
            put_shifted(_IQ1, entry, scale, delta, out, to + 16 * group + 8 * i)
