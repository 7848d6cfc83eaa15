"""How encoded rows and their scales stand in a chunk, and which of them a selection needs.

A chunk is ``(rows, columns)`` of a matrix, ``(1, rows, columns)`` of one matrix of a stack, or the whole of a
vector: the encoded rows one after another, then, for FP8 with scales, the float32 scales of these rows,
little-endian, row by row, ceil(rows / block_rows) x ceil(columns / block_columns). Rows of a full chunk are a
multiple of block_rows, unless the chunk is the whole matrix. The last chunk along the rows may be short:
exactly `edge_rows` rows and their scales, without padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import ChunkError
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import Encoding

_SCALE_BYTES: Final = 4


@dataclass(frozen=True)
class ChunkLayout:
    """Where rows and scales stand in the chunks of one array.

    Attributes
    ----------
    encoding : Encoding
        Packed, or FP8 with a scale block.
    shape : tuple of int
        Of a full chunk.
    edge_rows : int
        Rows of the last chunk; `rows` where all are full.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    edge_rows: int

    @property
    def rows(self) -> int:
        """Rows of a full chunk."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Encoded bytes of a row."""
        return self.encoding.row_bytes(self.columns)

    @property
    def scale_row_bytes(self) -> int:
        """Bytes of a row of scales; 0 without scales."""
        block = self.encoding.scale_block
        return -(-self.columns // block[1]) * _SCALE_BYTES if block else 0

    def scale_rows(self, rows: int) -> int:
        """Rows of scales that so many rows need."""
        block = self.encoding.scale_block
        return -(-rows // block[0]) if block else 0

    def nbytes(self, rows: int) -> int:
        """Bytes of a chunk of so many rows."""
        return rows * self.row_bytes + self.scale_rows(rows) * self.scale_row_bytes

    def rows_in(self, nbytes: int, name: str | None = None) -> int:
        """Rows of a chunk of so many bytes: a full one, or the last.

        Raises
        ------
        ChunkError
            If it is neither's length.
        """
        lengths = {self.nbytes(rows): rows for rows in (self.edge_rows, self.rows)}
        if nbytes not in lengths:
            expected = " or ".join(str(n) for n in sorted(lengths)) + " bytes"
            raise ChunkError("a chunk has the wrong length", file=name, expected=expected, found=nbytes)
        return lengths[nbytes]

    def scale_range(self, rows: int, start: int, stop: int) -> tuple[int, int]:
        """Bytes [first, last) of the scales that rows [start, stop) of a chunk of `rows` need."""
        block_rows = self.encoding.scale_block[0] if self.encoding.scale_block else 1
        first, last = start // block_rows, self.scale_rows(stop)
        base = rows * self.row_bytes
        return base + first * self.scale_row_bytes, base + last * self.scale_row_bytes

    def decode(
        self, codes: NDArray[np.uint8], scales: NDArray[np.uint8] | None, start: int, out: NDArray[np.float32]
    ) -> None:
        """Decode rows from `start` on into `out` (n_rows, columns), from the bytes of rows and scales."""
        rows = codes.reshape(len(out), self.row_bytes)
        block = self.encoding.scale_block
        if block is None or scales is None:
            decode_rows(rows, self.encoding, out)
            return
        values = scales.copy().view("<f4").reshape(-1, self.scale_row_bytes // _SCALE_BYTES)
        decode_rows(rows, self.encoding, out, scales=values, first_row=start % block[0])

    def decode_chunk(self, raw: NDArray[np.uint8], fill: Any, name: str | None = None) -> NDArray[np.float32]:
        """Decode a whole chunk; rows beyond a short one are `fill`."""
        rows = self.rows_in(raw.size, name)
        out = np.empty((self.rows, self.columns), np.float32)
        n = rows * self.row_bytes
        self.decode(raw[:n], raw[n:], 0, out[:rows])
        out[rows:] = fill
        return out.reshape(self.shape)


@dataclass(frozen=True)
class RowSelection:
    """A chunk's selection, split: rows [start, stop) to read, and what to take of them."""

    start: int
    stop: int
    within: tuple[Any, ...]


def split_selection(selection: Any, layout: ChunkLayout) -> RowSelection | None:
    """Split a selection of a chunk; None where no bounds on the rows are known, or the chunk is one row."""
    selection = selection if isinstance(selection, tuple) else (selection,)
    shape = layout.shape
    if len(shape) < 2 or len(selection) != len(shape):
        return None
    bounds = _bounds(selection[-2], shape[-2])
    if bounds is None:
        return None
    start, stop, within = bounds
    return RowSelection(start, stop, (*selection[:-2], within, selection[-1]))


def _bounds(selector: Any, n_rows: int) -> tuple[int, int, Any] | None:
    """Give the rows [start, stop) that hold all of `selector`, and `selector` counted from `start`."""
    if isinstance(selector, slice):
        chosen = range(n_rows)[selector]
        if chosen.step < 0:
            return None
        return (chosen[0], chosen[-1] + 1, slice(0, None, chosen.step)) if chosen else (0, 0, slice(0))
    if isinstance(selector, int | np.integer) and not isinstance(selector, bool):
        row = int(selector) % n_rows if -n_rows <= selector < n_rows else None
        return None if row is None else (row, row + 1, 0)
    if isinstance(selector, np.ndarray) and selector.dtype.kind in "iu" and selector.size:
        first, last = int(selector.min()), int(selector.max())
        return (first, last + 1, selector - first) if first >= 0 and last < n_rows else None
    return None
