"""Stores behind Zarr's store interface: memory, HTTP, object storage. And how any store is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wvindex.errors import LimitExceeded, NotAStore, StoreError, UnreadableSource
from wvindex.store.objects import (
    ChunkFile,
    LocalObjects,
    Objects,
    ReadStats,
    missing_chunk,
    wrong_length,
)

if TYPE_CHECKING:
    import zarr.abc.store


class ZarrObjects:
    """A store behind Zarr's store interface: memory, HTTP, object storage.

    A read of part of a chunk cannot tell whether the object is longer than it should be; whole reads do.
    """

    def __init__(self, store: zarr.abc.store.Store) -> None:
        from zarr.core.sync import sync
        from zarr.storage import StorePath

        with _reporting_remote(str(store)):
            sync(StorePath.open(store, ""))  # some stores (a zip file) are opened apart from being made
        self.store = store
        self.stats = ReadStats()
        self._closed = False

    @property
    def location(self) -> str:
        """Zarr's name of the store."""
        return str(self.store)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Give all bytes of the object at `path`; None where it is missing.

        Raises
        ------
        LimitExceeded
            If it is longer than `limit`.
        UnreadableSource
            If the store behind refuses.
        """
        data = self._get(path, 0, limit + 1)
        if data is not None and len(data) > limit:
            raise LimitExceeded(
                "a file of the store is too long", file=f"{self.location}/{path}", expected=f"at most {limit}"
            )
        return data

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on.

        Raises
        ------
        ChunkError
            If the chunk is missing or too short, or, when read to its end, too long.
        UnreadableSource
            If the store behind refuses.
        """
        stop = offset + len(out)
        one_more = int(stop == chunk.nbytes)
        data = self._get(chunk.path, offset, stop + one_more)
        file = f"{self.location}/{chunk.path}"
        if data is None:
            raise missing_chunk(file, chunk)
        self.stats.add(bytes_read=len(data), files_opened=1)
        if len(data) != len(out):
            raise wrong_length(file, chunk, offset + len(data))
        out[:] = data

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes every `stride` from `offset` on, in one request.

        Raises
        ------
        ChunkError, UnreadableSource
            As `read`.
        """
        count = len(out) // width
        covering = memoryview(bytearray((count - 1) * stride + width)) if count else memoryview(b"")
        if count:
            self.read(chunk, offset, covering)
        for i in range(count):
            out[i * width : (i + 1) * width] = covering[i * stride : i * stride + width]

    def close(self) -> None:
        """Refuse later reads. The Zarr store is its owner's to close."""
        self._closed = True

    def _get(self, path: str, start: int, stop: int) -> bytes | None:
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        if self._closed:
            raise StoreError("the store is closed", file=self.location)
        request = RangeByteRequest(start, stop)
        with _reporting_remote(f"{self.location}/{path}"):
            buffer = sync(self.store.get(path, default_buffer_prototype(), request))
        return None if buffer is None else buffer.to_bytes()


@contextmanager
def _reporting_remote(file: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnreadableSource(f"the store behind refuses: {error}", file=file) from error


def open_objects(path: str | os.PathLike[str] | zarr.abc.store.Store) -> Objects:
    """Open the objects of a store: a directory, a URL, or any Zarr store.

    Raises
    ------
    NotAStore
        If there is no such directory.
    UnreadableSource
        If a URL's file system is not installed or refuses.
    """
    if not isinstance(path, str | os.PathLike):
        return ZarrObjects(path)
    if "://" in os.fspath(path):
        return ZarrObjects(_remote_store(os.fspath(path)))
    root = Path(path)
    if not root.is_dir():
        raise NotAStore("no such directory" if not root.exists() else "not a directory", file=root)
    return LocalObjects(root)


def _remote_store(url: str) -> Any:
    from zarr.storage import FsspecStore

    try:
        return FsspecStore.from_url(url, read_only=True)
    except (ImportError, ValueError, OSError) as error:
        raise UnreadableSource(f"cannot open this address: {error}", file=url) from error
