"""Stores behind Zarr's store interface: memory, HTTP, object storage. And how any store is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import unquote, urlsplit

from wvindex.errors import (
    ChunkError,
    LimitExceeded,
    StoreClosed,
    StoreError,
    UnreadableSource,
    UsageError,
    WvindexError,
)
from wvindex.limits import MAX_JSON_BYTES
from wvindex.store.directory import replaced
from wvindex.store.metadata import CATALOG_JSON
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

Span = tuple[int, int]
"""Bytes [start, stop) of an object."""

MAX_MEASURED: Final = 1 << 16
"""Chunks whose lengths are remembered: some megabytes of names."""


class ZarrObjects:
    """A store behind Zarr's store interface: memory, HTTP, object storage.

    Such a store cannot be held open: where another is put in its place, objects of both may be read. A
    chunk that is missing, of another length or damaged makes the catalog be read again, so that the error
    says what happened; a part of a chunk of the same length, read without its checksum, shows nothing.

    Parameters
    ----------
    store : zarr.abc.store.Store

    Raises
    ------
    UnreadableSource
        If it cannot be opened.
    """

    def __init__(self, store: zarr.abc.store.Store) -> None:
        from zarr.core.sync import sync
        from zarr.storage import StorePath

        with _reporting_remote(str(store)):
            sync(StorePath.open(store, ""))  # some stores (a zip file) are opened apart from being made
        self.store = store
        self.stats = ReadStats()
        self._catalog: bytes | None = None
        self._measured: set[str] = set()
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
        StoreClosed
            If the store was closed.
        """
        (data,) = self._get(path, (0, limit + 1))
        if data is not None and len(data) > limit:
            raise LimitExceeded(
                "a file of the store is too long",
                file=f"{self.location}/{path}",
                expected=f"at most {limit} bytes",
                found="more",
            )
        if path == CATALOG_JSON and self._catalog is None:
            self._catalog = _digest(data)
        return data

    def require(self, chunk: ChunkFile) -> None:
        """See that a chunk is there, and as long as the catalog says; raises as `read`."""
        if chunk.path not in self._measured:
            (end,) = self._get(chunk.path, _end_of(chunk), tensor=chunk.tensor)
            self._require_end(chunk, end)

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on.

        With the first part that is read of a chunk, its end is asked for too.

        Raises
        ------
        ChunkError
            If the chunk is missing, or not as long as the catalog says.
        StoreReplaced
            If that is so because another store has taken this one's place.
        UnreadableSource
            If the store behind refuses.
        StoreClosed
            If the store was closed.
        """
        stop = offset + len(out)
        to_end = stop == chunk.nbytes
        spans = [(offset, stop + int(to_end))]  # one byte more: there must be none
        if not to_end and chunk.path not in self._measured:
            spans.append(_end_of(chunk))
        data, *ends = self._get(chunk.path, *spans, tensor=chunk.tensor)
        for end in ends:
            self._require_end(chunk, end)
        file = f"{self.location}/{chunk.path}"
        if data is None:
            raise self.fault(missing_chunk(file, chunk))
        self.stats.add(bytes_read=len(data), files_opened=1)
        if len(data) != len(out):
            raise self.fault(wrong_length(file, chunk, _length(chunk, offset + len(data))))
        out[:] = data

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes every `stride` from `offset` on, in one request; raises as `read`."""
        count = len(out) // width
        covering = memoryview(bytearray((count - 1) * stride + width)) if count else memoryview(b"")
        if count:
            self.read(chunk, offset, covering)
        for i in range(count):
            out[i * width : (i + 1) * width] = covering[i * stride : i * stride + width]

    def fault(self, error: ChunkError) -> StoreError:
        """Give StoreReplaced where the catalog is not the one that was read at first; else `error`."""
        if self._catalog is None:
            return error
        (data,) = self._get(CATALOG_JSON, (0, MAX_JSON_BYTES + 1))
        if _digest(data) == self._catalog:
            return error
        return replaced(self.location, "the catalog that was read", "nothing" if data is None else "another")

    def close(self) -> None:
        """Refuse later reads. The Zarr store is its owner's to close."""
        self._closed = True

    def _require_end(self, chunk: ChunkFile, end: bytes | None) -> None:
        """Check what was found from the last byte of a chunk on: that byte and no other."""
        file = f"{self.location}/{chunk.path}"
        if end is None:
            raise self.fault(missing_chunk(file, chunk))
        if len(end) != 1:
            raise self.fault(wrong_length(file, chunk, _length(chunk, chunk.nbytes - 1 + len(end))))
        if len(self._measured) >= MAX_MEASURED:
            self._measured.clear()
        self._measured.add(chunk.path)

    def _get(self, path: str, *spans: Span, tensor: str | None = None) -> list[bytes | None]:
        """Read parts of an object, all at once; None for each where it is missing."""
        from asyncio import gather

        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        if self._closed:
            raise StoreClosed("the store is closed", file=self.location)

        async def fetch() -> list[Any]:
            prototype = default_buffer_prototype()
            requests = (RangeByteRequest(*span) for span in spans)
            return await gather(*(self.store.get(path, prototype, request) for request in requests))

        with _reporting_remote(f"{self.location}/{path}", tensor):
            return [None if buffer is None else buffer.to_bytes() for buffer in sync(fetch())]


def _end_of(chunk: ChunkFile) -> Span:
    """Give the bytes around a chunk's end: there is one of the two."""
    return chunk.nbytes - 1, chunk.nbytes + 1


def _length(chunk: ChunkFile, found: int) -> str:
    """Say how long an object is of which a part was read."""
    return f"{found} bytes or more" if found > chunk.nbytes else f"fewer than {chunk.nbytes} bytes"


def _digest(data: bytes | None) -> bytes:
    return hashlib.sha256(data or b"").digest()


@contextmanager
def _reporting_remote(file: str, tensor: str | None = None) -> Iterator[None]:
    """Turn whatever a store behind Zarr's interface raises into UnreadableSource."""
    try:
        yield
    except WvindexError:
        raise
    except Exception as error:  # each library has errors of its own
        raise UnreadableSource(
            "the store behind refuses to read",
            file=file,
            tensor=tensor,
            expected="an object",
            found=f"{type(error).__name__}: {error}",
        ) from error


def open_objects(path: str | os.PathLike[str] | zarr.abc.store.Store) -> Objects:
    """Open the objects of a store: a directory, a URL, or any Zarr store.

    A ``file:`` URL is a directory.

    Raises
    ------
    NotAStore
        If there is no such directory.
    UnreadableSource
        If a URL's file system is not installed or refuses.
    UsageError
        If `path` is none of these.
    """
    if is_path(path):
        text = os.fspath(path)
        if text.startswith("file://"):
            return LocalObjects(Path(unquote(urlsplit(text).path)))
        return ZarrObjects(_remote_store(text)) if "://" in text else LocalObjects(Path(text))
    from zarr.abc.store import Store

    if not isinstance(path, Store):
        raise UsageError(
            "this cannot be opened",
            field="path",
            expected="a path, a URL or a Zarr store",
            found=f"{type(path).__name__} {path!r}",
        )
    return ZarrObjects(path)


def is_path(path: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether something names a place: a text that is not empty, or a path-like object."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    return isinstance(text, str) and bool(text)


def _remote_store(url: str) -> Any:
    from zarr.storage import FsspecStore

    with _reporting_remote(url):
        return FsspecStore.from_url(url, read_only=True)
