"""Stacks of experts as some families store them: rows woven, biases side by side, MXFP4 in two tensors.

Each class undoes one of `wvindex.transform.experts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.mxfp4 import BLOCK_CODES, MXFP4
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.transform.rows import Rows, byte_view

_U8 = ENCODINGS["U8"]


@dataclass(frozen=True)
class Woven:
    """Rows of several stacks in turns: the first of each, then the second of each; all of one size.

    Rows have no scale blocks.
    """

    parts: tuple[Rows, ...]

    @property
    def encoding(self) -> Encoding:
        """The parts' own."""
        return self.parts[0].encoding

    @property
    def n_rows(self) -> int:
        """Of all parts."""
        return sum(part.n_rows for part in self.parts)

    @property
    def matrix_rows(self) -> int:
        """Of a matrix of each part."""
        return sum(part.matrix_rows for part in self.parts)

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return self.parts[0].row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read what each part has of rows [start, stop), and put it in its places."""
        left, right = span or (0, self.encoding.row_bytes(self.row_values))
        woven = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        step = len(self.parts)
        for number, part in enumerate(self.parts):
            first, last = (-((number - row) // step) for row in (start, stop))
            if first < last:
                block = np.empty((last - first, right - left), np.uint8)
                part.read_rows(first, last, byte_view(block), span=span)
                woven[first * step + number - start :: step] = block

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """There are none."""


@dataclass(frozen=True)
class SideBySide:
    """Rows whose values are those of several arrays' rows, each in columns of its own.

    Attributes
    ----------
    parts : tuple of Rows
        Plain, of one encoding and of as many rows.
    columns : tuple of range
        Where the values of each stand.
    """

    parts: tuple[Rows, ...]
    columns: tuple[range, ...]

    @property
    def encoding(self) -> Encoding:
        """The parts' own."""
        return self.parts[0].encoding

    @property
    def n_rows(self) -> int:
        """As many as each part has."""
        return self.parts[0].n_rows

    @property
    def matrix_rows(self) -> int:
        """All rows."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Of all parts together."""
        return sum(len(columns) for columns in self.columns)

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) of every part; a span is cut from whole rows."""
        size = self.encoding.type_size
        rows = np.empty((stop - start, self.row_values, size), np.uint8)
        for part, columns in zip(self.parts, self.columns, strict=True):
            block = np.empty((stop - start, len(columns), size), np.uint8)
            part.read_rows(start, stop, byte_view(block))
            rows[:, columns.start : columns.stop : columns.step] = block
        left, right = span or (0, self.row_values * size)
        flat = rows.reshape(stop - start, self.row_values * size)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[...] = flat[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain values have no scales."""


@dataclass(frozen=True)
class PackedPart:
    """The codes or the exponents of MXFP4 rows, in the order in which safetensors has them, as U8.

    Attributes
    ----------
    rows : Rows
        In MXFP4, as GGML has it.
    part : {"codes", "exponents"}
        Rows of 16 bytes, one a block; or rows of as many exponents as a row has blocks.
    """

    rows: Rows
    part: Literal["codes", "exponents"]

    @property
    def encoding(self) -> Encoding:
        """U8."""
        return _U8

    @property
    def _blocks(self) -> int:
        """Blocks in a row."""
        return self.rows.row_values // MXFP4.block_size

    @property
    def n_rows(self) -> int:
        """A row a block for codes."""
        return self.rows.n_rows * (self._blocks if self.part == "codes" else 1)

    @property
    def matrix_rows(self) -> int:
        """All rows."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """Bytes in a row."""
        return BLOCK_CODES if self.part == "codes" else self._blocks

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the blocks that rows [start, stop) are of; a span is cut from whole rows."""
        per_row = self._blocks if self.part == "codes" else 1
        first, last = start // per_row, -(-stop // per_row)
        joined = np.empty((last - first, self._blocks, MXFP4.type_size), np.uint8)
        self.rows.read_rows(first, last, byte_view(joined))
        if self.part == "codes":
            blocks = joined.reshape(-1, MXFP4.type_size)[start - first * per_row : stop - first * per_row]
            values = _codes(blocks)
        else:
            values = joined[..., 0]
        left, right = span or (0, self.row_values)
        np.frombuffer(out, np.uint8).reshape(stop - start, right - left)[...] = values[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """The exponents are rows of their own."""


def _codes(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give codes by two neighbours a byte, (n, 16), of GGML's blocks, (n, 17); see `wvindex.arch.mxfp4`."""
    even, odd = blocks[:, 1::2], blocks[:, 2::2]  # values 0, 2, ... and 16, 18, ...; 1, 3, ... and 17, ...
    low = (even & 0x0F) | (odd << 4)
    high = (even >> 4) | (odd & 0xF0)
    return np.concatenate([low, high], axis=1)
