"""The catalog: what a store holds, where each array came from, and which chunks must exist.

It stands in ``catalog.json`` at the store's root, as ``schemas/catalog.schema.json`` describes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.validity import first_fault
from wvindex.errors import CatalogError, SourceError, StoreVersionError
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.ledger import LedgerEntry
from wvindex.sources.base import FileFingerprint
from wvindex.sources.strict_json import parse_object
from wvindex.store.entries import ArrayEntry, ArrayRecord, array_entry, array_json
from wvindex.store.link_checks import check_links
from wvindex.store.metadata import FORMAT
from wvindex.store.records import Mismatch, read_record, record_json

__all__ = ["EXTRA_FILE", "ArrayEntry", "Catalog", "LedgerEntry", "parse_catalog"]

EXTRA_FILE: Final = re.compile(r"(tokenizer|source)/[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
"""Paths of files that a store keeps beside its arrays."""

TOKENIZER: Final = "tokenizer/"
"""Where the tokenizer's files are."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that a store says about itself.

    Attributes
    ----------
    config : ModelConfig
    generator : str
        What wrote the store: ``wvindex 0.1.0``.
    sources : tuple of FileFingerprint
    source_format : str
    options : mapping
        Build options, as JSON values.
    source_config : mapping
        The source's own configuration as found. Floats that JSON lacks are the strings ``NaN``, ``Infinity``
        and ``-Infinity``.
    ledger : tuple of LedgerEntry
        One entry a source tensor.
    arrays : mapping of str to ArrayEntry
        By standard key.
    files : tuple of str
        Other files of the store (the tokenizer's, and what else of the source is kept), by their paths
        below its root.
    links : tuple of str
        For each of `sources`, its path relative to the store's directory, where arrays are linked (see
        `wvindex.formats.arrays.Link`); empty where all were copied.
    format : int
        Version of the store's format.
    """

    config: ModelConfig
    generator: str
    sources: tuple[FileFingerprint, ...]
    source_format: str
    options: Mapping[str, Any]
    source_config: Mapping[str, Any]
    ledger: tuple[LedgerEntry, ...]
    arrays: Mapping[str, ArrayEntry]
    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """Those of `files` that are the tokenizer's."""
        return tuple(name for name in self.files if name.startswith(TOKENIZER))

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values; `from_json` reads them back to an equal object."""
        return {
            "format": self.format,
            "generator": self.generator,
            "config": self.config.to_json(),
            "source": {
                "format": self.source_format,
                "files": record_json(self.sources),
                "links": list(self.links),
                "config": _finite(self.source_config),
            },
            "options": _finite(self.options),
            "files": list(self.files),
            "arrays": {key: array_json(entry) for key, entry in self.arrays.items()},
            "ledger": record_json(self.ledger),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, file: str | Path | None = None) -> Catalog:
        """Read what `to_json` gave.

        Raises
        ------
        StoreVersionError
            If the format is newer than this wvindex.
        CatalogError
            If a field is missing, unknown, of the wrong type, or contradicts another.
        """
        _require_format(data.get("format"), file)
        try:
            record = read_record(_CatalogRecord, data)
            _check_config(record.config)
            _check_files(record.files)
            arrays = _entries(record.arrays)
            check_links(record.source.files, record.source.links, arrays)
        except Mismatch as fault:
            raise CatalogError(
                "the catalog is malformed",
                file=file,
                field=".".join(fault.path),
                expected=fault.expected,
                found=fault.found,
            ) from None
        return cls(
            format=record.format,
            generator=record.generator,
            config=record.config,
            sources=record.source.files,
            source_format=record.source.format,
            source_config=record.source.config,
            options=record.options,
            files=record.files,
            links=record.source.links,
            arrays=arrays,
            ledger=record.ledger,
        )


def parse_catalog(data: bytes, *, file: str | Path) -> Catalog:
    """Read the bytes of a ``catalog.json``.

    Raises
    ------
    StoreVersionError, CatalogError
        As `Catalog.from_json`; also if it is not strict JSON.
    """
    try:
        document = parse_object(data, file=Path(file))
    except SourceError as error:
        raise CatalogError(
            f"the catalog is not readable: {error.message}",
            file=file,
            offset=error.offset,
            field=error.field,
            expected=error.expected,
            found=error.found,
        ) from error
    return Catalog.from_json(document, file=file)


@dataclass(frozen=True, kw_only=True)
class _SourceRecord:
    format: str
    files: tuple[FileFingerprint, ...]
    config: Mapping[str, Any]
    links: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _CatalogRecord:
    format: int
    generator: str
    config: ModelConfig
    source: _SourceRecord
    options: Mapping[str, Any]
    files: tuple[str, ...]
    arrays: Mapping[str, ArrayRecord]
    ledger: tuple[LedgerEntry, ...]


def _check_config(config: ModelConfig) -> None:
    """Check what no configuration may say, whoever wrote it."""
    fault = first_fault(config)
    if fault is not None:
        raise Mismatch(fault.expected, fault.found, ("config", *fault.field.split(".")))


def _check_files(files: tuple[str, ...]) -> None:
    for i, name in enumerate(files):
        if not EXTRA_FILE.fullmatch(name):
            raise Mismatch("tokenizer/ or source/ and a plain file name", name, ("files", f"[{i}]"))


def _entries(records: Mapping[str, ArrayRecord]) -> dict[str, ArrayEntry]:
    entries = {}
    for key, record in records.items():
        try:
            entries[key] = array_entry(key, record)
        except Mismatch as fault:
            raise fault.within(key).within("arrays") from None
    taken = set(entries)
    for key, entry in entries.items():
        _check_row_scale(key, entry.spec, entries)
        for part in entry.spec.parts:
            if part.key in taken:
                raise Mismatch("a key of its own", part.key, ("arrays", key, "parts"))
            taken.add(part.key)
    return entries


def _check_row_scale(key: str, spec: ArraySpec, arrays: Mapping[str, ArrayEntry]) -> None:
    scale = spec.row_scale
    if scale is None:
        return
    where = ("arrays", key, "row_scale")
    if scale.weight not in arrays:
        raise Mismatch("the key of an array", scale.weight, (*where, "weight"))
    weight = arrays[scale.weight].spec
    is_matrix = len(spec.shape) > 1
    if len(weight.shape) != 2 or (is_matrix and weight.row_values != spec.row_values):
        expected = f"a matrix that takes {spec.row_values} values" if is_matrix else "a matrix"
        raise Mismatch(expected, weight.shape, (*where, "weight"))
    if not 0 <= scale.rows[0] < scale.rows[1] <= weight.n_rows:
        raise Mismatch(f"rows of {weight.shape}", scale.rows, (*where, "rows"))
    if scale.eps < 0:
        raise Mismatch("0 or more", scale.eps, (*where, "eps"))
    outputs = spec.shape[0] if spec.shape else 1
    width = outputs // spec.heads.count if spec.heads and spec.heads.axis == 0 else outputs
    if not 0 <= scale.head_slice[0] < scale.head_slice[1] <= width:
        raise Mismatch(f"within 0 to {width}", scale.head_slice, (*where, "head_slice"))


def _require_format(found: object, file: str | Path | None) -> None:
    if type(found) is not int or found < 1:
        raise CatalogError(
            "the catalog is malformed",
            file=file,
            field="format",
            expected=f"an integer from 1 to {FORMAT}",
            found=found,
        )
    if found > FORMAT:
        raise StoreVersionError(
            "the store is of a newer format; a newer wvindex reads it",
            file=file,
            field="format",
            expected=f"at most {FORMAT}",
            found=found,
        )


def _finite(value: Any) -> Any:
    """Give JSON values: tuples as lists, and floats that JSON lacks under the names that Zarr gives them."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
