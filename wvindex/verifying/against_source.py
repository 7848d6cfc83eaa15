"""A store beside the checkpoint that it was made from: every array, decoded by other people's packages."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wvindex.arch.config import ModelConfig
from wvindex.errors import (
    SourceChanged,
    SourceError,
    StoreError,
    StoreReplaced,
    UndecodableType,
    UnsafePath,
)
from wvindex.formats.arrays import RowReader
from wvindex.sources.base import FileFingerprint, Source
from wvindex.sources.detect import open_source
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.links import LinkedFiles, LinkedReader, linked_files
from wvindex.store.objects import Objects
from wvindex.store.reader import ChunkReader
from wvindex.verifying.absorbed import Factors, compare_absorbed, compare_joined
from wvindex.verifying.comparing import Comparison, compare_rows
from wvindex.verifying.derived import check_derived
from wvindex.verifying.experts import LAID_OUT, compare_experts
from wvindex.verifying.formulas import ABSORBED, JOINED, Unexplained, Unfit, recipe_of
from wvindex.verifying.kept_files import check_kept, check_tokenizer
from wvindex.verifying.ledger import check_accounting
from wvindex.verifying.report import Findings
from wvindex.verifying.source_rows import FP8Scales, SourceRows
from wvindex.verifying.witness import Witness, WitnessTensor, witness_of


@dataclass
class SourceTotals:
    """How much was compared, and by which decoder."""

    compared: Counter[str] = field(default_factory=Counter)
    nbytes: int = 0
    seconds: float = 0.0


def check_source(
    objects: Objects,
    catalog: Catalog,
    source: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    findings: Findings,
    on_bytes: Callable[[str, int], None],
    n_threads: int,
) -> SourceTotals:
    """Compare every array of a store with a checkpoint.

    Raises
    ------
    SourceError, UnsupportedError
        If the checkpoint's headers cannot be read; nothing is compared then.
    """
    started = time.monotonic()
    with open_source(Path(source), config) as opened:
        _check_fingerprints(opened.fingerprint(), catalog, findings)
        _check_config(opened, catalog, findings)
        witness = witness_of(opened)
        _check_headers(opened, witness, findings)
        derived = check_derived(opened, catalog, findings)
        check_tokenizer(opened, objects, catalog, findings)
        check_kept(opened, objects, catalog, findings)
        fp8 = FP8Scales(witness, _scale_block(opened.config()))
    check_accounting(catalog, witness.tensors, findings)
    for line in catalog.ledger:
        if not line.keys:
            findings.skip("values", line.tensor, f"in no array: {line.reason}")
    totals = SourceTotals()
    files = linked_files(objects, catalog)  # where a store is in no directory, links are refused
    try:
        check = _SourceCheck(objects, derived, files, witness, fp8, findings, n_threads)
        for key, entry in catalog.arrays.items():
            if check.array(key, entry):
                totals.compared[witness.decoder] += 1
                totals.nbytes += entry.spec.nbytes
            on_bytes(key, entry.spec.nbytes)
    finally:
        files.close()
    totals.seconds = time.monotonic() - started
    return totals


class _SourceCheck:
    """Compares arrays, one after another."""

    def __init__(
        self,
        objects: Objects,
        config: ModelConfig,
        files: LinkedFiles,
        witness: Witness,
        fp8: FP8Scales,
        findings: Findings,
        n_threads: int,
    ) -> None:
        self._objects = objects
        self._config = config
        self._files = files
        self._witness = witness
        self._fp8 = fp8
        self._findings = findings
        self._n_threads = n_threads

    def array(self, key: str, entry: ArrayEntry) -> bool:
        """Compare one array; tell whether its values were."""
        try:
            comparison = self._compare(entry)
        except Unexplained as error:
            self._findings.skip("values", key, str(error))
        except UndecodableType as error:
            self._findings.skip("values", key, f"{error.message} ({error.found})")
        except Unfit as error:
            self._findings.fault("source_tensor", error.expected, error.found, tensor=key)
        except UnsafePath as error:
            self._findings.skip("values", key, f"it cannot be read: {error.message}")
        except StoreReplaced:
            raise
        except (SourceChanged, StoreError) as error:
            self._findings.skip("values", key, f"it cannot be read: {error.message}")
        except SourceError as error:
            self._findings.fault("unreadable", "to be read for the comparison", str(error), tensor=key)
        else:
            self._report(key, entry, comparison)
            return comparison.undecodable is None
        return False

    def _compare(self, entry: ArrayEntry) -> Comparison:
        spec, stored = entry.spec, self._reader(entry)
        if not all(name in self._witness.tensors for name in spec.sources):
            raise Unexplained("tensors that it is made of are not in the source")
        if ABSORBED in spec.transforms:
            factors = Factors(spec, self._config, self._witness, self._fp8)
            return compare_absorbed(spec, stored, factors)
        if JOINED in spec.transforms:
            return compare_joined(spec, stored, self._config, self._witness, self._fp8)
        if LAID_OUT.intersection(spec.transforms):
            return compare_experts(spec, stored, self._witness, self._fp8)
        recipe = recipe_of(spec, self._config, self._witness.tensors)
        if spec.exactness in ("bit", "reordered"):
            for tensor in recipe.sources:
                if tensor.encoding != spec.encoding.name:
                    raise Unfit(spec.encoding.name, f"{tensor.encoding} in {tensor.name}")
        rows = SourceRows(recipe, self._witness, self._fp8)
        return compare_rows(spec, stored, rows, self._n_threads)

    def _reader(self, entry: ArrayEntry) -> RowReader:
        if entry.link is not None:
            return LinkedReader(self._files, entry.spec, entry.link)
        return ChunkReader(self._objects, entry, check="never")

    def _report(self, key: str, entry: ArrayEntry, comparison: Comparison) -> None:
        if comparison.undecodable is not None:
            self._findings.skip("values", key, comparison.undecodable)
        for difference in comparison.differences:
            what = "rows" if difference.kind == "source_bytes" else "values"
            place = f"[{difference.row}, {difference.column}]"
            chunk = None
            if entry.link is None and entry.grid.n_chunks:
                row = difference.row if len(entry.spec.shape) > 1 else 0
                chunk = entry.grid.name(entry.grid.chunk_at(row))
            self._findings.fault(
                difference.kind,
                f"{difference.expected} at {place}, from {difference.source}",
                f"{difference.found}; {difference.count} of {difference.total} {what} differ",
                tensor=key,
                chunk=chunk,
                path=entry.path,
            )


def _check_fingerprints(files: tuple[FileFingerprint, ...], catalog: Catalog, findings: Findings) -> None:
    """Compare the source's files with those that the store was made from."""
    if len(files) != len(catalog.sources):
        findings.fault("source_changed", f"{len(catalog.sources)} files", f"{len(files)} files")
        return
    for known, found in zip(catalog.sources, files, strict=True):
        for name in ("size", "header_sha256"):
            expected, value = getattr(known, name), getattr(found, name)
            if expected != value:
                findings.fault("source_changed", f"{name} {expected}", f"{name} {value}", path=found.name)
        for name, what in (("name", "name"), ("mtime_ns", "time of change")):
            if getattr(known, name) != getattr(found, name):
                findings.notes.append(f"{found.name}: its {what} is not what the store was made from")


