"""Every file of a checkpoint's directory: what is there, and whether it still is what it was."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.errors import SourceChanged, UnsafePath
from wvindex.sources.files import open_regular, pread_into, resolve_member

_NOT_CARRIED: Final = frozenset({".git"})
"""Directories that are no part of a checkpoint: a clone's history has the checkpoint as it was."""


@dataclass(frozen=True)
class SourceFile:
    """A file below a directory, symlinks resolved; also its bytes, as `Content`.

    Attributes
    ----------
    name : str
        Below the directory, with forward slashes.
    path, real : Path
        As the directory has it, and what that leads to.
    nbytes, mtime_ns : int
    """

    name: str
    path: Path
    real: Path
    nbytes: int
    mtime_ns: int

    def read(self, start: int, out: memoryview) -> None:
        """Read bytes from `start`."""
        descriptor, _ = open_regular(self.path, self.real)
        try:
            pread_into(descriptor, self.path, start, out)
        finally:
            os.close(descriptor)

    def identity(self) -> dict[str, Any]:
        """Give what tells it from another, as JSON values."""
        return {"name": self.name, "size": self.nbytes, "mtime_ns": self.mtime_ns}

    def require_unchanged(self) -> None:
        """Compare size and time of change with what they were.

        Raises
        ------
        SourceChanged
        """
        found = source_file(self.path.parents[self.name.count("/")], self.name)
        if found.identity() != self.identity():
            raise SourceChanged(
                "a file of the checkpoint has changed while it was converted",
                file=self.path,
                expected=self.identity(),
                found=found.identity(),
            )


def source_file(directory: Path, name: str) -> SourceFile:
    """Look at a file of a checkpoint.

    Raises
    ------
    UnsafePath
        If a symlink leads out of the checkpoint.
    UnreadableSource
        If it is no regular file, or the system refuses.
    """
    path, real = directory / name, resolve_member(directory, name)
    descriptor, status = open_regular(path, real)
    os.close(descriptor)
    return SourceFile(name, path, real, status.st_size, status.st_mtime_ns)


def all_files(directory: Path) -> dict[str, SourceFile]:
    """Give every file below a directory, by name; raises as `source_file`."""
    return {name: source_file(directory, name) for name in sorted(_names(directory))}


def left_out(directory: Path) -> list[str]:
    """Give the directories that are no part of a checkpoint."""
    return [name for name in sorted(_NOT_CARRIED) if (directory / name).is_dir()]


def _names(directory: Path) -> Iterator[str]:
    for place, below, files in os.walk(directory):
        here = Path(place).relative_to(directory)
        if here == Path():
            below[:] = [name for name in below if name not in _NOT_CARRIED]
        for name in below:
            if (Path(place) / name).is_symlink():
                raise UnsafePath(
                    "a directory that is a symlink is not carried over",
                    file=Path(place) / name,
                    expected="a directory, or a symlink to a file",
                    found="a symlink to a directory",
                )
        yield from ((here / name).as_posix() for name in files)


def identities(files: Mapping[str, SourceFile]) -> list[dict[str, Any]]:
    """Give what tells these files from others, as JSON values."""
    return [file.identity() for file in files.values()]
