"""The tokenizer and the other files that a store keeps of its source, beside the source's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wvindex.arch.gguf_metadata import ROPE_TENSORS
from wvindex.errors import SourceError, StoreError, StoreReplaced
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import Source
from wvindex.sources.kept import kept_files
from wvindex.store.catalog import Catalog
from wvindex.store.objects import Objects
from wvindex.store.reader import GGUF_TOKENIZER
from wvindex.verifying.report import Findings


def check_tokenizer(source: Source, objects: Objects, catalog: Catalog, findings: Findings) -> None:
    """Compare files byte by byte, and GGUF's metadata value by value."""
    found = source.tokenizer()
    files = {f"tokenizer/{name}": data for name, data in found.files.items()} if found is not None else {}
    gguf = found.gguf if found is not None else {}
    expected = {*files, *([GGUF_TOKENIZER] if gguf else [])}
    for path in sorted(expected.symmetric_difference(catalog.tokenizer_files)):
        wanted, got = ("a file", "nothing") if path in expected else ("nothing", "a file")
        findings.fault("source_tokenizer", wanted, f"{got} in the catalog", path=path)
    for path in sorted(expected.intersection(catalog.tokenizer_files)):
        data = _read(objects, path, findings)
        if data is None:
            continue
        if path in files:
            if data != files[path]:
                findings.fault("source_tokenizer", "the source's bytes", _first(files[path], data), path=path)
        elif (difference := _difference(gguf, data)) is not None:
            findings.fault("source_tokenizer", *difference, path=path)


def _read(objects: Objects, path: str, findings: Findings) -> bytes | None:
    """Read a file; that it cannot be read is a fault that was told already."""
    try:
        data = objects.read_file(path, MAX_JSON_BYTES)
    except StoreReplaced:
        raise
    except (SourceError, StoreError) as error:
        findings.skip("file", path, f"it cannot be read: {error.message}")
        return None
    if data is None:
        findings.skip("file", path, "there is no such file")
    return data


def _first(expected: bytes, found: bytes) -> str:
    """Tell where bytes begin to differ."""
    place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if place is None:
        return f"{len(found)} bytes for {len(expected)}"
    return f"others from byte {place} on"


def _difference(expected: Mapping[str, Any], data: bytes) -> tuple[str, str] | None:
    """Give the first member that differs, what it is in the source, and what in the store."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return "a JSON object", "no JSON object"
    for name in sorted({*expected, *found}):
        wanted, got = (
            json.dumps(one[name], sort_keys=True) if name in one else "nothing" for one in (expected, found)
        )
        if wanted != got:
            return f"{name}: {wanted[:100]}", f"{name}: {got[:100]}, {_place(wanted, got)}"
    return None


def _place(wanted: str, got: str) -> str:
    return _first(wanted.encode(), got.encode()) + " of its JSON"


def check_kept(source: Source, objects: Objects, catalog: Catalog, findings: Findings) -> None:
    """Compare what else a store keeps of its source, byte by byte; older stores keep nothing."""
    kept = [path for path in catalog.files if path not in catalog.tokenizer_files]
    if not kept and source.format == "maxtext":
        return  # an export needs no more of it than the catalog has
    if not kept:
        findings.notes.append("the store keeps no files of its source but the tokenizer's: an older build's")
        return
    expected = kept_files(source, [line for line in catalog.ledger if line.tensor in ROPE_TENSORS])
    for path in sorted(expected.keys() ^ set(kept)):
        wanted, got = ("a file", "nothing") if path in expected else ("nothing", "a file")
        findings.fault("source_file", wanted, f"{got} in the catalog", path=path)
    for path in sorted(expected.keys() & set(kept)):
        data = _read(objects, path, findings)
        if data is not None and data != expected[path]:
            findings.fault("source_file", "what the source says", _first(expected[path], data), path=path)
