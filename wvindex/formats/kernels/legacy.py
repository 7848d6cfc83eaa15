"""Blocks of one scale and plain integers: Q4_0 to Q5_1, Q8_0, Q8_1, Q8_K, and those of one or two bits.

Layouts and arithmetic as ggml's ``dequantize_row_*`` (ggml-quants.c) and ``block_*`` (ggml-common.h).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import (
    field,
    from_bits,
    from_half,
    load_i8,
    load_u8,
    load_u16,
    load_u32,
    opaque,
    put,
    to_float,
)

_ONE = np.float32(1)
_EIGHT = np.float32(8)
_SIXTEEN = np.float32(16)


@inline
def q4_0(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 16 bytes of nibbles q, low ones first: d (q - 8)."""
    d = from_half(load_u16(raw, at))
    for i in range(opaque(16)):
        q = load_u8(raw, at + 2 + i)
        put(out, to + i, d * (to_float(field(q, 0, 4)) - _EIGHT))
        put(out, to + 16 + i, d * (to_float(field(q, 4, 4)) - _EIGHT))


@inline
def q4_1(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, half m, 16 bytes of nibbles q: d q + m."""
    d = from_half(load_u16(raw, at))
    m = from_half(load_u16(raw, at + 2))
    for i in range(opaque(16)):
        q = load_u8(raw, at + 4 + i)
        put(out, to + i, d * to_float(field(q, 0, 4)) + m)
        put(out, to + 16 + i, d * to_float(field(q, 4, 4)) + m)


@inline
def q5_0(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 32 fifth bits, 16 bytes of nibbles: d (q - 16)."""
    d = from_half(load_u16(raw, at))
    high = load_u32(raw, at + 2)
    for i in range(16):
        q = load_u8(raw, at + 6 + i)
        put(out, to + i, d * (to_float(field(q, 0, 4) | field(high, i, 1) << 4) - _SIXTEEN))
        put(out, to + 16 + i, d * (to_float(field(q, 4, 4) | field(high, i + 16, 1) << 4) - _SIXTEEN))


@inline
def q5_1(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, half m, 32 fifth bits, 16 bytes of nibbles: d q + m."""
    d = from_half(load_u16(raw, at))
    m = from_half(load_u16(raw, at + 2))
    high = load_u32(raw, at + 4)
    for i in range(16):
        q = load_u8(raw, at + 8 + i)
        put(out, to + i, d * to_float(field(q, 0, 4) | field(high, i, 1) << 4) + m)
        put(out, to + 16 + i, d * to_float(field(q, 4, 4) | field(high, i + 16, 1) << 4) + m)


@inline
def q8_0(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 32 int8 q: d q."""
    d = from_half(load_u16(raw, at))
    for i in range(opaque(32)):
        put(out, to + i, d * to_float(load_i8(raw, at + 2 + i)))


@inline
def q8_1(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, half s (d times the sum, for dot products only), 32 int8 q: d q."""
    d = from_half(load_u16(raw, at))
    for i in range(opaque(32)):
        put(out, to + i, d * to_float(load_i8(raw, at + 4 + i)))


@inline
def q8_k(raw: Any, at: int, out: Any, to: int) -> None:
    """Float d, 256 int8 q, 16 int16 sums (for dot products only): d q."""
    d = from_bits(load_u32(raw, at))
    for i in range(256):
        put(out, to + i, d * to_float(load_i8(raw, at + 4 + i)))


@inline
def q1_0(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 128 bits: d where the bit is set, else -d."""
    d = from_half(load_u16(raw, at))
    for i in range(16):
        bits = load_u8(raw, at + 2 + i)
        for j in range(8):
            put(out, to + 8 * i + j, d * (to_float(field(bits, j, 1)) * np.float32(2) - _ONE))


@inline
def q2_0(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, 64 pairs of bits q, lowest first: d (q - 1)."""
    d = from_half(load_u16(raw, at))
    for i in range(16):
        bits = load_u8(raw, at + 2 + i)
        for j in range(4):
            put(out, to + 4 * i + j, d * (to_float(field(bits, 2 * j, 2)) - _ONE))


@inline
def _put_trits(raw: Any, at: int, count: int, powers: int, out: Any, to: int, d: Any) -> None:
    """`count` bytes, each a base-3 fraction of 256: the digit n of a byte is that of 3 ** n times it."""
    power = 1
    for n in range(powers):
        for i in range(count):
            q = (load_u8(raw, at + i) * power & 255) * 3 >> 8
            put(out, to + n * count + i, d * (to_float(q) - _ONE))
        power *= 3


@inline
def tq1_0(raw: Any, at: int, out: Any, to: int) -> None:
    """32, then 16 bytes of five base-3 digits, 4 bytes of four, half d: d (q - 1)."""
    d = from_half(load_u16(raw, at + 52))
    _put_trits(raw, at, 32, 5, out, to, d)
    _put_trits(raw, at + 32, 16, 5, out, to + 160, d)
    _put_trits(raw, at + 48, 4, 4, out, to + 240, d)


@inline
def tq2_0(raw: Any, at: int, out: Any, to: int) -> None:
    """64 bytes of bit pairs q, half d: d (q - 1)."""
    d = from_half(load_u16(raw, at + 64))
    for half in range(2):
        for i in range(32):
            q = load_u8(raw, at + 32 * half + i)
            first = to + 128 * half + i
            put(out, first, d * (to_float(field(q, 0, 2)) - _ONE))
            put(out, first + 32, d * (to_float(field(q, 2, 2)) - _ONE))
            put(out, first + 64, d * (to_float(field(q, 4, 2)) - _ONE))
            put(out, first + 96, d * (to_float(field(q, 6, 2)) - _ONE))
