"""The K-quants: 256 values in 8 or 16 groups, each with its own small integer scale.

Layouts and arithmetic as ggml's ``dequantize_row_q*_K`` (ggml-quants.c) and ``block_q*_K`` (ggml-common.h).
One loop over packed bytes stores every value that a byte holds: the shape that vectorizes best.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wvindex.formats.kernels._factory import inline
from wvindex.formats.kernels._intrinsics import field, from_half, load_i8, load_u8, load_u16, put, to_float

_FOUR = np.float32(4)
_THIRTY_TWO = np.float32(32)


@inline
def q2_k(raw: Any, at: int, out: Any, to: int) -> None:
    """16 bytes of 4-bit scales and minima, 64 bytes of 2-bit levels q, half d, half dmin: d s q - dmin m."""
    d = from_half(load_u16(raw, at + 80))
    dmin = from_half(load_u16(raw, at + 82))
    for half in range(2):
        for part in range(2):
            scales = at + 8 * half + part
            s0, s1 = load_u8(raw, scales), load_u8(raw, scales + 2)
            s2, s3 = load_u8(raw, scales + 4), load_u8(raw, scales + 6)
            d0, m0 = d * to_float(s0 & 15), dmin * to_float(s0 >> 4)
            d1, m1 = d * to_float(s1 & 15), dmin * to_float(s1 >> 4)
            d2, m2 = d * to_float(s2 & 15), dmin * to_float(s2 >> 4)
            d3, m3 = d * to_float(s3 & 15), dmin * to_float(s3 >> 4)
            packed, first = at + 16 + 32 * half + 16 * part, to + 128 * half + 16 * part
            for i in range(16):
                q = load_u8(raw, packed + i)
                put(out, first + i, d0 * to_float(field(q, 0, 2)) - m0)
                put(out, first + 32 + i, d1 * to_float(field(q, 2, 2)) - m1)
                put(out, first + 64 + i, d2 * to_float(field(q, 4, 2)) - m2)
                put(out, first + 96 + i, d3 * to_float(field(q, 6, 2)) - m3)


@inline
def _scale_3(raw: Any, at: int, group: int, d: Any) -> Any:
    """Scale `group` of 16: 12 bytes hold the 4 low bits of each, then the 2 high bits; less 32."""
    low = load_u8(raw, at + (group & 7)) >> 4 * (group >> 3) & 15
    high = load_u8(raw, at + 8 + (group & 3)) >> 2 * (group >> 2) & 3
    return d * (to_float(low | high << 4) - _THIRTY_TWO)


@inline
def q3_k(raw: Any, at: int, out: Any, to: int) -> None:
    """32 bytes of high bits, 64 bytes of 2-bit levels, 12 bytes of 6-bit scales, half d: d s q.

    The third bit adds 4; q is then less 4.
    """
    d = from_half(load_u16(raw, at + 108))
    for half in range(2):
        for part in range(2):
            group = 8 * half + part
            d0, d1 = _scale_3(raw, at + 96, group, d), _scale_3(raw, at + 96, group + 2, d)
            d2, d3 = _scale_3(raw, at + 96, group + 4, d), _scale_3(raw, at + 96, group + 6, d)
            packed, first = at + 32 + 32 * half + 16 * part, to + 128 * half + 16 * part
            for i in range(16):
                q = load_u8(raw, packed + i)
                h = load_u8(raw, at + 16 * part + i)
                put(out, first + i, d0 * (to_float(field(q, 0, 2) | field(h, 4 * half, 1) << 2) - _FOUR))
                put(
                    out,
                    first + 32 + i,
                    d1 * (to_float(field(q, 2, 2) | field(h, 4 * half + 1, 1) << 2) - _FOUR),
                )
                put(
                    out,
                    first + 64 + i,
                    d2 * (to_float(field(q, 4, 2) | field(h, 4 * half + 2, 1) << 2) - _FOUR),
                )
                put(
                    out,
                    first + 96 + i,
                    d3 * (to_float(field(q, 6, 2) | field(h, 4 * half + 3, 1) << 2) - _FOUR),
                )


@inline
def _scale_and_min(raw: Any, at: int, group: int) -> tuple[int, int]:
    """6-bit scale and minimum `group` of 8: the first four are low bits of bytes, the others are split."""
    if group < 4:
        return load_u8(raw, at + group) & 63, load_u8(raw, at + 4 + group) & 63
    low = load_u8(raw, at + 4 + group)
    scale = low & 15 | load_u8(raw, at + group - 4) >> 6 << 4
    return scale, low >> 4 | load_u8(raw, at + group) >> 6 << 4


@inline
def q4_k(raw: Any, at: int, out: Any, to: int) -> None:
    """Half d, half dmin, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit q: d s q - dmin m."""
    d = from_half(load_u16(raw, at))
    dmin = from_half(load_u16(raw, at + 2))
    for pair in range(4):
        s0, m0 = _scale_and_min(raw, at + 4, 2 * pair)
        s1, m1 = _scale_and_min(raw, at + 4, 2 * pair + 1)
        d0, e0 = d * to_float(s0), dmin * to_float(m0)
        d1, e1 = d * to_float(s1), dmin * to_float(m1)
        for i in range(32):
            q = load_u8(raw, at + 16 + 32 * pair + i)
            put(out, to + 64 * pair + i, d0 * to_float(field(q, 0, 4)) - e0)
            put(out, to + 64 * pair + 32 + i, d1 * to_float(field(q, 4, 4)) - e1)


@inline
def q5_k(raw: Any, at: int, out: Any, to: int) -> None:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    d = from_half(load_u16(raw, at))
    dmin = from_half(load_u16(raw, at + 2))
    for pair in range(4):
        s0, m0 = _scale_and_min(raw, at + 4, 2 * pair)
        s1, m1 = _scale_and_min(raw, at + 4, 2 * pair + 1)
        d0, e0 = d * to_float(s0), dmin * to_float(m0)
        d1, e1 = d * to_float(s1), dmin * to_float(m1)
        for i in range(32):
            q = load_u8(raw, at + 48 + 32 * pair + i)
            h = load_u8(raw, at + 16 + i)
            put(out, to + 64 * pair + i, d0 * to_float(field(q, 0, 4) | field(h, 2 * pair, 1) << 4) - e0)
            put(
                out,
                to + 64 * pair + 32 + i,
                d1 * to_float(field(q, 4, 4) | field(h, 2 * pair + 1, 1) << 4) - e1,
            )


@inline
def q6_k(raw: Any, at: int, out: Any, to: int) -> None:
    """128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales s, half d: d s (q - 32)."""
    d = from_half(load_u16(raw, at + 208))
    for half in range(2):
        for part in range(2):
            scales = at + 192 + 8 * half + part
            d0, d1 = d * to_float(load_i8(raw, scales)), d * to_float(load_i8(raw, scales + 2))
            d2, d3 = d * to_float(load_i8(raw, scales + 4)), d * to_float(load_i8(raw, scales + 6))
            packed, first = at + 64 * half + 16 * part, to + 128 * half + 16 * part
            for i in range(16):
                h = load_u8(raw, at + 128 + 32 * half + 16 * part + i)
                q0, q1 = load_u8(raw, packed + i), load_u8(raw, packed + 32 + i)
                put(out, first + i, d0 * (to_float(field(q0, 0, 4) | field(h, 0, 2) << 4) - _THIRTY_TWO))
                put(out, first + 32 + i, d1 * (to_float(field(q1, 0, 4) | field(h, 2, 2) << 4) - _THIRTY_TWO))
                put(out, first + 64 + i, d2 * (to_float(field(q0, 4, 4) | field(h, 4, 2) << 4) - _THIRTY_TWO))
                put(out, first + 96 + i, d3 * (to_float(field(q1, 4, 4) | field(h, 6, 2) << 4) - _THIRTY_TWO))
