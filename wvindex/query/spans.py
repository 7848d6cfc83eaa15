"""Which bytes of an array some of its values need: whole blocks of each row, and their scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.query.memory import new_array


@dataclass(frozen=True)
class BlockSpan:
    """The blocks of a row that cover some of its values.

    Attributes
    ----------
    values : (int, int)
        Values [start, stop) that the blocks hold.
    data : (int, int)
        Their bytes in the encoded row.
    scales : (int, int)
        Columns of the row of scales that they need; (0, 0) without scales.
    """

    values: tuple[int, int]
    data: tuple[int, int]
    scales: tuple[int, int]

    @property
    def width(self) -> int:
        """Values that the blocks hold."""
        return self.values[1] - self.values[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.data[1] - self.data[0]


def block_span(spec: ArraySpec, start: int, stop: int) -> BlockSpan:
    """Give the blocks that cover values [start, stop) of a row."""
    encoding = spec.encoding
    scale_columns = encoding.scale_block[1] if encoding.scale_block else 0
    unit = scale_columns or encoding.block_size
    first, last = start // unit * unit, min(-(-stop // unit) * unit, spec.row_values)
    data = (encoding.row_bytes(first), encoding.row_bytes(last))
    scales = (first // scale_columns, -(-last // scale_columns)) if scale_columns else (0, 0)
    return BlockSpan((first, last), data, scales)


def scale_rows(spec: ArraySpec, start: int, stop: int) -> tuple[int, int]:
    """Give the rows of the array's scales that rows [start, stop) need."""
    if spec.encoding.scale_block is None or start >= stop:
        return 0, 0
    block_rows = spec.encoding.scale_block[0]
    of_matrix = -(-spec.matrix_rows // block_rows)

    def scale_row(row: int) -> int:
        matrix, within = divmod(row, spec.matrix_rows)
        return matrix * of_matrix + within // block_rows

    return scale_row(start), scale_row(stop - 1) + 1


def row_in_block(spec: ArraySpec, row: int) -> int:
    """Give where a row stands in its scale block; 0 without scales."""
    block = spec.encoding.scale_block
    return row % max(spec.matrix_rows, 1) % block[0] if block else 0


def read_scales(spec: ArraySpec, reader: RowReader, start: int, stop: int) -> NDArray[np.float32]:
    """Read the scales that rows [start, stop) need, all columns; shape (scale rows, scale columns)."""
    columns = spec.scale_shape[1] if spec.scale_shape else 0
    first, last = scale_rows(spec, start, stop)
    scales = new_array((last - first, columns), np.float32, spec, reader, (start, stop))
    if scales.size:
        reader.read_scales(first, last, bytes_of(scales))
    return scales


def bytes_of(array: NDArray[Any]) -> memoryview:
    """Give the memory of a C-contiguous array that is not empty, as bytes."""
    return array.reshape(-1).view(np.uint8).data
