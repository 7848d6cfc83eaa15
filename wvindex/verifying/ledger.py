"""The ledger against the arrays and against a source, and the files that arrays are linked to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from wvindex.errors import WvindexError
from wvindex.store.catalog import Catalog, LedgerEntry
from wvindex.store.links import linked_files
from wvindex.store.metadata import CATALOG_JSON
from wvindex.store.objects import LocalObjects, Objects
from wvindex.verifying.report import Findings

if TYPE_CHECKING:
    from wvindex.verifying.witness import WitnessTensor

_SCALES: Final = "scales"
"""Reason of a ledger line whose tensor is in its arrays without being named as their source."""


def check_ledger(catalog: Catalog, findings: Findings) -> None:
    """Check that lines name stored arrays or reasons, and that lines and arrays name each other."""
    lines = {line.tensor: line for line in catalog.ledger}
    twice = [tensor for tensor, n in Counter(line.tensor for line in catalog.ledger).items() if n > 1]
    for tensor in twice:
        _fault(findings, tensor, "one line", "several")
    files = {file.name.rpartition("/")[2] for file in catalog.sources}
    for line in catalog.ledger:
        _check_line(line, catalog, lines, files, findings)
    for key, entry in catalog.arrays.items():
        for name in entry.spec.sources:
            if name not in lines:
                _fault(findings, name, f"a line, for {key} is made of it", "none")
            elif key not in lines[name].keys:
                _fault(findings, name, f"{key}, which is made of it", f"keys {list(lines[name].keys)}")


def check_accounting(catalog: Catalog, tensors: Mapping[str, WitnessTensor], findings: Findings) -> None:
    """Hold the ledger against the tensors of a source: no more, no fewer, each of its shape and encoding."""
    lines = {line.tensor: line for line in catalog.ledger}
    for name in tensors:
        if name not in lines:
            _fault(findings, name, "a line for every tensor of the source", "none")
    for name, line in lines.items():
        if name not in tensors:
            findings.fault("source_tensor", _form(line.encoding, line.shape), "no such tensor", tensor=name)
            continue
        expected, found = ((one.encoding, one.shape) for one in (line, tensors[name]))
        if expected != found:
            findings.fault("source_tensor", _form(*expected), _form(*found), tensor=name)


def check_linked_files(objects: Objects, catalog: Catalog, findings: Findings) -> None:
    """Check that each file which arrays are linked to is the one that the catalog describes."""
    users: defaultdict[int, list[str]] = defaultdict(list)
    for key, entry in catalog.arrays.items():
        if entry.link is not None:
            findings.skip("checksum", key, "linked: its bytes are the source's, which has none")
            findings.skip("nonfinite", key, "linked: nobody counted when the store was built")
            for file in {part.file for part in (*entry.link.rows, *entry.link.scales)}:
                users[file].append(key)
    if not isinstance(objects, LocalObjects):
        for key in sorted({key for keys in users.values() for key in keys}):
            findings.skip("bytes", key, "linked: its source cannot be reached from here")
        return
    files = linked_files(objects, catalog)
    try:
        for file, keys in sorted(users.items()):
            try:
                files.verify(file)
            except WvindexError as error:
                what = f"{error.field} " if error.field else ""
                findings.fault(
                    "source_changed",
                    f"{what}{error.expected}",
                    f"{what}{error.found}",
                    path=error.file or catalog.links[file],
                    affects=tuple(keys),
                )
    finally:
        files.close()


def _check_line(
    line: LedgerEntry,
    catalog: Catalog,
    lines: Mapping[str, LedgerEntry],
    files: set[str],
    findings: Findings,
) -> None:
    if line.file not in files:
        _fault(findings, line.tensor, f"a file of the source: {', '.join(sorted(files))}", line.file)
    if not line.keys and line.reason is None:
        _fault(findings, line.tensor, "arrays that hold it, or a reason why none does", "neither")
    for key in line.keys:
        entry = catalog.arrays.get(key)
        if entry is None:
            _fault(findings, line.tensor, "keys of stored arrays", key)
        elif line.reason == _SCALES:
            continue
        elif line.tensor not in entry.spec.sources:
            _fault(findings, line.tensor, f"to be a source of {key}", f"sources {list(entry.spec.sources)}")
        elif entry.spec.exactness == "bit":
            expected = _form(entry.spec.encoding.name, entry.spec.shape)
            if (found := _form(line.encoding, line.shape)) != expected:
                _fault(findings, line.tensor, f"{expected}, as {key} has its bytes", found)


def _form(encoding: str, shape: tuple[int, ...]) -> str:
    return f"{encoding} {list(shape)}"


def _fault(findings: Findings, tensor: str, expected: str, found: str) -> None:
    findings.fault("ledger", expected, found, tensor=tensor, path=CATALOG_JSON)
