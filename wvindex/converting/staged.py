"""A directory of files that appears at once, however often its writing was interrupted.

It grows in ``<target>.converting/``, laid out as `wvindex.store.staging` has it. Files are written one after
another from their start; after each piece is synced the journal says how much of the file there is, so a
conversion that goes on cuts the file there and writes the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np

from wvindex.converting.prefixes import has_prefix, whole_prefix
from wvindex.errors import (
    NoSpace,
    SourceError,
    StoreError,
    TargetExists,
    UnreadableSource,
    UnsupportedError,
)
from wvindex.sizes import format_size
from wvindex.store.checksum import crc32c
from wvindex.store.durable import (
    append_to,
    fsync_path,
    fsync_paths,
    make_directory,
    remove_file,
    remove_tree,
    rename,
    truncate_file,
    walk,
)
from wvindex.store.journal import WrittenPrefix
from wvindex.store.lock import BuildLock
from wvindex.store.staging import Staging

SUFFIX: Final = ".converting"

_WHAT: Final = "conversion"
_DOING: Final = "converting to here"


class Content(Protocol):
    """Bytes that a file is made of, read when they are written."""

    @property
    def nbytes(self) -> int:
        """How many."""
        ...

    def read(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start`."""
        ...


class Constant:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self._data)

    def read(self, start: int, out: memoryview) -> None:
        """Copy from `start`."""
        out[:] = self._data[start : start + len(out)]


class StagedDirectory:
    """Writes the files of a directory; a context manager.

    Parameters
    ----------
    target : Path
    identity : mapping
        JSON values that tell this conversion from others, ``sources`` among them.
    require_replaceable : callable
        Raises `TargetExists` for what may not be replaced.
    buffer_bytes : int
        What is held of a file, and synced at once.
    restart : bool
        Discard what an interrupted conversion left.
    suffix, what : str
        What the directory's name has beyond the target's while it grows; what is done there, for messages.
    doing : str
        The same, of another process that is at it.
    """

    def __init__(
        self,
        target: Path,
        identity: Mapping[str, Any],
        *,
        require_replaceable: Callable[[Path], None],
        buffer_bytes: int,
        restart: bool,
        suffix: str = SUFFIX,
        what: str = _WHAT,
        doing: str = _DOING,
    ) -> None:
        self.target = target
        self._identity = identity
        self._require_replaceable = require_replaceable
        self._restart = restart
        self._what = what
        self._staging = Staging(target, suffix=suffix, what=what)
        self._lock = BuildLock(self._staging.path, doing=doing)
        self._buffer = np.empty(buffer_bytes, np.uint8).data  # no page before it is written
        self._publishing = False

    def __enter__(self) -> Self:
        """Take the lock, and go on with what an interrupted conversion left, or start.

        Raises
        ------
        TargetExists, BuildLocked, StoreError
        SourceChanged, UsageError
            If an interrupted conversion of something else stands there.
        """
        require_place(self.target, self._require_replaceable)
        self._staging.require_directory()
        self._lock.acquire()
        try:
            self._staging.recover()
            require_place(self.target, self._require_replaceable)
            self._journal = self._staging.begin(self._identity, restart=self._restart)
        except BaseException:
            self._staging.remove_empty()
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; keep what was written unless the source is at fault."""
        try:
            with suppress(StoreError):
                if error is not None and not _is_at_fault(error) and self._staging.is_resumable():
                    error.add_note(
                        f"what was written is kept in {self._staging.path}; "
                        f"the same {self._what} goes on with it"
                    )
                elif not self._publishing:
                    self._staging.discard()
        finally:
            self._lock.release()

    def require_space(self, nbytes: int) -> None:
        """Refuse where the file system has too little room for a result of `nbytes`."""
        there = sum(prefix.nbytes for prefix in self._journal.prefixes.values())
        free = shutil.disk_usage(self._staging.path).free + there
        if nbytes > free:
            raise NoSpace(
                "the disk has too little room for the result",
                file=self.target,
                expected=f"{format_size(nbytes)} free",
                found=format_size(free),
            )

    def write(self, name: str, contents: Sequence[Content], on_bytes: Callable[[int], None]) -> None:
        """Write one file, or what is missing of it.

        Parameters
        ----------
        name : str
            Below the directory, with forward slashes.
        contents : sequence of Content
            One after another.
        on_bytes : callable
            Told how many bytes more are there.
        """
        path = self._staging.store / name
        make_directory(path.parent)
        total = sum(content.nbytes for content in contents)
        done, crc = self._kept(name, path, total)
        on_bytes(done)
        if not total and not os.path.lexists(path):
            append_to(path, [])
        while done < total:
            piece = self._buffer[: min(len(self._buffer), total - done)]
            _fill(contents, done, piece)
            append_to(path, [piece])
            crc, done = crc32c([piece], crc), done + len(piece)
            self._journal.append_prefix(name, WrittenPrefix(done, crc))
            on_bytes(len(piece))

    def path(self, name: str) -> Path:
        """Give where something of the result is being written."""
        return self._staging.store / name

    def begin_directory(self, name: str) -> Path:
        """Give an empty directory below the result, for another to write in; then `keep` it."""
        path = self.path(name)
        if os.path.lexists(path):
            remove_tree(path)
        make_directory(path)
        return path

    def keep(self, name: str) -> None:
        """Have the disk hold a directory, and journal it: a conversion that goes on finds it whole."""
        directories, files = walk(self.path(name))
        fsync_paths([*files, *directories])
        total = crc = 0
        for file in sorted(files):
            prefix = whole_prefix(file, self._buffer)
            self._journal.append_prefix(file.relative_to(self._staging.store).as_posix(), prefix)
            total, crc = total + 1, crc ^ prefix.crc32c
        self._journal.append_prefix(f"{name}/", WrittenPrefix(total, crc))

    def is_kept(self, name: str) -> bool:
        """Whether an interrupted conversion kept this directory, and it still is what it was."""
        kept = self._journal.prefixes.get(f"{name}/")
        if kept is None or not self.path(name).is_dir():
            return False
        _, files = walk(self.path(name))
        found = [
            whole_prefix(file, self._buffer) for file in files if file.is_file() and not file.is_symlink()
        ]
        crc = 0
        for prefix in found:
            crc ^= prefix.crc32c
        return len(files) == len(found) == kept.nbytes and crc == kept.crc32c

    def publish(self) -> None:
        """Have the disk hold every name, and give the directory its own."""
        directories, _ = walk(self._staging.store)
        fsync_paths(directories)
        self._publishing = True
        self._staging.publish(self._require_replaceable)
        with suppress(StoreError):
            self._staging.discard()

    def publish_file(self, name: str) -> None:
        """Give one file, all of which is written, the target's path, in the place of what stands there."""
        fsync_path(self._staging.store)
        if os.path.lexists(self.target):
            self._require_replaceable(self.target)
        self._publishing = True
        rename(self._staging.store / name, self.target)
        with suppress(StoreError):
            self._staging.discard()

    def _kept(self, name: str, path: Path, total: int) -> tuple[int, int]:
        """Give how many bytes of a file are there as journaled, and their checksum; cut the rest."""
        prefix = self._journal.prefixes.get(name)
        if prefix is not None and prefix.nbytes <= total and has_prefix(path, prefix, self._buffer):
            if path.stat().st_size > prefix.nbytes:
                truncate_file(path, prefix.nbytes)
            return prefix.nbytes, prefix.crc32c
        if os.path.lexists(path):
            remove_file(path)
        return 0, 0


