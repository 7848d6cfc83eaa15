"""Lazy tensors over encoded rows in memory, without a store or a file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, Heads
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.query.lazy import Tensor


class RowsInMemory:
    """A RowReader over rows (n_rows, row_bytes) and scales."""

    def __init__(self, raw: NDArray[np.uint8], scales: NDArray[np.float32] | None = None) -> None:
        self.raw = raw
        self.scales = scales

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        rows = self.raw[start:stop, slice(*span)] if span else self.raw[start:stop]
        out[:] = rows.tobytes()

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        assert self.scales is not None
        out[:] = self.scales[start:stop].tobytes()


def plain_tensor(values: NDArray[Any], *, heads: Heads | None = None, key: str = "w") -> Tensor:
    """Give the tensor of plain values."""
    encoding = next(e for e in ENCODINGS.values() if e.dtype == values.dtype)
    width = values.shape[-1] if values.shape else 1
    n_rows = math.prod(values.shape[:-1])
    raw = np.frombuffer(values.tobytes(), np.uint8).reshape(n_rows, width * values.itemsize)
    return _tensor(values.shape, encoding, RowsInMemory(raw), heads, key)


def encoded_tensor(
    raw: NDArray[np.uint8],
    encoding: Encoding,
    scales: NDArray[np.float32] | None = None,
    *,
    heads: Heads | None = None,
) -> Tensor:
    """Give the matrix of encoded rows."""
    width = raw.shape[1] // encoding.type_size * encoding.block_size
    return _tensor((len(raw), width), encoding, RowsInMemory(raw, scales), heads, "w")


def _tensor(
    shape: tuple[int, ...], encoding: Encoding, reader: RowsInMemory, heads: Heads | None, key: str
) -> Tensor:
    spec = ArraySpec(key=key, shape=shape, encoding=encoding, exactness="bit", sources=(), heads=heads)
    return Tensor(spec, reader)
