"""Reads the encoded rows of one array, byte for byte, and checks what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np

from wvindex.errors import ChecksumError
from wvindex.store.checksum import crc32c
from wvindex.store.entries import ArrayEntry
from wvindex.store.metadata import ZARR_JSON, require_agreement
from wvindex.store.objects import ChunkFile, Objects

Check = Literal["never", "chunks", "always"]
"""When checksums are verified: ``chunks`` when a whole chunk is read, ``always`` for parts of one too."""

MAX_ARRAY_JSON: Final = 1 << 20
"""An array's zarr.json: about a kilobyte, and whatever attributes a user gives it."""

_BLOCK_BYTES: Final = 4 << 20
"""What is held of a chunk that is read for its checksum alone."""


class ChunkReader:
    """Gives the encoded rows and scales of one array of a store (a `RowReader`).

    Before the first of them, the array's own document is held against the catalog. That a chunk is there,
    and as long as the catalog says, is seen at every read.

    Parameters
    ----------
    objects : Objects
        The store's, shared by its arrays.
    entry : ArrayEntry
    check : {"never", "chunks", "always"}
    """

    def __init__(self, objects: Objects, entry: ArrayEntry, *, check: Check = "chunks") -> None:
        self._objects = objects
        self._entry = entry
        self._grid = entry.grid
        self._check = check
        self._agrees = False

    def chunk_range(self, row: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the chunk that holds `row`: reading them all verifies it."""
        return self._grid.row_range(self._grid.chunk_at(row))

    def require(self, start: int, stop: int) -> None:
        """See that rows [start, stop) may be what the catalog claims, before there is memory for them.

        Raises
        ------
        CatalogError
            If the array's document is missing or says something else.
        ChunkError
            If the first or the last chunk of these rows is missing or has the wrong length.
        """
        if start < stop and self._grid.n_chunks:
            for row in (start, stop - 1):
                self._objects.require(self._chunk(self._grid.chunk_at(row)))

    def verify(self, row: int) -> None:
        """Verify the chunk that holds `row`, which is then read in parts; nothing with ``check="never"``.

        Raises
        ------
        ChunkError, ChecksumError, CatalogError
            As `read_rows`.
        """
        if self._check != "never":
            index = self._grid.chunk_at(row)
            self._verify(index, self._sum(self._chunk(index), 0, 0))

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Fill `out` with the encoded bytes of rows [start, stop), or bytes [span[0], span[1]) of each.

        Raises
        ------
        CatalogError
            If the array's document is missing or says something else than the catalog.
        ChunkError
            If a chunk is missing or has the wrong length.
        ChecksumError
            If a chunk that was to be checked is not what was written.
        StoreReplaced
            If another store has taken the place of this one, and this one's chunks are gone.
        """
        row_bytes = self._entry.spec.row_bytes
        first, last = span if span is not None else (0, row_bytes)
        position = 0
        for index, a, b in self._pieces(start, stop):
            length = (b - a) * (last - first)
            self._read_piece(
                index, a * row_bytes, row_bytes, (first, last), out[position : position + length]
            )
            position += length

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Fill `out` with rows [start, stop) of the float32 scales; raises as `read_rows`."""
        grid, position, row = self._grid, 0, start
        while row < stop:
            index = grid.chunk_at_scale(row)
            first, last = grid.scale_range(index)
            until = min(stop, last)
            length = (until - row) * grid.scale_row_bytes
            offset = grid.row_nbytes(index) + (row - first) * grid.scale_row_bytes
            part = out[position : position + length]
            self._read_part(index, offset, length, (0, length), part)
            position += length
            row = until

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Cut rows [start, stop) by chunk: its index, and the rows within it."""
        while start < stop and self._grid.n_chunks:
            index = self._grid.chunk_at(start)
            first, last = self._grid.row_range(index)
            until = min(stop, last)
            yield index, start - first, until - first
            start = until

    def _read_piece(
        self, index: int, offset: int, stride: int, span: tuple[int, int], out: memoryview
    ) -> None:
        if self._check != "never" and len(out) == self._grid.row_nbytes(index):
            chunk = self._chunk(index)
            self._objects.read(chunk, 0, out)
            self._verify(index, self._sum(chunk, len(out), crc32c([out])))
        else:
            self._read_part(index, offset, stride, span, out)

    def _read_part(
        self, index: int, offset: int, stride: int, span: tuple[int, int], out: memoryview
    ) -> None:
        """Read bytes [span[0], span[1]) of each `stride` from `offset` on."""
        chunk, (first, last) = self._chunk(index), span
        width = last - first
        if self._check == "always":
            self._objects.require(chunk)  # there may be no memory for what the catalog claims
            data = np.empty(chunk.nbytes, np.uint8).data
            self._objects.read(chunk, 0, data)
            self._verify(index, crc32c([data]))
            for i in range(len(out) // width if width else 0):
                begin = offset + i * stride + first
                out[i * width : (i + 1) * width] = data[begin : begin + width]
        elif width == stride:
            self._objects.read(chunk, offset, out)
        elif width:
            self._objects.read_strided(chunk, offset + first, stride, width, out)

    def _sum(self, chunk: ChunkFile, start: int, value: int) -> int:
        """Go on with a checksum from `start` to the chunk's end: through its scales and its padding."""
        rest = range(start, chunk.nbytes, _BLOCK_BYTES)
        block = np.empty(min(_BLOCK_BYTES, chunk.nbytes - start), np.uint8).data
        for offset in rest:
            part = block[: chunk.nbytes - offset]
            self._objects.read(chunk, offset, part)
            value = crc32c([part], value)
        return value

    def _verify(self, index: int, found: int) -> None:
        expected = self._entry.crc32c[index]
        if found != expected:
            chunk = self._chunk(index)
            raise self._objects.fault(
                ChecksumError(
                    "a chunk is not what was written",
                    file=f"{self._objects.location}/{chunk.path}",
                    tensor=chunk.tensor,
                    expected=f"crc32c {expected:08x}",
                    found=f"{found:08x}",
                )
            )

    def _chunk(self, index: int) -> ChunkFile:
        if not self._agrees:
            self._require_agreement()
        path = f"{self._entry.path}/{self._grid.name(index)}"
        return ChunkFile(self._entry.spec.key, path, self._grid.chunk_nbytes(index))

    def _require_agreement(self) -> None:
        path = f"{self._entry.path}/{ZARR_JSON}"
        document = self._objects.read_file(path, MAX_ARRAY_JSON)
        file = f"{self._objects.location}/{path}"
        require_agreement(document, self._entry.spec, self._grid, file=file)
        self._agrees = True
