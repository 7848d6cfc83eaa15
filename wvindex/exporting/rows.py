"""Rows of a checkpoint's tensor made again from rows of a store's arrays; each class is `Rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wvindex.formats.decode import encode_plain
from wvindex.formats.encodings import Encoding
from wvindex.transform.combine import Cast, Concat, JoinedVectors
from wvindex.transform.product import TransposedRows
from wvindex.transform.rope import Order
from wvindex.transform.rows import Rows, byte_view


@dataclass(frozen=True)
class Section:
    """Rows [first, last) of an array, with the scales of FP8 codes.

    With scales, `first` begins a block within its matrix, and no matrix is cut but at its blocks.
    """

    rows: Rows
    first: int
    last: int

    @property
    def encoding(self) -> Encoding:
        """The array's."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """Rows of the section."""
        return self.last - self.first

    @property
    def matrix_rows(self) -> int:
        """Rows of the section: one matrix, unless it is of several."""
        return min(self.n_rows, self.rows.matrix_rows)

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return self.rows.row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) of the section."""
        self.rows.read_rows(self.first + start, self.first + stop, out, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Read rows [start, stop) of the section's scales."""
        block = self.encoding.scale_block
        if block is None:
            return
        matrix, inside = divmod(self.first, self.rows.matrix_rows)
        offset = matrix * -(-self.rows.matrix_rows // block[0]) + inside // block[0]
        self.rows.read_scales(offset + start, offset + stop, out)


@dataclass(frozen=True)
class OrderedRows:
    """Rows without scales in another order, read in blocks: an order moves rows within their heads."""

    rows: Rows
    order: Order

    @property
    def encoding(self) -> Encoding:
        """As before."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """As many as the order names."""
        return int(self.order.size)

    @property
    def matrix_rows(self) -> int:
        """All rows: one matrix."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return self.rows.row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read everything from the lowest row that is wanted to the highest, and pick."""
        if start >= stop:
            return
        left, right = span or (0, self.encoding.row_bytes(self.row_values))
        wanted = self.order[start:stop]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        block = np.empty((high - low, right - left), np.uint8)
        self.rows.read_rows(low, high, byte_view(block), span=span)
        cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        np.take(block, wanted - low, axis=0, out=cut)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


@dataclass(frozen=True)
class OrderedVector:
    """A vector with its values in another order."""

    rows: Rows
    order: Order

    n_rows = 1
    matrix_rows = 1

    @property
    def encoding(self) -> Encoding:
        """As before."""
        return self.rows.encoding

    @property
    def row_values(self) -> int:
        """As many as the order names."""
        return int(self.order.size)

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the vector, or bytes [span[0], span[1]) of it."""
        size = self.encoding.type_size
        whole = np.empty((self.row_values, size), np.uint8)
        self.rows.read_rows(0, 1, byte_view(whole))
        left, right = span or (0, whole.size)
        if stop > start:
            out[:] = byte_view(whole[self.order])[left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Vectors have no scales."""


@dataclass(frozen=True)
class ScaleRows:
    """The float32 scales of FP8 codes as a tensor of their own, in the encoding that it had.

    Attributes
    ----------
    rows : Rows
        The codes.
    encoding : Encoding
        F32, F16 or BF16: what the store widened them from.
    """

    rows: Rows
    encoding: Encoding

    @property
    def n_rows(self) -> int:
        """Blocks of rows, of all matrices."""
        height, matrix = self._block[0], self.rows.matrix_rows
        return self.rows.n_rows // max(matrix, 1) * -(-matrix // height)

    @property
    def matrix_rows(self) -> int:
        """All rows."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Blocks of columns."""
        return -(-self.rows.row_values // self._block[1])

    @property
    def _block(self) -> tuple[int, int]:
        return self.rows.encoding.scale_block or (1, 1)

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) of the scales, narrowed: they were widened, so nothing is rounded."""
        values = np.empty((stop - start, self.row_values), np.float32)
        self.rows.read_scales(start, stop, byte_view(values))
        encoded = np.empty(values.shape, self.encoding.dtype)
        encode_plain(values, self.encoding, encoded)
        left, right = span or (0, self.encoding.row_bytes(self.row_values))
        cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        cut[...] = encoded.view(np.uint8)[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Scales have no scales."""


@dataclass(frozen=True)
class Bytes:
    """Rows that are in memory."""

    data: bytes
    encoding: Encoding
    row_values: int

    @property
    def n_rows(self) -> int:
        """Rows."""
        width = self.encoding.row_bytes(self.row_values)
        return len(self.data) // width if width else 0

    @property
    def matrix_rows(self) -> int:
        """All rows."""
        return self.n_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Copy rows [start, stop)."""
        width = self.encoding.row_bytes(self.row_values)
        left, right = span or (0, width)
        whole = np.frombuffer(self.data, np.uint8).reshape(-1, width)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[...] = whole[start:stop, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


def joined(parts: Sequence[Rows], *, vectors: bool) -> Rows:
    """Give rows of several parts, one under another; of vectors, their values one after another."""
    if len(parts) == 1:
        return parts[0]
    return JoinedVectors(tuple(parts)) if vectors else Concat(parts, stacked=False)


def expert_rows(stack: Rows, expert: int) -> Rows:
    """Give one matrix of a stack."""
    height = stack.matrix_rows
    return Section(stack, expert * height, (expert + 1) * height)


def plus_one(rows: Rows) -> Rows:
    """Give norm weights w as 1 + w, in the encoding that they have."""
    return Cast(rows, rows.encoding, subtract=-1.0)


def keys_of(kv_b: Rows, heads: int, nope: int, width: int) -> Rows:
    """Give llama.cpp's ``attn_k_b``, each head's (kv_lora_rank, nope), of a ``kv_b_proj``.

    Parameters
    ----------
    kv_b : Rows
        Plain, (heads * width, kv_lora_rank): each head's `nope` key rows, then its value rows.
    heads, nope, width : int
    """
    parts = [Section(kv_b, head * width, head * width + nope) for head in range(heads)]
    turned = TransposedRows(Concat(parts, stacked=True))
    return turned if kv_b.encoding == turned.encoding else Cast(turned, kv_b.encoding)


def values_of(kv_b: Rows, heads: int, nope: int, width: int) -> Rows:
    """Give llama.cpp's ``attn_v_b``, each head's (v_head_dim, kv_lora_rank), of a ``kv_b_proj``."""
    parts = [Section(kv_b, head * width + nope, (head + 1) * width) for head in range(heads)]
    return Concat(parts, stacked=True)


def in_standard_order(order: Order) -> Order:
    """Give the order that undoes `order`."""
    inverse: Order = np.argsort(order, kind="stable")
    return inverse
