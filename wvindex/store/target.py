"""Where a store may be built, and what it may replace."""

from __future__ import annotations

import os
from pathlib import Path

from wvindex.errors import StoreError, TargetExists, UsageError
from wvindex.store.reader import is_store


def resolved(path: str | os.PathLike[str]) -> Path:
    """Give the path at which a store shall stand, its directory free of symlinks; its own name is kept.

    Raises
    ------
    UsageError
        If `path` is no path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise UsageError("not a path to build at", field="out", expected="a path", found=repr(path))
    absolute = Path(text).absolute()
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def require_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path where no store can be built, before anything is read.

    Raises
    ------
    StoreError
        If its directory is missing, or may not be written to; nor may a store that is to be replaced.
    TargetExists
        If it is taken and may not be replaced.
    """
    if not path.parent.is_dir():
        raise StoreError("the directory to build in does not exist", file=path.parent)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError("the directory to build in may not be written to", file=path.parent)
    if not os.path.lexists(path):
        return
    require_replaceable(path, overwrite=overwrite)
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError("the store to replace may not be written to", file=path)


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what stands at `path`, unless it is a store and that was asked for.

    Raises
    ------
    TargetExists
        If it may not be replaced. Nothing but a store ever is.
    """
    if not overwrite:
        raise TargetExists("the output path is taken", file=path)
    if path.is_symlink() or not is_store(path):
        raise TargetExists("only a wvindex store is ever replaced", file=path)
