"""The directory of a store: files are opened below the one that was opened, whatever takes its name later."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

from wvindex.errors import NotAStore, StoreClosed, StoreReplaced, UnreadableSource, UnsafePath
from wvindex.store.staging import aside_of

# O_PATH (Linux) asks for no permission to list a directory. O_NONBLOCK: opening a FIFO must return, so that
# it can be refused; regular files ignore the flag.
_ROOT_FLAGS: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY_FLAGS: Final = _ROOT_FLAGS | os.O_NOFOLLOW
_FILE_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class OpenFile:
    """A descriptor that closes with its last user, so that a cache may drop it while a thread reads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        """Close it."""
        os.close(self.descriptor)


class Directory:
    """A directory, held open: what is renamed to its place later is another, and is not seen.

    Parameters
    ----------
    path : Path
        It may itself be reached through symlinks; nothing in it may.
    wait : float
        Seconds to wait for it while a build replaces it: while only what stood there, moved aside, exists.

    Raises
    ------
    NotAStore
        If there is no such directory.
    UnreadableSource
        If the system refuses it.
    """

    def __init__(self, path: Path, *, wait: float) -> None:
        self.path = path
        self._place = path if path.is_absolute() else Path.cwd() / path  # the working directory may change
        self._opened: OpenFile | None = _open_root(path, wait)

    def open_file(self, name: str, *, tensor: str | None = None) -> OpenFile | None:
        """Open a regular file below the directory, step by step and through no symlink; None if missing.

        Errors name the `tensor` that it is of.

        Raises
        ------
        UnsafePath
            If it is a symlink or below one.
        UnreadableSource
            If it is no regular file, or the system refuses.
        StoreClosed
            If the directory was closed.
        """
        opened = self._opened
        if opened is None:
            raise StoreClosed("the store is closed", file=self.path, tensor=tensor)
        *directories, last = name.split("/")
        walked = self.path
        for step in directories:
            walked /= step
            below = _member(opened, step, _DIRECTORY_FLAGS, walked, tensor)
            if below is None:
                return None
            opened = below
        file = _member(opened, last, _FILE_FLAGS, walked / last, tensor)
        if file is not None:
            _require_regular(os.fstat(file.descriptor), walked / last, tensor)
        return file

    def require_same(self) -> None:
        """See that the directory still stands at its path.

        Raises
        ------
        StoreReplaced
            If another one does, or nothing.
        """
        opened = self._opened
        if opened is None:
            return
        try:
            there = self._place.stat()
        except OSError:
            raise replaced(self.path, "the directory that was opened", "nothing") from None
        if not os.path.samestat(os.fstat(opened.descriptor), there):
            raise replaced(self.path, "the directory that was opened", "another")

    def close(self) -> None:
        """Let go of it, once nobody opens a file in it."""
        self._opened = None


def replaced(file: str | Path, expected: str, found: str) -> StoreReplaced:
    """Say that what stands where a store was opened is not that store."""
    return StoreReplaced(
        "the store was replaced, moved or removed while it was open: open it again",
        file=file,
        expected=expected,
        found=found,
    )


def is_being_replaced(store: Path) -> bool:
    """Whether a store that stood here was moved aside, and no other has taken its place yet."""
    try:
        return bool(store.name) and not os.path.lexists(store) and aside_of(store).is_dir()
    except OSError:  # a name that is too long
        return False


def _open_root(path: Path, wait: float) -> OpenFile:
    """Open a directory; wait for it while it is being replaced."""
    until = time.monotonic() + wait
    while True:
        try:
            return OpenFile(os.open(path, _ROOT_FLAGS))
        except FileNotFoundError:
            away = is_being_replaced(path)
            if not (away or path.exists()) or time.monotonic() > until:  # it may be there again by now
                found = f"nothing; what stood here is in {aside_of(path)}" if away else "nothing"
                raise NotAStore("no such directory", file=path, expected="a store", found=found) from None
            time.sleep(0.001)
        except NotADirectoryError:
            raise NotAStore("not a directory", file=path, expected="a store", found="a file") from None
        except (OSError, ValueError) as error:
            raise _refused("directory", path, error) from error


def _member(parent: OpenFile, name: str, flags: int, path: Path, tensor: str | None) -> OpenFile | None:
    """Open what is called `name` in an open directory; None where there is nothing."""
    try:
        return OpenFile(os.open(name, flags, dir_fd=parent.descriptor))
    except FileNotFoundError:
        return None
    except OSError as error:
        kind = "directory" if flags & os.O_DIRECTORY else "file"
        target = _link_target(parent, name)
        if target is None:
            raise _refused(kind, path, error, tensor) from error
        raise UnsafePath(
            f"a {kind} of the store is a symlink",
            file=path,
            tensor=tensor,
            expected=f"a {kind} of its own",
            found=f"a symlink to {target}",
        ) from error


def _refused(
    kind: str, path: Path, error: OSError | ValueError, tensor: str | None = None
) -> UnreadableSource:
    found = error.strerror if isinstance(error, OSError) else error
    message = f"cannot open a {kind} of the store"
    return UnreadableSource(message, file=path, tensor=tensor, expected=f"a {kind} to read", found=found)


def _link_target(parent: OpenFile, name: str) -> str | None:
    """Give where a symlink leads; None where it is none."""
    try:
        return os.readlink(name, dir_fd=parent.descriptor)
    except OSError:
        return None


def _require_regular(status: os.stat_result, path: Path, tensor: str | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableSource(
            "not a regular file",
            file=path,
            tensor=tensor,
            expected="a regular file",
            found=stat.filemode(status.st_mode),
        )
