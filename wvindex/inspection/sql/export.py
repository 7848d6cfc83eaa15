"""Results as text files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wvindex.inspection.table import Table
from wvindex.store.durable import write_file


def _csv(table: Table) -> str:
    return table.to_csv()


def _json(table: Table) -> str:
    return json.dumps(table.to_json(), indent=2, allow_nan=False) + "\n"


TEXTS: Final[dict[str, Callable[[Table], str]]] = {".csv": _csv, ".json": _json}
"""Formats by suffix that are text: what ``--csv`` and ``--json`` print."""


def write_text(table: Table, path: Path) -> None:
    """Write a table as the format that the path's suffix names."""
    write_file(path, [TEXTS[path.suffix.lower()](table).encode()])
