"""The named byte objects of a store, and how they are read in a directory."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from wvindex.errors import ChunkError, LimitExceeded, StoreError, UnreadableSource
from wvindex.store.directory import Directory, OpenFile

MAX_DESCRIPTORS: Final = 64
"""Chunk files that a store holds open; the usual soft limit of a process is 256 to 1024."""

MAX_READ: Final = 1 << 30
"""Bytes of one system call: Linux and macOS cap it a little under 2 GiB."""

SWAP_SECONDS: Final = 1.0
"""How long a store may be away between the two renames that replace it; they take microseconds."""

Name = TypeVar("Name", str, int)


@dataclass
class ReadStats:
    """What was read of a store's chunks since it was opened."""

    bytes_read: int = 0
    files_opened: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, bytes_read: int = 0, files_opened: int = 0) -> None:
        """Count what one read took."""
        with self._lock:
            self.bytes_read += bytes_read
            self.files_opened += files_opened


@dataclass(frozen=True)
class ChunkFile:
    """One chunk that must exist: the array's key, the object's path in the store, its length."""

    tensor: str
    path: str
    nbytes: int


class Objects(Protocol):
    """Reads of a store's objects. Every one may be called from several threads."""

    stats: ReadStats

    @property
    def location(self) -> str:
        """The store's path or URL, for messages."""
        ...

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Give all bytes of the object at `path`, at most `limit`; None where it is missing."""
        ...

    def require(self, chunk: ChunkFile) -> None:
        """See that a chunk is there, and as long as the catalog says."""
        ...

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on."""
        ...

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes at `offset`, `width` at ``offset + stride``, and so on."""
        ...

    def fault(self, error: ChunkError) -> StoreError:
        """Give the error to raise where a chunk is not what the catalog says: `error`, or its cause.

        That is StoreReplaced where the chunk is another store's by now.
        """
        ...

    def close(self) -> None:
        """Let go of everything that is open. Later reads raise StoreClosed."""
        ...


class RecentFiles(Generic[Name]):
    """The files that were used last, at most `MAX_DESCRIPTORS` of them, by name; for several threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[Name, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Name) -> OpenFile | None:
        """Give an open file; None where it is not, or no longer."""
        with self._lock:
            opened = self._files.get(name)
            if opened is not None:
                self._files.move_to_end(name)
            return opened

    def put(self, name: Name, opened: OpenFile) -> None:
        """Keep a file; let go of the one whose last use is longest ago."""
        with self._lock:
            self._files[name] = opened
            while len(self._files) > MAX_DESCRIPTORS:
                self._files.popitem(last=False)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._files.clear()


def missing_chunk(file: str | Path, chunk: ChunkFile) -> ChunkError:
    """Say that a chunk does not exist; Zarr would read it as zeros."""
    return ChunkError(
        "a chunk is missing",
        file=file,
        tensor=chunk.tensor,
        expected=f"{chunk.nbytes} bytes",
        found="no file",
    )


def wrong_length(file: str | Path, chunk: ChunkFile, found: int | str) -> ChunkError:
    """Say that a chunk is shorter or longer than the catalog says."""
    return ChunkError(
        "a chunk has the wrong length",
        file=file,
        tensor=chunk.tensor,
        expected=f"{chunk.nbytes} bytes",
        found=f"{found} bytes" if isinstance(found, int) else found,
    )


class LocalObjects:
    """A store in a directory: bounded preads of regular files, through no symlink.

    Everything is read below the directory that stood at `root` at first. Where a build puts another store
    there, this one stays whole for as long as its files are there: no byte of the new one is read.

    Parameters
    ----------
    root : Path
        The store. It may itself be reached through symlinks; nothing in it may.
    wait : float
        Seconds to wait for a store that is being replaced.

    Raises
    ------
    NotAStore, UnreadableSource
        As `Directory`.
    """

    def __init__(self, root: Path, *, wait: float = SWAP_SECONDS) -> None:
        self.root = root
        self.stats = ReadStats()
        self._directory = Directory(root, wait=wait)
        self._open_files: RecentFiles[str] = RecentFiles()

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.root)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Give all bytes of the file at `path`; None where it is missing.

        Raises
        ------
        LimitExceeded
            If it is longer than `limit`.
        UnsafePath, UnreadableSource
            If it is a symlink or below one, no regular file, or the system refuses.
        StoreReplaced
            If it is missing, and this store is no longer the one at its path.
        StoreClosed
            If the store was closed.
        """
        opened = self._directory.open_file(path)
        if opened is None:
            self._directory.require_same()
            return None
        size = os.fstat(opened.descriptor).st_size
        if size > limit:
            raise LimitExceeded(
                "a file of the store is too long",
                file=self.root / path,
                expected=f"at most {limit}",
                found=size,
            )
        data = bytearray(size)
        filled = self._pread(opened, path, 0, memoryview(data))
        return bytes(data[:filled])

    def require(self, chunk: ChunkFile) -> None:
        """See that a chunk is there, and as long as the catalog says; raises as `read`."""
        self._open_chunk(chunk)

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on.

        Raises
        ------
        ChunkError
            If the chunk is missing, or not as long as the catalog says.
        UnsafePath, UnreadableSource
            If it is a symlink or below one, no regular file, or the system refuses.
        StoreReplaced
            If it is missing, and this store is no longer the one at its path.
        StoreClosed
            If the store was closed.
        """
        self._fill(self._open_chunk(chunk), chunk, offset, out)

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes every `stride` from `offset` on, and read no others.

        Raises as `read`.
        """
        opened = self._open_chunk(chunk)
        for i, start in enumerate(range(0, len(out), width)):
            self._fill(opened, chunk, offset + i * stride, out[start : start + width])

    def fault(self, error: ChunkError) -> StoreError:
        """Give `error` itself: every byte was read in the directory that was opened."""
        return error

    def close(self) -> None:
        """Close the directory and every file. Later reads raise StoreClosed."""
        self._directory.close()
        self._open_files.clear()

    def _open_chunk(self, chunk: ChunkFile) -> OpenFile:
        """Open a chunk, or find it open; its length is compared every time."""
        opened = self._open_files.get(chunk.path)
        if opened is None:
            opened = self._directory.open_file(chunk.path, tensor=chunk.tensor)
            if opened is None:
                self._directory.require_same()
                raise missing_chunk(self.root / chunk.path, chunk)
            self.stats.add(files_opened=1)
            self._open_files.put(chunk.path, opened)
        found = os.fstat(opened.descriptor).st_size
        if found != chunk.nbytes:
            raise wrong_length(self.root / chunk.path, chunk, found)
        return opened

    def _fill(self, opened: OpenFile, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        filled = self._pread(opened, chunk.path, offset, out, chunk.tensor)
        self.stats.add(bytes_read=filled)
        if filled != len(out):
            raise wrong_length(self.root / chunk.path, chunk, offset + filled)

    def _pread(
        self, opened: OpenFile, path: str, offset: int, out: memoryview, tensor: str | None = None
    ) -> int:
        """Fill `out` from `offset` on; give how many bytes there were."""
        filled = 0
        try:
            while filled < len(out):
                count = os.preadv(opened.descriptor, [out[filled : filled + MAX_READ]], offset + filled)
                if not count:
                    break
                filled += count
        except OSError as error:
            raise UnreadableSource(
                "the system refuses to read",
                file=self.root / path,
                tensor=tensor,
                offset=offset + filled,
                expected=f"{len(out) - filled} bytes",
                found=error.strerror,
            ) from error
        return filled
