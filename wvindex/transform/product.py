"""Rows of a matrix product, worked tile by tile from a factor that is read as it is needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.decode import encode_plain
from wvindex.formats.encodings import F32, Encoding
from wvindex.transform.rope import Order
from wvindex.transform.rows import Rows, byte_view, decoded

Floats = NDArray[np.float32]

TILE_BYTES: Final = 32 << 20
"""Output asked for at once."""

_MULTIPLY_BYTES: Final = 16 << 20
"""Output of one matrix product: enough rows for BLAS to run at full speed."""


@dataclass(frozen=True)
class Factor:
    """The right factor of a product, and rows that are copied beside it.

    Attributes
    ----------
    right : array of float32, shape (rank, width)
    tail : array of float32, shape (n, width)
    """

    right: Floats
    tail: Floats


class LatestFactor:
    """Holds the factor that was made last, and no other: a layer's arrays share theirs, and layers don't."""

    def __init__(self) -> None:
        self._held: tuple[Hashable, Factor] | None = None

    def get(self, key: Hashable, make: Callable[[], Factor]) -> Factor:
        """Give the factor under `key`, made now unless it was the last."""
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of the old one before the new one takes its memory
            self._held = (key, make())
        return self._held[1]


@dataclass(frozen=True)
class ProductRows:
    """Rows of (left diag(gamma)) right, in any order, mixed with rows that are copied.

    Attributes
    ----------
    left : Rows
        Decoded to float32 tile by tile, shape (n_left, rank).
    index : array of int64, shape (n_rows,)
        For each output row its row of `left`, or ~i for row i of the factor's tail.
    gamma : callable
        Gives the array of float32, shape (rank,).
    factor : callable
        Gives the right factor and the tail.
    width : int
        Columns of the right factor.
    encoding : Encoding
        F32, F16 or BF16; products are float32 whatever is written.
    fixed_bytes : int
        Memory that the factor takes, for the plan's estimate.
    """

    left: Rows
    index: Order
    gamma: Callable[[], Floats]
    factor: Callable[[], Factor]
    width: int
    encoding: Encoding = F32
    fixed_bytes: int = 0

    @property
    def n_rows(self) -> int:
        """Output rows."""
        return self.index.size

    @property
    def matrix_rows(self) -> int:
        """Output rows: one matrix."""
        return self.index.size

    @property
    def row_values(self) -> int:
        """Columns of the right factor."""
        return self.width

    @property
    def preferred_tile_bytes(self) -> int:
        """How much output is worth asking for at once."""
        return TILE_BYTES

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Work rows [start, stop); a span is cut from whole rows."""
        tile = max(1, _MULTIPLY_BYTES // (4 * max(self.width, self.left.row_values, 1)))
        whole = span is None or span == (0, self.encoding.row_bytes(self.width))
        for first in range(start, stop, tile):
            last = min(first + tile, stop)
            if whole and self.encoding == F32:  # straight into the caller's buffer
                values = np.frombuffer(out, np.float32).reshape(stop - start, self.width)
                self._multiply(first, last, values[first - start : last - start])
                continue
            values = np.empty((last - first, self.width), np.float32)
            self._multiply(first, last, values)
            left, right = span or (0, self.encoding.row_bytes(self.width))
            encoded = np.empty(values.shape, self.encoding.dtype)
            encode_plain(values, self.encoding, encoded)
            cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
            cut[first - start : last - start] = encoded.view(np.uint8)[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""

    def _multiply(self, start: int, stop: int, out: Floats) -> None:
        index, factor = self.index[start:stop], self.factor()
        products = index >= 0
        if products.all():
            np.matmul(self._left(index), factor.right, out=out)
            return
        out[~products] = factor.tail[~index[~products]]
        out[products] = self._left(index[products]) @ factor.right

    def _left(self, index: Order) -> Floats:
        """Give rows `index` of the left factor times gamma, shape (index.size, rank)."""
        if index.size == 0:
            return np.empty((0, self.left.row_values), np.float32)
        low, high = int(index.min()), int(index.max()) + 1
        rows: Floats = decoded(self.left, low, high)[index - low] * self.gamma()
        return rows


@dataclass(frozen=True)
class ArrayRows:
    """Rows of a float32 matrix in memory."""

    array: Floats
    encoding: Encoding = F32

    @property
    def n_rows(self) -> int:
        """Rows."""
        return int(self.array.shape[0])

    @property
    def matrix_rows(self) -> int:
        """Rows: one matrix."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Columns."""
        return int(self.array.shape[1])

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Copy rows [start, stop)."""
        left, right = span or (0, 4 * self.row_values)
        rows = np.ascontiguousarray(self.array[start:stop]).view(np.uint8)
        out[:] = byte_view(np.ascontiguousarray(rows[:, left:right]))

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


@dataclass(frozen=True)
class TransposedRows:
    """The rows of each matrix of a stack, transposed: (n, r, c) read as (n * c, r), in float32.

    llama.cpp's ``attn_k_b`` holds each head's key factor as (kv_lora_rank, nope).
    """

    stack: Rows
    encoding: Encoding = F32

    @property
    def n_rows(self) -> int:
        """Columns of all matrices."""
        return self.stack.n_rows // self.stack.matrix_rows * self.stack.row_values

    @property
    def matrix_rows(self) -> int:
        """All rows: one matrix."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Rows of one matrix."""
        return self.stack.matrix_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Decode and turn each matrix that rows [start, stop) touch."""
        columns, height = self.stack.row_values, self.stack.matrix_rows
        left, right = span or (0, 4 * height)
        cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        row = start
        while row < stop:
            matrix, column = divmod(row, columns)
            last = min(stop, (matrix + 1) * columns)
            values = decoded(self.stack, matrix * height, (matrix + 1) * height)
            turned = np.ascontiguousarray(values[:, column : column + last - row].T)
            cut[row - start : last - start] = turned.view(np.uint8)[:, left:right]
            row = last

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""
