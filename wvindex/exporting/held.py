"""What is exported: a store, or a bare checkpoint seen as the store that would keep it, open for reading."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.registry import FAMILIES
from wvindex.converting.stored_rows import StoredRows
from wvindex.errors import UsageError
from wvindex.exporting.chunks import ChunkCache, VerifiedRows
from wvindex.formats.arrays import ArraySpec, RowReader, part_spec
from wvindex.formats.ledger import LedgerEntry
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import TokenizerData
from wvindex.sources.detect import open_source
from wvindex.sources.gguf_kept import KeptGGUF, read_gguf_document
from wvindex.sources.kept import GGUF_METADATA, kept_files
from wvindex.sources.unchanged import require_unchanged
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.links import LinkedReader, linked_files
from wvindex.store.metadata import CATALOG_JSON, ZARR_JSON
from wvindex.store.objects import Objects
from wvindex.store.reader import ChunkReader, open_finished, read_files, read_tokenizer
from wvindex.store.remote import is_path
from wvindex.store.staging import BUILDING_JSON
from wvindex.transform.plan import plan_source, require_representable


@dataclass(frozen=True)
class Held:
    """A model that is open, and all that is known of where it came from.

    Attributes
    ----------
    name : str
        For messages, and for names that are made of it.
    config : ModelConfig
    family : Family or None
    source_format : str
        ``gguf``, ``safetensors``, ...
    source_config : mapping
        The source's own configuration.
    ledger : tuple of LedgerEntry
        The source's tensors, in their order.
    arrays : mapping of str to StoredRows
        By key, in the store's order; what was fused stands under its own keys.
    tokenizer : TokenizerData or None
    kept : mapping of str to bytes
        Files below ``source/``; empty for a store that kept none.
    identity : list of mapping
        JSON values that tell it from others.
    require_unchanged : callable
        Raises `SourceChanged` if a bare checkpoint's files are no longer what they were; a store's chunks are
        verified as they are read.
    """

    name: str
    config: ModelConfig
    family: Family | None
    source_format: str
    source_config: Mapping[str, Any]
    ledger: tuple[LedgerEntry, ...]
    arrays: Mapping[str, StoredRows]
    tokenizer: TokenizerData | None
    kept: Mapping[str, bytes]
    identity: list[dict[str, Any]]
    require_unchanged: Callable[[], None]

    @property
    def specs(self) -> list[ArraySpec]:
        """What each array is."""
        return [rows.spec for rows in self.arrays.values()]

    def gguf(self) -> KeptGGUF | None:
        """Give what the GGUF source said besides weights; None where that was not kept.

        Raises
        ------
        CatalogError
            If it is malformed.
        """
        data = self.kept.get(GGUF_METADATA)
        if data is None:
            return None
        tokenizer = self.tokenizer.gguf if self.tokenizer is not None else {}
        return read_gguf_document(data, tokenizer, file=f"{self.name}/{GGUF_METADATA}")


@contextmanager
def open_held(path: str | os.PathLike[str]) -> Iterator[Held]:
    """Open a store, or a bare checkpoint.

    Raises
    ------
    StoreError, SourceError, UnsupportedError
        As `wvindex.open`.
    UsageError
        If it is no path.
    """
    if not is_path(path):
        raise UsageError("not a path", field="store", expected="a path or a URL", found=repr(path))
    where = os.fspath(path)
    is_store = any(os.path.lexists(Path(where) / name) for name in (ZARR_JSON, BUILDING_JSON, CATALOG_JSON))
    with _of_store(where) if "://" in where or is_store else _of_checkpoint(Path(where)) as held:
        yield held


@contextmanager
def _of_store(path: str) -> Iterator[Held]:
    objects, catalog = open_finished(path)
    try:
        files = linked_files(objects, catalog)
        try:
            cache = ChunkCache()

            def reader(entry: ArrayEntry) -> RowReader:
                if entry.link is not None:
                    return LinkedReader(files, entry.spec, entry.link)
                return VerifiedRows(ChunkReader(objects, entry), entry.spec, cache)

            yield _held_store(objects, catalog, reader)
        finally:
            files.close()
    finally:
        objects.close()


def _held_store(objects: Objects, catalog: Catalog, reader: Callable[[ArrayEntry], RowReader]) -> Held:
    others = [name for name in catalog.files if name not in catalog.tokenizer_files]
    document = objects.read_file(CATALOG_JSON, MAX_JSON_BYTES) or b""
    arrays: dict[str, StoredRows] = {}
    for entry in catalog.arrays.values():
        arrays |= _with_parts(entry.spec, reader(entry))
    return Held(
        name=objects.location,
        config=catalog.config,
        family=family_named(catalog.config.family),
        source_format=catalog.source_format,
        source_config=catalog.source_config,
        ledger=catalog.ledger,
        arrays=arrays,
        tokenizer=read_tokenizer(objects, catalog),
        kept=read_files(objects, catalog, others),
        identity=[{"name": CATALOG_JSON, "sha256": hashlib.sha256(document).hexdigest()}],
        require_unchanged=lambda: None,
    )


@contextmanager
def _of_checkpoint(path: Path) -> Iterator[Held]:
    with open_source(path) as source:
        planned = plan_source(source, mla="keep")
        require_representable(planned)
        arrays: dict[str, StoredRows] = {}
        for operation in planned.operations:
            arrays |= _with_parts(operation.spec, operation.rows)
        yield Held(
            name=str(path),
            config=planned.config,
            family=planned.family,
            source_format=source.format,
            source_config=source.config(),
            ledger=planned.ledger,
            arrays=arrays,
            tokenizer=source.tokenizer(),
            kept=kept_files(source, planned.ledger),
            identity=[asdict(file) for file in source.fingerprint()],
            require_unchanged=partial(require_unchanged, source),
        )


def _with_parts(spec: ArraySpec, reader: RowReader) -> dict[str, StoredRows]:
    """Give an array by its key; a fused one by the keys of its parts."""
    if not spec.parts:
        return {spec.key: StoredRows(spec, reader)}
    return {part.key: StoredRows(part_spec(spec, part), reader, part.rows[0]) for part in spec.parts}


def family_named(name: str | None) -> Family | None:
    """Give the family that a configuration names; None where it is not known."""
    return next((family for family in FAMILIES if family.name == name), None)