def require_place(path: Path, require_replaceable: Callable[[Path], None]) -> None:
    """Refuse a path where no directory can be put, before anything is read.

    Raises
    ------
    StoreError
        If the directory that it stands in is missing, or may not be written to.
    TargetExists
        If it is taken and may not be replaced.
    """
    if not path.parent.is_dir():
        raise StoreError("the directory for the result does not exist", file=path.parent)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError("the directory for the result may not be written to", file=path.parent)
    if os.path.lexists(path):
        require_replaceable(path)


def require_checkpoint(path: Path, *, overwrite: bool, kind: str, is_kind: Callable[[Path], bool]) -> None:
    """Refuse to replace what stands at `path`, unless that was asked for and it is of the same kind.

    Raises
    ------
    TargetExists
    """
    if not overwrite:
        raise TargetExists("the output path is taken", file=path)
    if path.is_symlink() or not path.is_dir() or not is_kind(path):
        raise TargetExists(f"only {kind} is replaced by one", file=path)


def _fill(contents: Sequence[Content], start: int, out: memoryview) -> None:
    """Fill `out` with bytes of all contents together, from `start`."""
    offset = done = 0
    for content in contents:
        stop = offset + content.nbytes
        if stop > start + done and done < len(out):
            count = min(stop - start - done, len(out) - done)
            content.read(start + done - offset, out[done : done + count])
            done += count
        offset = stop


def _is_at_fault(error: BaseException) -> bool:
    """Whether the source itself stands in the way, and not the system that reads it."""
    return isinstance(error, SourceError | UnsupportedError) and not isinstance(error, UnreadableSource)
