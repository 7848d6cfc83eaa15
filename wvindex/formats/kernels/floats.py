"""Plain floats as blocks of one value, and FP8 codes that share a float32 scale by blocks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from wvindex.formats.kernels._factory import (
    TILE_VALUES,
    Kernel,
    compiled,
    inline,
    tile_dot,
)
from wvindex.formats.kernels._intrinsics import (
    from_bits,
    from_e4m3,
    from_e5m2,
    from_half,
    load_u8,
    load_u16,
    load_u32,
    put,
)
from wvindex.formats.kernels.table import MAX_VECTORS


@inline
def f32(raw: Any, at: int, out: Any, to: int) -> None:
    """A float32."""
    put(out, to, from_bits(load_u32(raw, at)))


@inline
def f16(raw: Any, at: int, out: Any, to: int) -> None:
    """A float16."""
    put(out, to, from_half(load_u16(raw, at)))


@inline
def bf16(raw: Any, at: int, out: Any, to: int) -> None:
    """A bfloat16: the upper half of a float32."""
    put(out, to, from_bits(load_u16(raw, at) << 16))


@inline
def _e4m3(codes: Any, at: int) -> Any:
    return from_e4m3(load_u8(codes, at))


@inline
def _e5m2(codes: Any, at: int) -> Any:
    return from_e5m2(load_u8(codes, at))


@inline
def f8_e4m3(raw: Any, at: int, out: Any, to: int) -> None:
    """An E4M3FN (OCP 8-bit floating point specification): no infinities."""
    put(out, to, _e4m3(raw, at))


@inline
def f8_e5m2(raw: Any, at: int, out: Any, to: int) -> None:
    """An E5M2 (OCP 8-bit floating point specification)."""
    put(out, to, _e5m2(raw, at))


_CODES: Final = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2}


def scaled_decode_kernel(name: str) -> Kernel:
    """Make ``decode(codes, code_stride, scales, block_rows, block_columns, first_row, out, ...)``.

    Parameters
    ----------
    name : str
        ``F8_E4M3`` or ``F8_E5M2``.

    Returns
    -------
    callable
        Of flat codes, float32 scales (2-D), where the first row stands in its block of scales, a flat
        array that `_intrinsics.put` takes and its stride, the number of rows and of columns.
    """
    value = _CODES[name]

    def decode(
        codes: Any,
        code_stride: int,
        scales: Any,
        block_rows: int,
        block_columns: int,
        first_row: int,
        out: Any,
        out_stride: int,
        n_rows: int,
        n_columns: int,
    ) -> None:
        for row in range(n_rows):
            at, to = row * code_stride, row * out_stride
            scale_row = (first_row + row) // block_rows
            for j in range(scales.shape[1]):
                scale = scales[scale_row, j]
                for i in range(j * block_columns, min((j + 1) * block_columns, n_columns)):
                    put(out, to + i, value(codes, at + i) * scale)

    return compiled(decode, f"decode_scaled_{name}")


def scaled_dot_kernel(name: str) -> Kernel:
    """Make ``dot(codes, code_stride, scales, block_rows, block_columns, first_row, vectors, out, ...)``.

    As `scaled_decode_kernel` and `_factory.dot_kernel` do; values are those of the former, rounded alike.
    """
    value = _CODES[name]

    def dot(
        codes: Any,
        code_stride: int,
        scales: Any,
        block_rows: int,
        block_columns: int,
        first_row: int,
        vectors: Any,
        out: Any,
        n_rows: int,
        n_columns: int,
    ) -> None:
        tile = np.empty(TILE_VALUES, np.float32)
        sums = np.empty(MAX_VECTORS, np.float64)
        for row in range(n_rows):
            sums[:] = 0
            for j in range(scales.shape[1]):
                scale = scales[(first_row + row) // block_rows, j]
                stop = min((j + 1) * block_columns, n_columns)
                for start in range(j * block_columns, stop, TILE_VALUES):
                    count = min(TILE_VALUES, stop - start)
                    for i in range(count):
                        put(tile, i, value(codes, row * code_stride + start + i) * scale)
                    for k in range(vectors.shape[0]):
                        sums[k] += tile_dot(tile, vectors[k], start, count)
            for k in range(vectors.shape[0]):
                out[k, row] = sums[k]

    return compiled(dot, f"dot_scaled_{name}")
