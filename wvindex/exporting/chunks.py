"""Rows of a store's arrays in whatever pieces an export asks for, every chunk of them verified."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec
from wvindex.store.reader import ChunkReader

_HELD_CHUNKS: Final = 3
_HELD_BYTES: Final = 8 << 20
"""A larger chunk is verified first, and then read in parts."""

HELD_BYTES: Final = _HELD_CHUNKS * _HELD_BYTES
"""The most that a `ChunkCache` holds."""


class ChunkCache:
    """The chunks that were read last, whole; shared by all arrays of a store."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[tuple[str, int], NDArray[np.uint8]] = OrderedDict()

    def get(self, reader: ChunkReader, spec: ArraySpec, first: int, last: int) -> NDArray[np.uint8]:
        """Give rows [first, last) of an array, which are one chunk. Shape (last - first, row_bytes)."""
        place = (spec.key, first)
        if place in self._chunks:
            self._chunks.move_to_end(place)
            return self._chunks[place]
        while len(self._chunks) >= _HELD_CHUNKS:
            self._chunks.popitem(last=False)
        rows = np.empty((last - first, spec.row_bytes), np.uint8)
        reader.read_rows(first, last, rows.reshape(-1).data)
        self._chunks[place] = rows
        return rows


class VerifiedRows:
    """A RowReader over whole chunks, each of which is compared with its checksum.

    Parameters
    ----------
    reader : ChunkReader
        With ``check="chunks"``.
    spec : ArraySpec
    cache : ChunkCache
    """

    def __init__(self, reader: ChunkReader, spec: ArraySpec, cache: ChunkCache) -> None:
        self._reader = reader
        self._spec = spec
        self._cache = cache
        self._verified: set[int] = set()

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Fill `out` as `ChunkReader.read_rows`, whose errors it raises."""
        left, right = span or (0, self._spec.row_bytes)
        width = right - left
        if not width:
            return
        row = start
        while row < stop:
            first, last = self._reader.chunk_range(row)
            until = min(stop, last)
            piece = out[(row - start) * width : (until - start) * width]
            if (row, until, width) == (first, last, self._spec.row_bytes):
                self._reader.read_rows(row, until, piece)
            elif (last - first) * self._spec.row_bytes <= _HELD_BYTES:
                chunk = self._cache.get(self._reader, self._spec, first, last)
                cut = np.frombuffer(piece, np.uint8).reshape(until - row, width)
                cut[...] = chunk[row - first : until - first, left:right]
            else:
                self._verify(first)
                self._reader.read_rows(row, until, piece, span=(left, right))
            row = until

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Fill `out` with rows of scales; their chunks are verified as their codes are read."""
        self._reader.read_scales(start, stop, out)

    def _verify(self, first: int) -> None:
        if first not in self._verified:
            self._reader.verify(first)
            self._verified.add(first)
