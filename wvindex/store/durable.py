"""Every write, sync, rename and lock of a store's files.

The order that makes a build safe: files are written below ``<store>.building/``, synced to the disk
together, and then one rename gives the directory its name. A reader sees a whole store, or none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wvindex.errors import BuildLocked, StoreError
from wvindex.store.checksum import Buffer

_SYNCS_AT_ONCE: Final = 8


@contextmanager
def _reporting(action: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal (a full disk, a missing permission) into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {action}: {error.strerror or error}", file=path) from error


def write_file(path: Path, parts: Sequence[Buffer], *, fsync: bool = False) -> None:
    """Write `parts`, one after another, to a new file, making its directories.

    Raises
    ------
    StoreError
        If the file exists, or the system refuses.
    """
    with _reporting("write a file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
            if fsync:
                os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Have the disk hold a file's bytes, or a directory's names."""
    with _reporting("sync to the disk", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Have the disk hold every file below `root`, and every directory's names.

    Several at once: a sync waits for the disk, which takes many as easily as one.
    """
    paths = []
    for directory, _, names in os.walk(root, topdown=False):
        paths += [*(Path(directory, name) for name in sorted(names)), Path(directory)]
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        for _ in pool.map(fsync_path, paths):
            pass


def remove_tree(path: Path) -> None:
    """Remove a directory and everything in it."""
    with _reporting("remove a directory", path):
        shutil.rmtree(path)


def remove_file(path: Path) -> None:
    """Remove a file."""
    with _reporting("remove a file", path):
        path.unlink()


def empty_directory(path: Path) -> None:
    """Remove everything in a directory; symlinks, not what they lead to."""
    with _reporting("empty a directory", path):
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()


def aside_of(target: Path) -> Path:
    """Give where a store stands while another takes its place."""
    return target.with_name(f"{target.name}.replaced")


def publish(staging: Path, target: Path) -> None:
    """Sync `staging` and rename it to `target`; a store that stands there is moved aside, then removed.

    Raises
    ------
    StoreError
        If the system refuses; `target` is then what it was.
    """
    fsync_tree(staging)
    aside = aside_of(target)
    with _reporting("rename", target):
        replacing = target.exists()
        if replacing:
            target.rename(aside)
        try:
            staging.rename(target)
        except OSError:
            if replacing:
                aside.rename(target)
            raise
    fsync_path(target.parent)
    if replacing:
        remove_tree(aside)


class BuildLock:
    """The exclusive right to build in the directory `path`, which is made where it is missing.

    The lock is the kernel's (flock), on the directory itself: it ends with its process, however that
    ends, and leaves no file behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        BuildLocked
            If another build has it.
        """
        while self._descriptor is None:
            with _reporting("make the build directory", self.path):
                self.path.mkdir(exist_ok=True)
                try:
                    descriptor = os.open(
                        self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    )
                except FileNotFoundError:
                    continue  # published or removed by another build since
            if self._is_locked(descriptor):
                self._descriptor = descriptor

    def _is_locked(self, descriptor: int) -> bool:
        """Lock `descriptor`; False, and closed, where the path now names another directory."""
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                return True
        except BlockingIOError:
            os.close(descriptor)
            raise BuildLocked("another process is building this store", file=self.path) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the lock back. The directory stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
