"""Files of a checkpoint: regular files only, opened read-only, read by bounded pread, never mapped."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self

import numpy as np

from wvindex.errors import (
    LimitExceeded,
    SelectionError,
    SourceChanged,
    TruncatedSource,
    UnreadableSource,
    UnsafePath,
    UsageError,
)
from wvindex.sources.base import TensorInfo

MAX_DESCRIPTORS: Final = 64
"""Descriptors that one checkpoint holds; files beyond it reopen at each read. macOS allows 256 in all."""

MAX_READ: Final = 1 << 30
"""Bytes of one system call: Linux and macOS cap it a little under 2 GiB, each in its own way."""

# O_NONBLOCK: opening a FIFO must return, so that it can be refused. Regular files ignore the flag.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


def real_path(path: Path) -> Path:
    """Resolve every symlink of a path that the user named. What does not exist stays as it is."""
    if "\0" in str(path):
        raise UnreadableSource("a path holds a NUL character", file=path)
    return Path(os.path.realpath(path))


def absolute(path: Path) -> Path:
    """Give the path that finds the same file after the working directory has changed."""
    try:
        return path.absolute()
    except OSError:  # the working directory is gone: opening says so
        return path


def is_directory(path: Path) -> bool:
    """Whether `path` is a directory; a path that the system refuses is none."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def checkpoint_root(directory: Path) -> Path:
    """Give the folder that symlinks in `directory` may lead to.

    That is the directory itself, or, in a Hugging Face hub cache (``<repo>/snapshots/<revision>/...``
    with files linked into ``<repo>/blobs``), the repository's folder.
    """
    real = real_path(directory)
    for revision in (real, *real.parents):
        repository = revision.parent.parent
        if revision.parent.name == "snapshots" and is_directory(repository / "blobs"):
            return repository
    return real


def resolve_member(directory: Path, name: str) -> Path:
    """Resolve the file `name` of a checkpoint directory, without opening anything.

    Raises
    ------
    UnsafePath
        If the name is absolute or has ``..``, or a symlink leads out of `checkpoint_root`.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise UnsafePath(
            "a file name leads out of the checkpoint's directory",
            file=directory,
            field="file name",
            expected="a file below it",
            found=name,
        )
    real = real_path(directory / name)
    root = checkpoint_root(directory)
    if not real.is_relative_to(root):
        raise UnsafePath(
            "a symlink leads out of the checkpoint's directory",
            file=directory / name,
            expected=f"a file in {root}",
            found=real,
        )
    return real


def list_names(directory: Path) -> list[str]:
    """Give the names in a directory, sorted."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise _unreadable(directory, error) from error


