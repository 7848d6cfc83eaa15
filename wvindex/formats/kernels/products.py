"""Products of whole blocks with a vector, for the types that generation mostly reads.

A weight is ``d s q - e m``, with s and m of its group: a block's product with x is ``d`` times the sum of
``s (q . x)`` less ``e`` times the sum of ``m`` times the group's sum of x, which all rows share. Levels are
multiplied as they are unpacked, and no weight is ever stored. Layouts as in `k_quants`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import (
    field,
    from_half,
    load_i8,
    load_u8,
    load_u16,
    load_u32,
    put,
    to_float,
)
from wvindex.formats.kernels._levels import Bits, Levels, level_product, level_product_less_minima

_THIRTY_TWO = np.float32(32)

_HALVES: Final = [(half, part, k) for half in range(2) for part in range(2) for k in range(4)]
"""Of the types with 16 groups: 128 values, 16 of each 32, and which 32."""

_PAIRS: Final = [(pair, k) for pair in range(4) for k in range(2)]

_levels_2 = level_product_less_minima(
    (
        Levels(128 * half + 16 * part + 32 * k, 16, Bits(16 + 32 * half + 16 * part, 2 * k, 2))
        for half, part, k in _HALVES
    ),
    group=16,
)
_levels_3 = level_product(
    (
        Levels(
            128 * half + 16 * part + 32 * k,
            16,
            Bits(32 + 32 * half + 16 * part, 2 * k, 2),
            Bits(16 * part, 4 * half + k, 1),
        )
        for half, part, k in _HALVES
    ),
    group=16,
    excess=4,
)
_levels_4 = level_product_less_minima(
    (Levels(64 * pair + 32 * k, 32, Bits(16 + 32 * pair, 4 * k, 4)) for pair, k in _PAIRS), group=32
)
_levels_5 = level_product_less_minima(
    (
        Levels(64 * pair + 32 * k, 32, Bits(48 + 32 * pair, 4 * k, 4), Bits(16, 2 * pair + k, 1))
        for pair, k in _PAIRS
    ),
    group=32,
)
_levels_6 = level_product(
    (
        Levels(
            128 * half + 16 * part + 32 * k,
            16,
            Bits(64 * half + 16 * part + 32 * (k % 2), 4 * (k // 2), 4),
            Bits(128 + 32 * half + 16 * part, 2 * k, 2),
        )
        for half, part, k in _HALVES
    ),
    group=16,
    excess=32,
)


@inline
def q2_k(raw: Any, at: int, x: Any, first: int, sums: Any, scales: Any, minima: Any) -> Any:
    """Multiply a block by ``x[first : first + 256]``; `sums` has the sums of x over each group."""
    for i in range(16):
        packed = load_u8(raw, at + i)
        put(scales, i, to_float(field(packed, 0, 4)))
        put(minima, i, to_float(field(packed, 4, 4)))
    d, dmin = from_half(load_u16(raw, at + 80)), from_half(load_u16(raw, at + 82))
    return _levels_2(raw, at, x, first, d, scales, dmin, minima, sums, first // 16)


@inline
def q3_k(raw: Any, at: int, x: Any, first: int, sums: Any, scales: Any, minima: Any) -> Any:
    """As `q2_k`."""
    low, middle, high = load_u32(raw, at + 96), load_u32(raw, at + 100), load_u32(raw, at + 104)
    for i in range(4):
        put(scales, i, _scale_3(low, high, 8 * i, 8 * i))
        put(scales, 4 + i, _scale_3(middle, high, 8 * i, 8 * i + 2))
        put(scales, 8 + i, _scale_3(low, high, 8 * i + 4, 8 * i + 4))
        put(scales, 12 + i, _scale_3(middle, high, 8 * i + 4, 8 * i + 6))
    return _levels_3(raw, at, x, first, from_half(load_u16(raw, at + 108)), scales)


@inline
def q4_k(raw: Any, at: int, x: Any, first: int, sums: Any, scales: Any, minima: Any) -> Any:
    """As `q2_k`."""
    _put_scales_and_minima(raw, at + 4, scales, minima)
    d, dmin = from_half(load_u16(raw, at)), from_half(load_u16(raw, at + 2))
    return _levels_4(raw, at, x, first, d, scales, dmin, minima, sums, first // 32)


@inline
def q5_k(raw: Any, at: int, x: Any, first: int, sums: Any, scales: Any, minima: Any) -> Any:
    """As `q2_k`."""
    _put_scales_and_minima(raw, at + 4, scales, minima)
    d, dmin = from_half(load_u16(raw, at)), from_half(load_u16(raw, at + 2))
    return _levels_5(raw, at, x, first, d, scales, dmin, minima, sums, first // 32)


@inline
def q6_k(raw: Any, at: int, x: Any, first: int, sums: Any, scales: Any, minima: Any) -> Any:
    """As `q2_k`."""
    for i in range(16):
        put(scales, i, to_float(load_i8(raw, at + 192 + i)))
    return _levels_6(raw, at, x, first, from_half(load_u16(raw, at + 208)), scales)


@inline
def _scale_3(low: int, high: int, low_shift: int, high_shift: int) -> Any:
    return to_float(field(low, low_shift, 4) | field(high, high_shift, 2) << 4) - _THIRTY_TWO


@inline
def _put_scales_and_minima(raw: Any, at: int, scales: Any, minima: Any) -> None:
    """Unpack eight of each, of 6 bits: the last four lend their high bits to the first four's bytes."""
    low, middle, high = load_u32(raw, at), load_u32(raw, at + 4), load_u32(raw, at + 8)
    for i in range(4):
        put(scales, i, to_float(field(low, 8 * i, 6)))
        put(minima, i, to_float(field(middle, 8 * i, 6)))
        put(scales, 4 + i, to_float(field(high, 8 * i, 4) | field(low, 8 * i + 6, 2) << 4))
        put(minima, 4 + i, to_float(field(high, 8 * i + 4, 4) | field(middle, 8 * i + 6, 2) << 4))
