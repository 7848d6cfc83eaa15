"""Every write, sync, rename and removal of a store's files.

What is written is on the disk for good once its file *and* the directories that lead to it are synced. A
build writes below ``<store>.building/``, syncs, and then one rename gives the directory its name: a
reader sees a whole store, or none.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from wvindex.errors import StoreError
from wvindex.store.checksum import Buffer

SYNCS_AT_ONCE: Final = 8
"""A sync waits for the disk, which takes several as easily as one."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_LOOK: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

_WORKING_DIRECTORY: Final = -2 if sys.platform == "darwin" else -100
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal (a full disk, a missing permission) into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {action}: {error.strerror or error}", file=path) from error


def make_directory(path: Path) -> None:
    """Make a directory and those that lead to it, where they are missing."""
    with reporting("make a directory", path):
        try:
            path.mkdir()
        except FileNotFoundError:
            make_directory(path.parent)
            make_directory(path)
        except FileExistsError:
            if not path.is_dir():
                raise


def write_file(path: Path, parts: Sequence[Buffer]) -> None:
    """Write `parts`, one after another, to a new file in a directory that is there. Nothing is synced.

    Raises
    ------
    StoreError
        If the file exists, or the system refuses.
    """
    with reporting("write a file", path):
        descriptor = os.open(path, _CREATE, 0o666)
        try:
            _write(descriptor, parts)
        finally:
            os.close(descriptor)


def publish_file(path: Path, parts: Sequence[Buffer]) -> None:
    """Write a file whole and have the disk hold it before it gets its name; what has that name is replaced.

    Raises
    ------
    StoreError
        If the system refuses; what was there is as it was, and nothing is left beside it.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    try:
        write_file(new, parts)
        fsync_path(new)
        rename(new, path)
    except BaseException:
        with suppress(StoreError):
            remove_file(new)
        raise


def append_to(path: Path, parts: Sequence[Buffer]) -> None:
    """Write `parts` at the end of a file, which is made where it is missing, and sync it."""
    with reporting("write a file", path):
        descriptor = os.open(path, _APPEND, 0o666)
        try:
            _write(descriptor, parts)
            _sync(descriptor)
        finally:
            os.close(descriptor)


def _write(descriptor: int, parts: Sequence[Buffer]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


def fsync_path(path: Path) -> None:
    """Have the disk hold a file's bytes, or a directory's names."""
    with reporting("sync to the disk", path):
        descriptor = os.open(path, _LOOK)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def fsync_paths(paths: Iterable[Path]) -> None:
    """Have the disk hold several files or directories, in no order.

    Raises
    ------
    StoreError
        If the system refuses one.
    """
    with ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="wvindex-sync") as pool:
        for _ in pool.map(fsync_path, paths):
            pass


def _sync(descriptor: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves bytes in the drive's cache
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)


def truncate_file(path: Path, nbytes: int) -> None:
    """Cut a file to its first bytes, and sync it."""
    with reporting("cut a file", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, nbytes)
            _sync(descriptor)
        finally:
            os.close(descriptor)


def walk(path: Path) -> tuple[list[Path], list[Path]]:
    """Give the directories of a tree, itself first, and everything in them that is no directory."""

    def refuse(error: OSError) -> None:
        raise error

    directories, others = [], []
    with reporting("list a directory", path):
        for name, below, files in os.walk(path, onerror=refuse):
            directory = Path(name)
            directories.append(directory)
            others += [directory / file for file in files]
            others += [link for link in map(directory.joinpath, below) if link.is_symlink()]
    return directories, others


def remove_file(path: Path) -> None:
    """Remove a file."""
    with reporting("remove a file", path):
        path.unlink()


def remove_tree(path: Path) -> None:
    """Remove a directory and everything in it; of a symlink, the link."""

    def refuse(error: OSError) -> None:
        raise error

    with reporting("remove a directory", path):
        for directory, subdirectories, names in os.walk(path, topdown=False, onerror=refuse):
            for below in (Path(directory, name) for name in (*names, *subdirectories)):
                if below.is_dir() and not below.is_symlink():
                    below.rmdir()
                else:
                    below.unlink()
        path.rmdir()


def rename(path: Path, target: Path) -> None:
    """Give a file or a directory another path, and have the disk hold both directories that change."""
    with reporting("rename", target):
        path.rename(target)
    for directory in dict.fromkeys(
        (target.parent, path.parent)
    ):  # at every moment one of them is on the disk
        fsync_path(directory)


def exchange(one: Path, other: Path) -> bool:
    """Have two directories change places, at once: nobody finds either path empty.

    Returns
    -------
    bool
        False, and nothing done, where the system or the file system has no such call.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    with reporting("rename", other):
        if not _swap(one, other):
            return False
    fsync_paths({one.parent, other.parent})
    return True


def _swap(one: Path, other: Path) -> bool:
    """Call Linux's renameat2 or macOS's renameatx_np, which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameatx_np" if sys.platform == "darwin" else "renameat2", None)
    if call is None:
        return False
    here, paths = _WORKING_DIRECTORY, (os.fsencode(one), os.fsencode(other))
    if call(here, paths[0], here, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number))