def open_regular(path: Path, real: Path) -> tuple[int, os.stat_result]:
    """Open `real`, a path without symlinks, known to the user as `path`.

    Raises
    ------
    UnreadableSource
        If it is missing, forbidden, or not a regular file.
    """
    try:
        descriptor = os.open(real, _OPEN_FLAGS)
    except OSError as error:
        raise _unreadable(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableSource("not a regular file", file=path, found=stat.filemode(status.st_mode))
    return descriptor, status


def pread_into(descriptor: int, path: Path, offset: int, out: memoryview) -> None:
    """Fill `out`, flat bytes, from `offset` of an open file.

    Raises
    ------
    TruncatedSource
        If the file ends first.
    """
    done = 0
    while done < len(out):
        try:
            count = os.preadv(descriptor, [out[done : done + MAX_READ]], offset + done)
        except OSError as error:
            raise _unreadable(path, error) from error
        if count == 0:
            raise TruncatedSource(
                "the file ends before what its header promises",
                file=path,
                offset=offset,
                expected=f"{len(out)} bytes",
                found=f"{done} bytes",
            )
        done += count


def read_beside(directory: Path, name: str, limit: int) -> bytes | None:
    """Read the whole file `name` of a checkpoint directory; None if there is none.

    Raises
    ------
    LimitExceeded
        If it is longer than `limit` bytes.
    UnsafePath
        If it is a symlink that leads out of the checkpoint.
    """
    path = directory / name
    if not os.path.lexists(path):
        return None
    return read_whole(path, resolve_member(directory, name), limit)


def read_whole(path: Path, real: Path, limit: int) -> bytes:
    """Read all of one file of at most `limit` bytes."""
    descriptor, status = open_regular(path, real)
    try:
        if status.st_size > limit:
            raise LimitExceeded(
                "a file is too long", file=path, expected=f"at most {limit}", found=status.st_size
            )
        data = bytearray(status.st_size)
        pread_into(descriptor, path, 0, memoryview(data))
    finally:
        os.close(descriptor)
    return bytes(data)


class OpenFiles:
    """The files of one checkpoint, readable from any thread.

    The first `MAX_DESCRIPTORS` stay open; none is ever evicted, so that no thread can read through a
    descriptor that another has closed. Do not close while reads are under way.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Path, os.stat_result]] = {}
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        self.close()

    def add(self, path: Path, real: Path | None = None) -> os.stat_result:
        """Open `path` and give what fstat says of it.

        `real` is what the path resolves to where that was checked already (see `resolve_member`).
        """
        real = real or real_path(path)
        descriptor, status = open_regular(path, real)
        with self._lock:
            if path in self._known or self._closed or len(self._descriptors) >= MAX_DESCRIPTORS:
                os.close(descriptor)
            else:
                self._descriptors[path] = descriptor
            self._known.setdefault(path, (real, status))
        return status

    def read_into(self, path: Path, offset: int, out: memoryview) -> None:
        """Fill `out` from `offset` of a file that was added."""
        if self._closed:
            raise UsageError("the source is closed", file=path)
        if path not in self._known:
            raise UsageError("the file is not part of this checkpoint", file=path)
        descriptor = self._descriptors.get(path)
        if descriptor is not None:
            pread_into(descriptor, path, offset, out)
            return
        descriptor = self._reopen(path)
        try:
            pread_into(descriptor, path, offset, out)
        finally:
            os.close(descriptor)

    def read(self, path: Path, offset: int, length: int) -> bytearray:
        """Read `length` bytes from `offset` of a file that was added."""
        data = bytearray(length)
        self.read_into(path, offset, memoryview(data))
        return data

    def read_tensor(self, info: TensorInfo, start: int, stop: int, out: memoryview | None) -> memoryview:
        """Read bytes [start, stop) of a tensor into `out`, or into a new buffer, and return it."""
        if not 0 <= start <= stop <= info.nbytes:
            raise SelectionError(
                "a byte range does not fit the tensor",
                tensor=info.name,
                expected=f"within [0, {info.nbytes})",
                found=f"[{start}, {stop})",
            )
        target = np.empty(stop - start, np.uint8).data if out is None else _flat(out, info)
        if len(target) != stop - start:
            raise UsageError(
                "the buffer has the wrong length", tensor=info.name, expected=stop - start, found=len(target)
            )
        self.read_into(info.file, info.offset + start, target)
        return target if out is None else out

    def close(self) -> None:
        """Close every file; reads after that are refused."""
        with self._lock:
            self._closed = True
            descriptors, self._descriptors = list(self._descriptors.values()), {}
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)

    def _reopen(self, path: Path) -> int:
        real, known = self._known[path]
        descriptor, status = open_regular(path, real)
        if (status.st_dev, status.st_ino) != (known.st_dev, known.st_ino):
            os.close(descriptor)
            raise SourceChanged("a file was replaced while its checkpoint was open", file=path)
        return descriptor


def _flat(out: memoryview, info: TensorInfo) -> memoryview:
    if out.readonly or not out.c_contiguous:
        raise UsageError("the buffer must be writable and contiguous", tensor=info.name)
    # A view with a zero in its shape cannot be cast.
    return out.cast("B") if out.nbytes else memoryview(bytearray())


def _unreadable(path: Path, error: OSError) -> UnreadableSource:
    return UnreadableSource(f"cannot be read: {error.strerror or error}", file=path)
