"""A store with linked arrays as Zarr sees one: every array whole, wherever its bytes lie.

On the disk a linked array has no files, so that no Zarr reader takes it for zeros. `LinkedStore` gives it the
metadata and the chunks that it would have if it had been copied.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from wvindex.errors import UsageError
from wvindex.formats.dtypes import register_data_types
from wvindex.store.catalog import ArrayEntry
from wvindex.store.links import ByteRun, LinkedFiles, LinkedReader, Piece, linked_files
from wvindex.store.metadata import ZARR_JSON, array_metadata, dumps
from wvindex.store.reader import open_finished

__all__ = ["LinkedFiles", "LinkedReader", "LinkedStore"]

_LAYERS: Final = "layers"


class _LinkedArray:
    """The objects that one linked array would have in a store, by name below the array's path."""

    def __init__(self, files: LinkedFiles, entry: ArrayEntry, rows: ByteRun, scales: ByteRun) -> None:
        self._files = files
        self._spec = entry.spec
        self._grid = entry.grid
        self._rows = rows
        self._scales = scales

    @cached_property
    def _document(self) -> bytes:
        return dumps(array_metadata(self._spec, self._grid))

    def names(self) -> Iterator[str]:
        """Give the names of all objects."""
        yield ZARR_JSON
        yield from map(self._grid.name, range(self._grid.n_chunks))

    def nbytes(self, name: str) -> int | None:
        """Give an object's length; None where there is none of this name."""
        if name == ZARR_JSON:
            return len(self._document)
        index = self._grid.index(name)
        return None if index is None else self._grid.chunk_nbytes(index)

    def read(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Read bytes [start, stop) of an object."""
        if name == ZARR_JSON:
            return np.frombuffer(self._document[start:stop], np.uint8)
        index = self._grid.index(name)
        data = np.zeros(stop - start, np.uint8)  # where a chunk is padded, it stays so
        if index is not None:
            self._files.read(self._pieces(index, start, data))
        return data

    def _pieces(self, index: int, start: int, data: NDArray[np.uint8]) -> Iterator[Piece]:
        """Give what fills `data` with a chunk's bytes from `start` on: its rows, then its scales."""
        grid, row_nbytes = self._grid, self._grid.row_nbytes(index)
        first_row = grid.row_range(index)[0] * self._spec.row_bytes
        first_scale = grid.scale_range(index)[0] * grid.scale_row_bytes

        def part(run: ByteRun, origin: int, begin: int, nbytes: int) -> Iterator[Piece]:
            first, last = max(start - begin, 0), min(start - begin + data.size, nbytes)
            if first < last:
                place = begin - start
                yield from run.pieces(origin + first, data[place + first : place + last].data)

        return chain(
            part(self._rows, first_row, 0, row_nbytes),
            part(self._scales, first_scale, row_nbytes, grid.scale_nbytes(index)),
        )


class LinkedStore(Store):
    """A finished store in a directory, read-only, with its linked arrays.

    ``zarr.open_group(LinkedStore("model.zarr"), mode="r")`` reads every array; of a store without links it
    is the directory as it is. `close` closes the source's files, for good.

    Parameters
    ----------
    root : path

    Raises
    ------
    NotAStore, StoreVersionError, CatalogError
        If it is no store that can be read.
    UsageError
        If it is to be opened for writing.
    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True

    def __init__(self, root: str | PathLike[str], *, read_only: bool = True) -> None:
        if not read_only:
            raise UsageError("a store is not written through its links", file=str(root), field="read_only")
        super().__init__(read_only=True)
        register_data_types()
        self.root = Path(root)
        objects, catalog = open_finished(self.root)
        try:
            self._links = linked_files(objects, catalog)
        finally:
            objects.close()
        self._disk = LocalStore(self.root, read_only=True)
        self._arrays = {
            entry.path: _LinkedArray(self._links, entry, ByteRun(entry.link.rows), ByteRun(entry.link.scales))
            for entry in catalog.arrays.values()
            if entry.link is not None
        }
        self._children = _children(self._arrays)

    def with_read_only(self, read_only: bool = False) -> LinkedStore:
        """Give another reader of the same store; raises UsageError for one that writes."""
        return LinkedStore(self.root, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        """Whether both are views of one directory."""
        return isinstance(other, LinkedStore) and self.root == other.root

    def __hash__(self) -> int:
        """Equal stores have equal ones."""
        return hash(self.root)

    def __reduce__(self) -> tuple[type[LinkedStore], tuple[Path]]:
        """Copy, also to another process, by opening anew."""
        return LinkedStore, (self.root,)

    def __str__(self) -> str:
        """Give the directory as a URL."""
        return f"file://{self.root.as_posix()}"

    def __repr__(self) -> str:
        """Give one line."""
        return f"LinkedStore('{self}')"

    def close(self) -> None:
        """Close the source's files."""
        self._links.close()
        self._disk.close()
        super().close()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Give an object's bytes, or a part; None where it is missing.

        Raises
        ------
        SourceChanged
            If the file that it links to is missing, or is not what it was.
        """
        array, name = self._find(key)
        if array is None:
            return await self._disk.get(key, prototype, byte_range)
        nbytes = array.nbytes(name)
        if nbytes is None:
            return None
        start, stop = _bounds(byte_range, nbytes)
        data: Any = await asyncio.to_thread(array.read, name, start, stop)
        return prototype.buffer.from_array_like(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Give several parts of objects, in their order."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        array, name = self._find(key)
        return await self._disk.exists(key) if array is None else array.nbytes(name) is not None

    async def getsize(self, key: str) -> int:
        """Give an object's length; raises FileNotFoundError where it is missing, as Zarr asks."""
        array, name = self._find(key)
        if array is None:
            return await self._disk.getsize(key)
        nbytes = array.nbytes(name)
        if nbytes is None:
            raise FileNotFoundError(key)
        return nbytes

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse, as every read-only store of Zarr's: with ValueError."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse, as `set`."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Give every object's key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Give every key below the directory `prefix`."""
        async for key in self._disk.list_prefix(prefix):
            if self._find(key)[0] is None:
                yield key
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        for path, array in self._arrays.items():
            if path.startswith(below) or below.startswith(f"{path}/"):
                for name in array.names():
                    if f"{path}/{name}".startswith(below):
                        yield f"{path}/{name}"

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names of what stands in the directory `prefix`."""
        directory = prefix.rstrip("/")
        linked = self._children.get(directory, frozenset[str]())
        array, name = self._find(directory)
        if array is not None:
            below = f"{name}/" if name else ""
            linked = frozenset(
                one.removeprefix(below).partition("/")[0] for one in array.names() if one.startswith(below)
            )
        else:
            async for child in self._disk.list_dir(directory):
                if child not in linked:
                    yield child
        for child in sorted(linked):
            yield child

    def _find(self, key: str) -> tuple[_LinkedArray | None, str]:
        """Give the linked array that has the object `key`, and its name below the array's path."""
        parts = key.split("/")
        depth = 3 if parts[0] == _LAYERS else 1  # see wvindex.store.layout.array_path
        return self._arrays.get("/".join(parts[:depth])), "/".join(parts[depth:])


def _children(paths: Iterable[str]) -> dict[str, frozenset[str]]:
    """Give, by directory, the names in it on the way to any of `paths`."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        parts = path.split("/")
        for depth, part in enumerate(parts):
            found["/".join(parts[:depth])].add(part)
    return {directory: frozenset(names) for directory, names in found.items()}


def _bounds(request: ByteRequest | None, nbytes: int) -> tuple[int, int]:
    """Give the bytes [start, stop) of an object that a request means."""
    if request is None:
        return 0, nbytes
    if isinstance(request, RangeByteRequest):
        return min(request.start, nbytes), max(min(request.end, nbytes), min(request.start, nbytes))
    if isinstance(request, OffsetByteRequest):
        return min(request.offset, nbytes), nbytes
    if isinstance(request, SuffixByteRequest):
        return max(nbytes - request.suffix, 0), nbytes
    raise TypeError(f"Unexpected byte_range, got {request}.")