def _check_config(source: Source, catalog: Catalog, findings: Findings) -> None:
    """Compare the source's configuration with the one that the store recorded, member by member."""
    recorded = catalog.to_json()["source"]["config"]
    found = replace(catalog, source_config=source.config()).to_json()["source"]["config"]
    for name in sorted({*recorded, *found}):
        expected, value = recorded.get(name, "nothing"), found.get(name, "nothing")
        if repr(expected) != repr(value):
            findings.fault("source_config", f"{name}: {value}", f"{name}: {expected}", path="catalog.json")


def _check_headers(source: Source, witness: Witness, findings: Findings) -> None:
    """See that wvindex and the other package find the same tensors in the same places."""
    for note in witness.notes:
        findings.skip("header", note.partition(":")[0], note)
    for info in source.tensors():
        tensor = witness.tensors.get(info.name)
        ours = (info.shape, info.encoding.name, info.offset, info.nbytes)
        theirs = _place(tensor) if tensor is not None else "no such tensor"
        if ours != theirs:
            findings.fault(
                "source_tensor", f"{theirs} by the {witness.decoder}", f"{ours} by wvindex", tensor=info.name
            )


def _place(tensor: WitnessTensor) -> tuple[tuple[int, ...], str, int, int]:
    return tensor.shape, tensor.encoding, tensor.offset, tensor.nbytes


def _scale_block(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Give the rows and columns that share an FP8 scale, as the checkpoint's config.json says."""
    quantization = config.get("quantization_config")
    block = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        return None
    return block[0], block[1]
