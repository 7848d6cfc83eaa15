"""Statistics kept in a store: ``stats/<table>.json``, with what they were computed from.

Every subject (a tensor, a layer, a role) has the digest of the arrays that it was computed from: their keys,
shapes, encodings and the crc32c of every chunk. Where that is no longer the store's, it is computed again.
The directory may be removed at any time; nothing else refers to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wvindex.errors import SourceError, StoreError
from wvindex.inspection.table import from_json, to_json
from wvindex.limits import MAX_JSON_BYTES
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.sources.strict_json import parse_object
from wvindex.store.catalog import Catalog
from wvindex.store.durable import make_directory, publish_file
from wvindex.store.layout import STATISTICS
from wvindex.store.objects import LocalObjects
from wvindex.store.records import record_json

VERSION: Final = 3
"""Of what is computed: a change of any number's meaning is a new version, and all is computed again."""

_TEXT: Final = frozenset({"key", "role", "shape", "encoding"})
_LISTS: Final = frozenset(
    {"singular_values", "histogram", "top", "top_values", "counts", "channels", "channel_ratios"}
)

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Kept:
    """The statistics of one kind that a store has, and those that it should have.

    Attributes
    ----------
    root : Path or None
        The store's directory; None where there is none, and nothing is kept.
    table : str
        Name of the file.
    columns : tuple of str
    notes : list of str
        Why nothing was read or kept, if so.
    """

    root: Path | None
    table: str
    columns: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    _rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def of(cls, db: Store, table: str, columns: Sequence[str]) -> Kept:
        """Read what a store has; what cannot be read is as if it were not there."""
        root = Path(db.path) if db.catalog is not None and isinstance(db.path, Path) else None
        kept = cls(root, table, tuple(columns))
        kept._rows = kept._read()
        return kept

    def get(self, subject: str, digest: str | None) -> list[dict[str, Any]] | None:
        """Give the rows of a subject; None where they are not there, or of other bytes."""
        entry = self._rows.get(subject)
        if digest is None or entry is None or entry["of"] != digest:
            return None
        return [dict(zip(self.columns, row, strict=True)) for row in entry["rows"]]

    def put(self, subject: str, digest: str | None, rows: Rows) -> None:
        """Have rows kept, once `save` is called; nothing where there is no digest."""
        if digest is not None and self.root is not None:
            cells = [[row.get(column) for column in self.columns] for row in rows]
            self._rows[subject] = {"of": digest, "rows": cells}
            self._changed = True

    def save(self) -> None:
        """Write what is new, at once and for good; a store that cannot be written stays as it is."""
        if self.root is None or not self._changed:
            return
        self._rows = self._read() | self._rows  # of another process, meanwhile
        document = {"version": VERSION, "columns": list(self.columns), "subjects": _json(self._rows)}
        data = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        try:
            self._write(data)
        except StoreError as error:
            self.notes.append(f"the statistics are not kept in the store: {error.message}")
        self._changed = False

    def _write(self, data: bytes) -> None:
        if self.root is None:
            return
        directory = self.root / STATISTICS
        if directory.is_symlink():
            raise StoreError("its stats directory is a symlink", file=directory)
        make_directory(directory)
        publish_file(directory / f"{self.table}.json", [data])

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.root is None:
            return {}
        objects = LocalObjects(self.root)
        path = f"{STATISTICS}/{self.table}.json"
        try:
            data = objects.read_file(path, MAX_JSON_BYTES)
            document = {} if data is None else parse_object(data, file=self.root / path)
        except (SourceError, StoreError) as error:
            self.notes.append(f"the kept statistics cannot be read, and are computed again: {error.message}")
            return {}
        finally:
            objects.close()
        return _subjects(document, self.columns)


def digest_of(db: Store, tensors: Sequence[Tensor], options: Mapping[str, Any]) -> str | None:
    """Give what statistics of some arrays depend on; None where the store cannot tell.

    Parameters
    ----------
    db : Store
    tensors : sequence of Tensor
    options : mapping
        Choices that change the numbers, as JSON values.
    """
    catalog = db.catalog
    if catalog is None:
        return None
    known = [_identity(catalog, tensor) for tensor in tensors]
    if None in known:
        return None
    text = json.dumps([VERSION, dict(options), known], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _identity(catalog: Catalog, tensor: Tensor) -> list[Any] | None:
    """Give what an array's values depend on; None for a view of a part of one."""
    entry = catalog.arrays.get(tensor.key)
    if entry is None or entry.spec.shape != tensor.shape:
        return None
    spec = entry.spec
    heads = None if spec.heads is None else [spec.heads.axis, spec.heads.count]
    what = [tensor.key, spec.shape, spec.encoding.name, spec.encoding.scale_block, heads]
    if entry.link is None:
        return [*what, entry.chunk_rows, entry.crc32c]
    files = {part.file for part in (*entry.link.rows, *entry.link.scales)}
    return [*what, record_json(entry.link), [record_json(catalog.sources[i]) for i in sorted(files)]]


def _subjects(document: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Take the subjects of a document that is what `Kept.save` writes; of any other, none."""
    subjects = document.get("subjects")
    if document.get("version") != VERSION or document.get("columns") != list(columns):
        return {}
    if not isinstance(subjects, dict):
        return {}
    return {
        name: {"of": entry["of"], "rows": [_values(row, columns) for row in entry["rows"]]}
        for name, entry in subjects.items()
        if _is_entry(entry, columns)
    }


def _values(row: list[Any], columns: tuple[str, ...]) -> list[Any]:
    return [
        value if column in _TEXT else from_json(value) for column, value in zip(columns, row, strict=True)
    ]


def _is_entry(entry: object, columns: tuple[str, ...]) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("of"), str):
        return False
    rows = entry.get("rows")
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == len(columns) and all(map(_is_cell, columns, row))
        for row in rows
    )


def _is_cell(column: str, value: object) -> bool:
    if column in _TEXT:
        return isinstance(value, str)
    value = from_json(value)
    if isinstance(value, list):
        return column in _LISTS and all(isinstance(one, int | float) for one in value)
    return value is None or isinstance(value, int | float)


def _json(subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: {"of": entry["of"], "rows": [[to_json(value) for value in row] for row in entry["rows"]]}
        for name, entry in subjects.items()
    }
