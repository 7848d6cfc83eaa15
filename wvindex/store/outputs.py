"""Files that somebody asked for by name: refused before any work, and after it there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wvindex.errors import StoreError, TargetExists
from wvindex.store import durable


def require_output(out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Give the path of a file to be written, before anything is computed for it.

    Raises
    ------
    StoreError
        If its directory is missing, or may not be written to.
    TargetExists
        If it is taken and may not be replaced; nothing but a file ever is.
    """
    path = Path(os.fsdecode(out))
    if not path.parent.is_dir():
        raise StoreError("the directory to write in does not exist", file=path.parent)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreError("the directory to write in may not be written to", file=path.parent)
    if not os.path.lexists(path):
        return path
    if path.is_symlink() or not path.is_file():
        raise TargetExists("only a file is ever replaced", file=path)
    if not overwrite:
        raise TargetExists("the output is there already", file=path, expected="--overwrite, or another name")
    return path


@contextmanager
def output_file(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a path to write in a new directory beside `out`; what stands there in the end becomes `out`.

    The path has the same name, and nothing else is in its directory. Whatever fails leaves what was there.

    Raises
    ------
    StoreError, TargetExists
        As `require_output`, before and after; or if the system refuses to write.
    """
    target = require_output(out, overwrite=overwrite)
    with durable.reporting("write in a directory", target.parent):
        directory = Path(tempfile.mkdtemp(prefix=".wvindex-", dir=target.parent.absolute()))
    try:
        path = directory / target.name
        with durable.reporting("write a file", target):
            yield path
        durable.fsync_path(path)
        require_output(target, overwrite=overwrite)
        durable.rename(path, target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
