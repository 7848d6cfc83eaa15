"""The documents of a store: its root, its catalog, each array's and group's zarr.json, and other files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from wvindex.errors import (
    NotAStore,
    SourceError,
    StoreError,
    StoreReplaced,
    StoreVersionError,
    UnsafePath,
    WvindexError,
)
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.strict_json import parse_object
from wvindex.store.catalog import Catalog, parse_catalog
from wvindex.store.checksum import crc32c
from wvindex.store.chunk_reader import MAX_ARRAY_JSON
from wvindex.store.metadata import (
    CATALOG_JSON,
    FORMAT,
    ZARR_JSON,
    array_metadata,
    dumps,
    group_metadata,
)
from wvindex.store.objects import Objects
from wvindex.store.reader import MAX_GROUP_JSON
from wvindex.store.staging import BUILDING_JSON
from wvindex.verifying.report import Findings, shown

_NOTHING: Final = "nothing"
_OPEN: Final = frozenset({"", "attributes"})
"""Where others may add members to a document: at its top, and to its attributes."""

_NO_CHECKSUM: Final = "the store has no checksum of it"


def check_root(objects: Objects, findings: Findings) -> Catalog | None:
    """Read the catalog, and hold the root's zarr.json and its checksums of other files against it.

    Returns
    -------
    Catalog or None
        None where it cannot be read: nothing else can be checked then.

    Raises
    ------
    NotAStore
        If this is no store, or an unfinished one.
    StoreVersionError
        If it is of a newer format.
    """
    root = _read(objects, ZARR_JSON, findings, limit=MAX_GROUP_JSON)
    is_refused = bool(findings.faults)
    data = _read(objects, CATALOG_JSON, findings)
    document = _parsed(root, objects, ZARR_JSON)
    claims = _claims(document)
    _require_known(claims, objects)
    if data is None and not findings.faults:
        raise _no_catalog(objects, is_ours=claims is not None)
    catalog = _catalog(data, objects, claims, findings) if data is not None else None
    if catalog is None:
        return None
    checksums = claims.get("files") if claims is not None else None
    written: dict[str, Any] = {"format": catalog.format, "generator": catalog.generator}
    written |= {"files": checksums} if claims is not None and "files" in claims else {}
    if not is_refused:
        _compare(group_metadata({"wvindex": written}), root, document, ZARR_JSON, None, findings)
    is_refused = is_refused or claims is None  # the root itself is the fault then
    _check_sums(objects, catalog, checksums, data or b"", findings, is_refused=is_refused)
    return catalog


def check_documents(objects: Objects, catalog: Catalog, findings: Findings) -> None:
    """Hold the zarr.json of every group and array against the catalog."""
    paths = [entry.path for entry in catalog.arrays.values()]
    for group in sorted(groups(paths)):
        _check_document(objects, f"{group}/{ZARR_JSON}", group_metadata({}), None, findings)
    for key, entry in catalog.arrays.items():
        if entry.link is None:
            expected = array_metadata(entry.spec, entry.grid)
            _check_document(objects, f"{entry.path}/{ZARR_JSON}", expected, key, findings)


def groups(paths: Iterable[str]) -> set[str]:
    """Give every directory between the root and arrays at `paths`."""
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")
        found |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return found


def fault_of(error: WvindexError) -> str:
    """Give the kind of fault that an error in reading a file is."""
    return "unsafe_path" if isinstance(error, UnsafePath) else "unreadable"


def _read(
    objects: Objects, path: str, findings: Findings, key: str | None = None, limit: int = MAX_JSON_BYTES
) -> bytes | None:
    """Read a document; what the system or its length refuses is a fault."""
    try:
        return objects.read_file(path, limit)
    except StoreReplaced:
        raise
    except (SourceError, StoreError) as error:
        findings.fault(fault_of(error), "a regular file", error.message, tensor=key, path=path)
        return None


def _parsed(data: bytes | None, objects: Objects, path: str) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        return dict(parse_object(data, file=Path(objects.location) / path))
    except SourceError:
        return None


def _claims(document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Give ``attributes.wvindex`` of the root; None where there is no such thing."""
    attributes = document.get("attributes") if document is not None else None
    claims = attributes.get("wvindex") if isinstance(attributes, Mapping) else None
    return claims if isinstance(claims, Mapping) and "format" in claims else None


def _require_known(claims: Mapping[str, Any] | None, objects: Objects) -> None:
    """Refuse a root of a newer format, whatever its catalog says: so does opening."""
    found = claims["format"] if claims is not None else FORMAT
    if type(found) is int and found > FORMAT:
        raise StoreVersionError(
            "the store is of a newer format; a newer wvindex reads it",
            file=objects.location,
            field="format",
            expected=f"at most {FORMAT}",
            found=found,
        )


def _no_catalog(objects: Objects, *, is_ours: bool) -> NotAStore:
    building = objects.read_file(BUILDING_JSON, MAX_JSON_BYTES) is not None
    if is_ours or building:
        return unfinished(objects.location, BUILDING_JSON if building else _NOTHING)
    return NotAStore("not a wvindex store", file=objects.location, expected=CATALOG_JSON, found=_NOTHING)


