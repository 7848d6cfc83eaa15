"""A file that is there whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wvindex.errors import TargetExists
from wvindex.inspection.table import Table
from wvindex.store.durable import fsync_path, rename, reporting, write_file


@contextmanager
def whole_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a path to write in a new directory beside `target`; what stands there in the end becomes `target`.

    Raises
    ------
    TargetExists
        If something is there, and may not be replaced; a directory never is.
    StoreError
        If the system refuses.
    """
    _require_free(target, overwrite=overwrite)
    with reporting("make a directory", target.parent):
        directory = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent.absolute()))
    try:
        path = directory / target.name
        yield path
        fsync_path(path)
        _require_free(target, overwrite=overwrite)
        rename(path, target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _require_free(target: Path, *, overwrite: bool) -> None:
    if os.path.lexists(target) and (not overwrite or target.is_dir()):
        raise TargetExists(
            "the output is there already", file=target, expected="--overwrite, or another name"
        )


def _csv(table: Table) -> str:
    return table.to_csv()


def _json(table: Table) -> str:
    return json.dumps(table.to_json(), indent=2, allow_nan=False) + "\n"


TEXTS: Final[dict[str, Callable[[Table], str]]] = {".csv": _csv, ".json": _json}
"""Formats by suffix that are text: what ``--csv`` and ``--json`` print."""


def write_text(table: Table, path: Path) -> None:
    """Write a table as the format that the path's suffix names."""
    write_file(path, [TEXTS[path.suffix.lower()](table).encode()])
