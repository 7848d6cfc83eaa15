"""FP8 codes whose blocks of scales do not line up, brought to other blocks.

Scales stand for blocks of rows (DeepSeek-V3: 128 x 128, arXiv:2412.19437, section 3.3). Where rows move by no
multiple of a block's height, a new block holds rows of two old ones. It gets the larger of their scales,
column block by column block: rows that had it keep their codes, the others are rounded to nearest even. No
value grows beyond what a code holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.converting.plan import Change
from wvindex.errors import UnsupportedError
from wvindex.sources.base import Source, TensorInfo


@dataclass(frozen=True)
class ScaledRows:
    """Rows of an FP8 matrix with scales.

    Attributes
    ----------
    codes, scales : TensorInfo
    block : (int, int)
        Rows and columns that share a scale.
    first, stop : int
        Which rows.
    """

    codes: TensorInfo
    scales: TensorInfo
    block: tuple[int, int]
    first: int
    stop: int


@dataclass(frozen=True)
class _Piece:
    """Rows of one old block, and where they stand in the new matrix."""

    rows: ScaledRows
    first: int
    stop: int
    place: int


class Requantized:
    """Rows of FP8 matrices, one under another, with blocks of scales that begin at the first of them.

    Parameters
    ----------
    source : Source
    parts : sequence of ScaledRows
        All of one encoding, one block and one width, their scales of one encoding.
    """

    def __init__(self, source: Source, parts: Sequence[ScaledRows]) -> None:
        self._source = source
        self._parts = tuple(parts)
        self._block = parts[0].block
        self._width = parts[0].codes.shape[-1]
        self.n_rows = sum(part.stop - part.first for part in parts)
        self._codes_dtype = _dtype(parts[0].codes)
        self._scales_dtype = _dtype(parts[0].scales)
        self._band: tuple[int, NDArray[np.uint8]] | None = None

    @property
    def nbytes(self) -> int:
        """Of the codes."""
        return self.n_rows * self._width

    def read(self, start: int, out: memoryview) -> None:
        """Fill `out` with codes from byte `start`."""
        done, height = 0, self._block[0]
        while done < len(out):
            row, column = divmod(start + done, self._width)
            band = self._codes_of(row // height)
            offset = row % height * self._width + column
            count = min(len(out) - done, band.size - offset)
            out[done : done + count] = band[offset : offset + count].data
            done += count

    def scales(self) -> bytes:
        """Give the scales of all blocks, in the encoding that the source's have."""
        return b"".join(self._scales_of(block).tobytes() for block in range(self._n_blocks))

    def changes(self) -> list[Change]:
        """Decode everything, old and new, and tell which tensors change, and by how much."""
        counts: dict[str, tuple[int, float]] = {part.codes.name: (0, 0.0) for part in self._parts}
        for block in range(self._n_blocks):
            scales = self._scales_of(block)
            for piece in self._pieces(block):
                old = self._decoded(piece, self._piece_scales(piece))
                codes = self._piece_codes(piece, scales)
                new = codes.view(self._codes_dtype).astype(np.float32) * self._spread(scales)
                with np.errstate(all="ignore"):
                    differ = (old != new) & ~(np.isnan(old) & np.isnan(new))
                    most = float(np.abs(old - new)[differ].max(initial=0.0))
                count, before = counts[piece.rows.codes.name]
                counts[piece.rows.codes.name] = (count + int(differ.sum()), max(before, most))
        return [Change(tensor=name, values=n, max_abs=most) for name, (n, most) in counts.items() if n]

    @property
    def _n_blocks(self) -> int:
        return -(-self.n_rows // self._block[0])

    def _pieces(self, block: int) -> Iterator[_Piece]:
        """Cut a new block's rows where old blocks and tensors end."""
        height = self._block[0]
        start, stop = block * height, min((block + 1) * height, self.n_rows)
        offset = 0
        for part in self._parts:
            first, last = (max(0, min(edge - offset, part.stop - part.first)) for edge in (start, stop))
            row = part.first + first
            while row < part.first + last:
                end = min((row // height + 1) * height, part.first + last)
                yield _Piece(part, row, end, offset + row - part.first - start)
                row = end
            offset += part.stop - part.first

    def _scales_of(self, block: int) -> NDArray[np.generic]:
        """Give a new block's scales, (column blocks,), as they are stored."""
        old = [self._piece_scales(piece) for piece in self._pieces(block)]
        values = np.array([one.astype(np.float32) for one in old])
        chosen: NDArray[np.generic] = np.array(old)[values.argmax(0), np.arange(values.shape[1])]
        return chosen

    def _codes_of(self, block: int) -> NDArray[np.uint8]:
        """Give a new block's codes, flat."""
        if self._band is None or self._band[0] != block:
            scales = self._scales_of(block)
            pieces = [self._piece_codes(piece, scales) for piece in self._pieces(block)]
            self._band = block, np.concatenate(pieces).reshape(-1)
        return self._band[1]

    def _piece_codes(self, piece: _Piece, scales: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Give a piece's codes for the new block's scales: the same ones where the scale is the same."""
        raw, old = self._raw(piece), self._piece_scales(piece)
        same = np.repeat(old == scales, self._block[1])[: self._width]
        with np.errstate(all="ignore"):
            values = self._decoded(piece, old) / self._spread(scales)
            fresh = values.astype(self._codes_dtype).view(np.uint8)
        return np.where(same, raw, fresh)

    def _decoded(self, piece: _Piece, scales: NDArray[np.generic]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._raw(piece).view(self._codes_dtype).astype(np.float32)
        return values * self._spread(scales)

    def _raw(self, piece: _Piece) -> NDArray[np.uint8]:
        info = piece.rows.codes
        data = self._source.read(info, piece.first * self._width, piece.stop * self._width)
        return np.frombuffer(data, np.uint8).reshape(-1, self._width)

    def _piece_scales(self, piece: _Piece) -> NDArray[np.generic]:
        """Give the scales of the old block that a piece is of, (column blocks,)."""
        info = piece.rows.scales
        row_bytes = info.encoding.row_bytes(info.shape[-1])
        start = piece.first // self._block[0] * row_bytes
        data = self._source.read(info, start, start + row_bytes)
        return np.frombuffer(data, self._scales_dtype)

    def _spread(self, scales: NDArray[np.generic]) -> NDArray[np.float32]:
        """Give the scale of every column, (width,)."""
        return np.repeat(scales.astype(np.float32), self._block[1])[: self._width]


def _dtype(info: TensorInfo) -> np.dtype[Any]:
    if info.encoding.dtype is None:
        raise UnsupportedError("only plain tensors are FP8 codes or scales", tensor=info.name)
    return info.encoding.dtype