def unfinished(place: str | Path, found: str = BUILDING_JSON) -> NotAStore:
    """Say that a store has no catalog yet, or none any more."""
    return NotAStore(
        "an unfinished store: its build did not end", file=place, expected=CATALOG_JSON, found=found
    )


def _catalog(
    data: bytes, objects: Objects, claims: Mapping[str, Any] | None, findings: Findings
) -> Catalog | None:
    """Parse the catalog; if it is malformed, say so where the root says that this is a store."""
    try:
        return parse_catalog(data, file=f"{objects.location}/{CATALOG_JSON}")
    except StoreError as error:
        if isinstance(error, StoreVersionError) and (claims is None or claims["format"] != FORMAT):
            raise
        if claims is None:
            raise NotAStore(
                "not a wvindex store", file=objects.location, found=f"another {CATALOG_JSON}"
            ) from error
        where = f"{error.field}: " if error.field else ""
        findings.fault(
            "catalog",
            error.expected or "a catalog",
            f"{where}{error.found if error.found is not None else error.message}",
            path=CATALOG_JSON,
        )
        return None


def _check_sums(
    objects: Objects,
    catalog: Catalog,
    checksums: object,
    catalog_bytes: bytes,
    findings: Findings,
    *,
    is_refused: bool,
) -> None:
    """Hold the catalog and the files that it lists against the checksums that the root has of them."""
    known = checksums if isinstance(checksums, Mapping) else {}
    names = (CATALOG_JSON, *catalog.files)
    if not is_refused and set(known) != set(names):
        found = f"of {', '.join(map(str, known))}" if known else _NOTHING
        findings.fault("metadata", f"checksums of {', '.join(names)}", found, path=ZARR_JSON)
    for name in names:
        is_catalog = name == CATALOG_JSON
        n_faults = len(findings.faults)
        data = catalog_bytes if is_catalog else _read(objects, name, findings)
        if data is None:
            if len(findings.faults) == n_faults:
                findings.fault("file", "a file that the catalog lists", _NOTHING, path=name)
        elif name not in known:
            findings.skip("checksum", name, _NO_CHECKSUM)
        elif (crc := crc32c([data])) != known[name]:
            kind = "catalog" if is_catalog else "file"
            findings.fault(kind, checksum_text(known[name]), f"{crc:08x}", path=name)


def checksum_text(value: object) -> str:
    """Write an expected checksum."""
    return f"crc32c {value:08x}" if isinstance(value, int) else f"crc32c {value}"


def _check_document(
    objects: Objects, path: str, expected: Mapping[str, Any], key: str | None, findings: Findings
) -> None:
    n_faults = len(findings.faults)
    limit = MAX_ARRAY_JSON if key is not None else MAX_GROUP_JSON
    data = _read(objects, path, findings, key, limit)
    if len(findings.faults) == n_faults:
        _compare(expected, data, _parsed(data, objects, path), path, key, findings)


def _compare(
    expected: Mapping[str, Any],
    data: bytes | None,
    document: Mapping[str, Any] | None,
    path: str,
    key: str | None,
    findings: Findings,
) -> None:
    """Compare what a document means with what was written; white space and order are not looked at.

    Members that Zarr or a user has added beside it, also to the attributes, are noted.
    """
    if document is None:
        found = _NOTHING if data is None else "no JSON object"
        findings.fault("metadata", f"a {ZARR_JSON} of format {FORMAT}", found, tensor=key, path=path)
        return
    written = json.loads(dumps(expected))
    added = [name for name in document if name not in written]
    attributes = document.get("attributes")
    if isinstance(attributes, dict):
        added += [f"attributes.{name}" for name in attributes if name not in written["attributes"]]
    if added:
        findings.notes.append(f"{path}: not written by wvindex: {shown(', '.join(added))}")
    difference = _difference(written, document, "")
    if difference is not None:
        where, wanted, got = difference
        findings.fault("metadata", f"{where}: {wanted}", f"{where}: {got}", tensor=key, path=path)


def _difference(expected: Any, found: Any, where: str) -> tuple[str, str, str] | None:
    """Give the first member in which two JSON values differ, and what it is in each; 1 is not 1.0 or true."""
    if isinstance(expected, dict) and isinstance(found, dict):
        added = () if where in _OPEN else tuple(name for name in found if name not in expected)
        for name in (*expected, *added):
            inner = f"{where}.{name}" if where else name
            if name not in expected or name not in found:
                wanted, got = (
                    json.dumps(one[name]) if name in one else _NOTHING for one in (expected, found)
                )
                return inner, wanted, got
            difference = _difference(expected[name], found[name], inner)
            if difference is not None:
                return difference
        return None
    wanted, got = (json.dumps(side, sort_keys=True) for side in (expected, found))
    return None if wanted == got else (where, wanted, got)
