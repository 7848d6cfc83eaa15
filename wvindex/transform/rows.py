"""Encoded rows of arrays as they will stand in the store, made from source tensors when asked for.

Each class is a `RowReader`: it reads what it is asked for, when it is asked, and holds nothing. A planned
array is a small tree of them: rows of one tensor, several one under another, rows cast to another encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import RowReader
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import F32, Encoding
from wvindex.sources.base import Source, TensorInfo

TILE_VALUES: Final = 1 << 20
"""Values decoded at once where rows are cast: 4 MiB of float32."""


class Rows(RowReader, Protocol):
    """A RowReader that knows its own form: a matrix, or several of `matrix_rows` rows one under another."""

    @property
    def encoding(self) -> Encoding:
        """Of every row."""
        ...

    @property
    def n_rows(self) -> int:
        """Of all matrices together."""
        ...

    @property
    def row_values(self) -> int:
        """Values in a row."""
        ...

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: FP8 scale blocks restart there."""
        ...


@dataclass(frozen=True)
class SourceRows:
    """Rows of one source tensor, in place or in another order.

    Attributes
    ----------
    source : Source
    info : TensorInfo
    encoding : Encoding
        The tensor's own, with the scale block where it has scales.
    n_rows, row_values, matrix_rows : int
    first : int
        The tensor's row (all matrices flattened) where these begin.
    order : array of int64, shape (n_rows,), or None
        Which row, counted from `first`, stands in each place; None for their own order.
    scales : TensorInfo or None
        The float scales of FP8 codes, one row a row block.
    scale_first : int
        The row of `scales` that belongs to `first`.
    """

    source: Source
    info: TensorInfo
    encoding: Encoding
    n_rows: int
    row_values: int
    matrix_rows: int
    first: int = 0
    order: NDArray[np.int64] | None = None
    scales: TensorInfo | None = None
    scale_first: int = 0

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) from the file; scattered rows one run at a time."""
        row_bytes = self.encoding.row_bytes(self.row_values)
        left, right = span or (0, row_bytes)
        width = right - left
        if self.order is None and width == row_bytes:
            begin = (self.first + start) * row_bytes
            self.source.read(self.info, begin, begin + (stop - start) * row_bytes, out)
            return
        rows = np.arange(start, stop) if self.order is None else self.order[start:stop]
        if width == row_bytes and self._read_block(rows, row_bytes, out):
            return
        for place, row in enumerate(rows):
            begin = (self.first + int(row)) * row_bytes + left
            self.source.read(self.info, begin, begin + width, out[place * width : (place + 1) * width])

    def _read_block(self, rows: NDArray[np.int64], row_bytes: int, out: memoryview) -> bool:
        """Read all rows from the lowest to the highest at once where most of them are wanted."""
        if rows.size == 0:
            return True
        low, high = int(rows.min()), int(rows.max()) + 1
        if high - low > 2 * rows.size:
            return False
        begin = (self.first + low) * row_bytes
        block = self.source.read(self.info, begin, begin + (high - low) * row_bytes)
        raw = np.frombuffer(block, np.uint8).reshape(high - low, row_bytes)
        np.take(raw, rows - low, axis=0, out=np.frombuffer(out, np.uint8).reshape(rows.size, row_bytes))
        return True

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Read scale rows [start, stop), widened to float32."""
        if self.scales is None:
            return
        encoding, columns = self.scales.encoding, self.scales.shape[-1]
        row_bytes = encoding.row_bytes(columns)
        begin = (self.scale_first + start) * row_bytes
        block = self.source.read(self.scales, begin, begin + (stop - start) * row_bytes)
        values = np.frombuffer(out, np.float32).reshape(stop - start, columns)
        decode_rows(np.frombuffer(block, np.uint8).reshape(stop - start, row_bytes), encoding, values)


def decoded(rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
    """Decode rows [start, stop) to float32, shape (stop - start, row_values).

    Scale rows are read for each matrix that the range touches.
    """
    n, row_bytes = rows.row_values, rows.encoding.row_bytes(rows.row_values)
    values = np.empty((stop - start, n), np.float32)
    if rows.encoding == F32:
        rows.read_rows(start, stop, byte_view(values))
        return values
    raw = np.empty((stop - start, row_bytes), np.uint8)
    rows.read_rows(start, stop, byte_view(raw))
    block = rows.encoding.scale_block
    if block is None:
        decode_rows(raw, rows.encoding, values)
        return values
    for first, last in _within_matrices(start, stop, rows.matrix_rows):
        part = slice(first - start, last - start)
        inside = first % rows.matrix_rows
        scales = _scales(rows, first // rows.matrix_rows, inside, inside + last - first, block)
        decode_rows(raw[part], rows.encoding, values[part], scales=scales, first_row=inside % block[0])
    return values


def byte_view(array: NDArray[Any]) -> memoryview:
    """Give the bytes of a contiguous array, also of an empty one."""
    return array.reshape(-1).view(np.uint8).data


def _scales(rows: Rows, matrix: int, start: int, stop: int, block: tuple[int, int]) -> NDArray[np.float32]:
    """Read the scales of rows [start, stop) of one matrix."""
    first, last = start // block[0], -(-stop // block[0])
    offset = matrix * -(-rows.matrix_rows // block[0])
    scales = np.empty((last - first, -(-rows.row_values // block[1])), np.float32)
    rows.read_scales(offset + first, offset + last, byte_view(scales))
    return scales


def _within_matrices(start: int, stop: int, matrix_rows: int) -> list[tuple[int, int]]:
    """Cut [start, stop) where matrices end."""
    cuts = [start, *range((start // matrix_rows + 1) * matrix_rows, stop, matrix_rows), stop]
    return [(a, b) for a, b in pairwise(cuts) if b > a]
