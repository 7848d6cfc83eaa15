"""Rows of experts as some families store them: MXFP4 in two tensors, every other row, biases in a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.mxfp4 import BLOCK_CODES, MXFP4
from wvindex.formats.encodings import Encoding
from wvindex.sources.base import Source, TensorInfo
from wvindex.transform.rows import Rows

_TURNED_BYTES: Final = 16 << 20
"""Read or written at once where matrices are turned: a matrix of GPT-OSS, and no more than that."""


@dataclass(frozen=True)
class JoinedBlocks:
    """MXFP4 rows as GGML's blocks, from a tensor of codes and one of exponents; no code is changed.

    GGML's block (``block_mxfp4``, ggml-common.h) is the exponent, then 16 bytes with value i in the low half
    of byte i and value i + 16 in the high one; see `wvindex.arch.mxfp4` for the source's order.

    Attributes
    ----------
    source : Source
    codes : TensorInfo
        As `PackedPair.weight` has it.
    exponents : TensorInfo
    n_rows, row_values, matrix_rows : int
    first : int
        The row (all matrices flattened) where these begin.
    """

    source: Source
    codes: TensorInfo
    exponents: TensorInfo
    n_rows: int
    row_values: int
    matrix_rows: int
    first: int = 0

    @property
    def encoding(self) -> Encoding:
        """MXFP4."""
        return MXFP4

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop); a span is cut from whole rows."""
        blocks = self.row_values // MXFP4.block_size
        shape = (stop - start, blocks)
        first, last = (self.first + start) * blocks, (self.first + stop) * blocks
        codes = np.frombuffer(
            self.source.read(self.codes, first * BLOCK_CODES, last * BLOCK_CODES), np.uint8
        ).reshape(*shape, BLOCK_CODES)
        joined = np.empty((*shape, MXFP4.type_size), np.uint8)
        joined[..., 0] = np.frombuffer(self.source.read(self.exponents, first, last), np.uint8).reshape(shape)
        half = BLOCK_CODES // 2  # bytes of the block's first 16 values
        low, high = codes[..., :half], codes[..., half:]
        joined[..., 1::2] = (low & 0x0F) | (high << 4)  # values 0, 2, ..., 14 and 16, 18, ..., 30
        joined[..., 2::2] = (low >> 4) | (high & 0xF0)  # values 1, 3, ..., 15 and 17, 19, ..., 31
        left, right = span or (0, MXFP4.row_bytes(self.row_values))
        rows = joined.reshape(stop - start, blocks * MXFP4.type_size)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[:] = rows[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """The exponents stand in the blocks."""


@dataclass(frozen=True)
class Turned:
    """Plain matrices of a stack, transposed: (n, r, c) read as (n * c, r), or every `step`-th of the c.

    Attributes
    ----------
    stack : Rows
        Of a plain encoding; no value is decoded.
    columns : range or None
        Which columns of a matrix become rows; None for all.
    """

    stack: Rows
    columns: range | None = None

    @property
    def encoding(self) -> Encoding:
        """As before the turn."""
        return self.stack.encoding

    @property
    def _chosen(self) -> range:
        return range(self.stack.row_values) if self.columns is None else self.columns

    @property
    def n_rows(self) -> int:
        """Columns of all matrices that are chosen."""
        return self.stack.n_rows // self.stack.matrix_rows * self.matrix_rows

    @property
    def matrix_rows(self) -> int:
        """Columns of a matrix that are chosen."""
        return len(self._chosen)

    @property
    def row_values(self) -> int:
        """Rows of a matrix."""
        return self.stack.matrix_rows

    @property
    def preferred_tile_bytes(self) -> int:
        """How much is worth asking for at once: each tile goes through a whole matrix."""
        return _TURNED_BYTES

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the matrices that rows [start, stop) touch, some rows at a time; a span is cut afterwards."""
        height, size = self.row_values, self.encoding.type_size
        turned = np.empty((stop - start, height, size), np.uint8)
        row = start
        while row < stop:
            matrix, first = divmod(row, self.matrix_rows)
            last = min(stop - row + first, self.matrix_rows)
            chosen = self._chosen[first:last]
            self._turn(matrix, chosen, turned[row - start : row - start + len(chosen)])
            row += len(chosen)
        left, right = span or (0, height * size)
        rows = turned.reshape(stop - start, height * size)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[:] = rows[:, left:right]

    def _turn(self, matrix: int, columns: range, out: NDArray[np.uint8]) -> None:
        """Put columns of a matrix into the rows of `out`, (len(columns), height, type_size)."""
        height, size = self.row_values, self.encoding.type_size
        low, high = columns[0], columns[-1] + 1
        step = max(1, _TURNED_BYTES // ((high - low) * size))
        for top in range(0, height, step):
            bottom = min(top + step, height)
            block = np.empty((bottom - top, high - low, size), np.uint8)
            span = None if high - low == self.stack.row_values else (low * size, high * size)
            first = matrix * height
            self.stack.read_rows(first + top, first + bottom, block.reshape(-1).data, span=span)
            out[:, top:bottom] = block[:, :: columns.step].swapaxes(0, 1)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain values have no scales."""


@dataclass(frozen=True)
class EveryNth:
    """Rows `first`, `first` + `step`, ... below `stop` of one matrix."""

    rows: Rows
    first: int
    step: int
    stop: int

    @property
    def encoding(self) -> Encoding:
        """As before the choice."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """Rows that are left."""
        return len(range(self.first, self.stop, self.step))

    @property
    def matrix_rows(self) -> int:
        """Rows that are left: one matrix."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """As before the choice."""
        return self.rows.row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read from the first of the rows to the last, and take every `step`-th."""
        if stop <= start:
            return
        left, right = span or (0, self.encoding.row_bytes(self.row_values))
        first, last = self.first + start * self.step, self.first + (stop - 1) * self.step + 1
        block = np.empty((last - first, right - left), np.uint8)
        self.rows.read_rows(first, last, block.reshape(-1).data, span=span)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[:] = block[:: self.step]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Rows that are chosen one by one have no scale blocks."""


@dataclass(frozen=True)
class Folded:
    """A column of values, one a row, read as rows of `row_values`."""

    rows: Rows
    row_values: int

    @property
    def encoding(self) -> Encoding:
        """The column's."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """Rows that the column makes."""
        return self.rows.n_rows // self.row_values

    @property
    def matrix_rows(self) -> int:
        """All rows: one matrix."""
        return self.n_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop); a span is cut from whole rows."""
        row_bytes = self.encoding.row_bytes(self.row_values)
        left, right = span or (0, row_bytes)
        whole = np.empty((stop - start, row_bytes), np.uint8)
        if stop > start:
            self.rows.read_rows(start * self.row_values, stop * self.row_values, whole.reshape(-1).data)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[:] = whole[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain values have no scales."""
