"""Reads the encoded rows of a store's arrays, byte for byte, and nothing that was not asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from wvindex.errors import CatalogError, ChecksumError, NotAStore, StoreVersionError, UsageError
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import TokenizerData
from wvindex.store.catalog import ArrayEntry, Catalog, parse_catalog
from wvindex.store.checksum import crc32c
from wvindex.store.metadata import CATALOG_JSON, FORMAT, ZARR_JSON
from wvindex.store.objects import ChunkFile, Objects
from wvindex.store.remote import open_objects

if TYPE_CHECKING:
    import zarr.abc.store

Check = Literal["never", "chunks", "always"]
"""When checksums are verified: ``chunks`` when a whole chunk is read, ``always`` for parts of one too."""

GGUF_TOKENIZER: Final = "tokenizer/gguf.json"
"""GGUF's ``tokenizer.*`` metadata; other files of ``tokenizer/`` are the source's own."""

CHECKS: Final[tuple[Check, ...]] = ("never", "chunks", "always")

_MAX_GROUP_JSON: Final = 1 << 20
"""The root's zarr.json holds a version number."""


def require_check(check: str) -> None:
    """Refuse a `check` that there is not.

    Raises
    ------
    UsageError
    """
    if check not in CHECKS:
        raise UsageError("no such way to check", field="check", expected=", ".join(CHECKS), found=check)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell whether a directory's ``zarr.json`` is that of a wvindex store."""
    try:
        with (Path(path) / ZARR_JSON).open("rb") as document:
            return _format_of(document.read(_MAX_GROUP_JSON)) is not None
    except OSError:
        return False


def _format_of(document: bytes) -> object:
    """Give ``attributes.wvindex.format`` of a group's document, or None."""
    try:
        value: Any = json.loads(document)
        for name in ("attributes", "wvindex", "format"):
            value = value[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value


def open_catalog(path: str | os.PathLike[str] | zarr.abc.store.Store) -> Catalog:
    """Read the catalog of a store.

    Parameters
    ----------
    path : path, URL or Zarr store

    Raises
    ------
    NotAStore
        If it is missing, something else, or an unfinished build.
    StoreVersionError
        If it is of a newer format.
    CatalogError
        If the catalog is malformed.
    """
    objects = open_objects(path)
    try:
        return read_catalog(objects)
    finally:
        objects.close()


def read_catalog(objects: Objects) -> Catalog:
    """Read the catalog of a store whose objects are open; raises as `open_catalog`."""
    location = objects.location
    root = objects.read_file(ZARR_JSON, MAX_JSON_BYTES)
    found = None if root is None else _format_of(root)
    if found is None:
        raise NotAStore(
            "not a wvindex store",
            file=location,
            expected=f"a {ZARR_JSON} that says so",
            found="nothing" if root is None else f"another {ZARR_JSON}",
        )
    if isinstance(found, int) and found > FORMAT:
        raise StoreVersionError(
            "the store is of a newer format; a newer wvindex reads it",
            file=location,
            field="format",
            expected=f"at most {FORMAT}",
            found=found,
        )
    data = objects.read_file(CATALOG_JSON, MAX_JSON_BYTES)
    if data is None:
        raise NotAStore(
            "the store has no catalog: its build did not finish",
            file=location,
            expected=CATALOG_JSON,
            found="nothing",
        )
    catalog = parse_catalog(data, file=f"{location}/{CATALOG_JSON}")
    if catalog.format != found:
        raise CatalogError(
            "the catalog is of another format than the store",
            file=location,
            field="format",
            expected=found,
            found=catalog.format,
        )
    return catalog


class ChunkReader:
    """Gives the encoded rows and scales of one array of a store (a `RowReader`).

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

    def chunk_range(self, row: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the chunk that holds `row`: reading them all verifies it."""
        return self._grid.row_range(self._grid.chunk_at(row))

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Fill `out` with the encoded bytes of rows [start, stop), or bytes [span[0], span[1]) of each.

        Raises
        ------
        ChunkError
            If a chunk is missing or has the wrong length.
        ChecksumError
            If a chunk that was to be checked is not what was written.
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
        whole = len(out) == self._grid.row_nbytes(index)
        if whole and self._check != "never":
            self._objects.read(self._chunk(index), 0, out)
            self._verify_rows(index, out)
        else:
            self._read_part(index, offset, stride, span, out)

    def _read_part(
        self, index: int, offset: int, stride: int, span: tuple[int, int], out: memoryview
    ) -> None:
        """Read bytes [span[0], span[1]) of each `stride` from `offset` on."""
        chunk, (first, last) = self._chunk(index), span
        width = last - first
        if self._check == "always":
            data = memoryview(bytearray(chunk.nbytes))
            self._objects.read(chunk, 0, data)
            self._verify(index, crc32c([data]))
            for i in range(len(out) // width if width else 0):
                begin = offset + i * stride + first
                out[i * width : (i + 1) * width] = data[begin : begin + width]
        elif width == stride:
            self._objects.read(chunk, offset, out)
        elif width:
            self._objects.read_strided(chunk, offset + first, stride, width, out)

    def _verify_rows(self, index: int, rows: memoryview) -> None:
        """Verify a chunk whose rows are in hand. Scales are read for it; padding is known to be zeros."""
        tail = memoryview(bytearray(self._grid.scale_nbytes(index)))
        if tail:
            self._objects.read(self._chunk(index), len(rows), tail)
        padding = bytes(self._grid.padding_nbytes(index))
        self._verify(index, crc32c([rows, tail, padding]))

    def _verify(self, index: int, found: int) -> None:
        expected = self._entry.crc32c[index]
        if found != expected:
            chunk = self._chunk(index)
            raise ChecksumError(
                "a chunk is not what was written",
                file=f"{self._objects.location}/{chunk.path}",
                tensor=chunk.tensor,
                expected=f"crc32c {expected:08x}",
                found=f"{found:08x}",
            )

    def _chunk(self, index: int) -> ChunkFile:
        path = f"{self._entry.path}/{self._grid.name(index)}"
        return ChunkFile(self._entry.spec.key, path, self._grid.chunk_nbytes(index))


def read_tokenizer(objects: Objects, catalog: Catalog) -> TokenizerData | None:
    """Give the tokenizer that a store keeps, as it was found in the source; None where there is none.

    Raises
    ------
    CatalogError
        If a file that the catalog lists is missing or unreadable.
    """
    files: dict[str, bytes] = {}
    for path in catalog.files:
        data = objects.read_file(path, MAX_JSON_BYTES)
        if data is None:
            raise CatalogError("a file of the store is missing", file=f"{objects.location}/{path}")
        files[path.removeprefix("tokenizer/")] = data
    if not files:
        return None
    metadata = files.pop(GGUF_TOKENIZER.removeprefix("tokenizer/"), b"{}")
    try:
        gguf = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise CatalogError("not JSON", file=f"{objects.location}/{GGUF_TOKENIZER}") from error
    return TokenizerData(files=files, gguf=gguf)
