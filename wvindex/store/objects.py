"""The named byte objects of a store, and how they are read in a directory."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from wvindex.errors import ChunkError, LimitExceeded, StoreError, UnreadableSource, UnsafePath

MAX_DESCRIPTORS: Final = 64
"""Chunk files that a store holds open; the usual soft limit of a process is 256 to 1024."""

MAX_READ: Final = 1 << 30
"""Bytes of one system call: Linux and macOS cap it a little under 2 GiB."""

Name = TypeVar("Name", str, int)

# O_NONBLOCK: opening a FIFO must return, so that it can be refused. Regular files ignore the flag.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


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

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on."""
        ...

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes at `offset`, `width` at ``offset + stride``, and so on."""
        ...

    def close(self) -> None:
        """Let go of everything that is open. Later reads raise StoreError."""
        ...


class OpenFile:
    """A descriptor that closes with its last user, so that a cache may drop it while a thread reads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        """Close it."""
        os.close(self.descriptor)


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


def wrong_length(file: str | Path, chunk: ChunkFile, found: int) -> ChunkError:
    """Say that a chunk is shorter or longer than the catalog says."""
    return ChunkError(
        "a chunk has the wrong length",
        file=file,
        tensor=chunk.tensor,
        expected=f"{chunk.nbytes} bytes",
        found=f"{found} bytes",
    )


class LocalObjects:
    """A store in a directory: bounded preads of regular files, through no symlink.

    Parameters
    ----------
    root : Path
        The store. It may itself be reached through symlinks; nothing in it may.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stats = ReadStats()
        self._open_files: RecentFiles[str] = RecentFiles()
        self._real_directories: set[Path] = {root}
        self._closed = False

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
        """
        opened = self._open_path(path)
        if opened is None:
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
        filled = _pread(opened.descriptor, 0, memoryview(data))
        return bytes(data[:filled])

    def read(self, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        """Fill `out` with the chunk's bytes from `offset` on.

        Raises
        ------
        ChunkError
            If the chunk is missing, or not as long as the catalog says.
        UnsafePath, UnreadableSource
            If it is a symlink or below one, no regular file, or the system refuses.
        """
        self._fill(self._open_chunk(chunk), chunk, offset, out)

    def read_strided(self, chunk: ChunkFile, offset: int, stride: int, width: int, out: memoryview) -> None:
        """Fill `out` with `width` bytes every `stride` from `offset` on, and read no others.

        Raises
        ------
        ChunkError, UnsafePath, UnreadableSource
            As `read`.
        """
        opened = self._open_chunk(chunk)
        for i, start in enumerate(range(0, len(out), width)):
            self._fill(opened, chunk, offset + i * stride, out[start : start + width])

    def close(self) -> None:
        """Close every file. Later reads raise StoreError."""
        self._closed = True
        self._open_files.clear()

    def _fill(self, opened: OpenFile, chunk: ChunkFile, offset: int, out: memoryview) -> None:
        filled = _pread(opened.descriptor, offset, out)
        self.stats.add(bytes_read=filled)
        if filled != len(out):
            raise wrong_length(self.root / chunk.path, chunk, offset + filled)

    def _open_chunk(self, chunk: ChunkFile) -> OpenFile:
        opened = self._open_files.get(chunk.path)
        if opened is not None:
            return opened
        opened = self._open_path(chunk.path)
        if opened is None:
            raise missing_chunk(self.root / chunk.path, chunk)
        found = os.fstat(opened.descriptor).st_size
        if found != chunk.nbytes:
            raise wrong_length(self.root / chunk.path, chunk, found)
        self.stats.add(files_opened=1)
        self._open_files.put(chunk.path, opened)
        return opened

    def _open_path(self, path: str) -> OpenFile | None:
        """Open a regular file of the store; None where it is missing."""
        if self._closed:
            raise StoreError("the store is closed", file=self.root)
        file = self.root / path
        try:
            self._require_real(file.parent)
            opened = OpenFile(os.open(file, _OPEN_FLAGS))
        except FileNotFoundError:
            return None
        except OSError as error:
            if file.is_symlink():
                raise UnsafePath("a file of the store is a symlink", file=file) from error
            raise UnreadableSource(f"cannot open: {error.strerror}", file=file) from error
        if not stat.S_ISREG(os.fstat(opened.descriptor).st_mode):
            raise UnreadableSource("not a regular file", file=file)
        return opened

    def _require_real(self, directory: Path) -> None:
        """Refuse a directory below the root that is a symlink; each is looked at once."""
        if directory in self._real_directories:
            return
        self._require_real(directory.parent)
        if stat.S_ISLNK(directory.lstat().st_mode):
            raise UnsafePath("a directory of the store is a symlink", file=directory)
        self._real_directories.add(directory)


def _pread(descriptor: int, offset: int, out: memoryview) -> int:
    """Fill `out` from `offset` on; return how many bytes there were."""
    filled = 0
    while filled < len(out):
        got = os.preadv(descriptor, [out[filled : filled + MAX_READ]], offset + filled)
        if not got:
            break
        filled += got
    return filled
