"""Opens a store: is it one, is it finished, of which format, and what does its catalog say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wvindex.errors import (
    CatalogError,
    NotAStore,
    StoreReplaced,
    StoreVersionError,
    UsageError,
    WvindexError,
)
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.base import TokenizerData
from wvindex.store.catalog import TOKENIZER, Catalog, parse_catalog
from wvindex.store.checksum import crc32c
from wvindex.store.chunk_reader import Check, ChunkReader
from wvindex.store.metadata import CATALOG_JSON, FORMAT, ZARR_JSON
from wvindex.store.objects import LocalObjects, Objects
from wvindex.store.remote import open_objects

if TYPE_CHECKING:
    import zarr.abc.store

__all__ = [
    "CHECKS",
    "GGUF_TOKENIZER",
    "Check",
    "ChunkReader",
    "is_store",
    "open_catalog",
    "open_finished",
    "read_catalog",
    "read_files",
    "read_tokenizer",
    "require_check",
]

GGUF_TOKENIZER: Final = "tokenizer/gguf.json"
"""GGUF's ``tokenizer.*`` metadata; other files of ``tokenizer/`` are the source's own."""

CHECKS: Final[tuple[Check, ...]] = ("never", "chunks", "always")

MAX_GROUP_JSON: Final = 16 << 20
"""The root's zarr.json holds a version number; Zarr's consolidated metadata may stand there too."""


def require_check(check: str) -> None:
    """Refuse a `check` that there is not.

    Raises
    ------
    UsageError
    """
    if check not in CHECKS:
        raise UsageError("no such way to check", field="check", expected=", ".join(CHECKS), found=check)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell whether a directory's ``zarr.json`` is that of a wvindex store; it is not followed elsewhere."""
    try:
        objects = LocalObjects(Path(path), wait=0.01)
        root = objects.read_file(ZARR_JSON, MAX_GROUP_JSON)
    except WvindexError:
        return False
    return root is not None and "format" in _claims_of(root)


def _claims_of(document: bytes) -> Mapping[str, Any]:
    """Give ``attributes.wvindex`` of a group's document; empty where there is none."""
    try:
        claims = json.loads(document)["attributes"]["wvindex"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def open_catalog(path: str | os.PathLike[str] | zarr.abc.store.Store) -> Catalog:
    """Read the catalog of a store.

    Parameters
    ----------
    path : path, URL or Zarr store

    Raises
    ------
    NotAStore
        If it is missing, something else, or an unfinished build.
    StoreVersionError
        If it is of a newer format.
    CatalogError
        If the catalog is malformed.
    """
    objects, catalog = open_finished(path)
    objects.close()
    return catalog


def open_finished(
    path: str | os.PathLike[str] | zarr.abc.store.Store, attempts: int = 3
) -> tuple[Objects, Catalog]:
    """Open a store's objects and read its catalog; raises as `open_catalog`.

    A store that is replaced meanwhile is opened again: what is given is one store, whole.
    """
    objects = open_objects(path)
    try:
        return objects, read_catalog(objects)
    except StoreReplaced:
        objects.close()
        if attempts > 1:
            return open_finished(path, attempts - 1)
        raise
    except BaseException:
        objects.close()
        raise


def read_catalog(objects: Objects) -> Catalog:
    """Read the catalog of a store whose objects are open; raises as `open_catalog`."""
    location = objects.location
    root = objects.read_file(ZARR_JSON, MAX_GROUP_JSON)
    claims = {} if root is None else _claims_of(root)
    found = _require_format(claims, location, "nothing" if root is None else f"another {ZARR_JSON}")
    data = objects.read_file(CATALOG_JSON, MAX_JSON_BYTES)
    if data is None:
        raise NotAStore(
            "the store has no catalog: its build did not finish",
            file=location,
            expected=CATALOG_JSON,
            found="nothing",
        )
    _require_written(data, claims, CATALOG_JSON, location)
    catalog = parse_catalog(data, file=f"{location}/{CATALOG_JSON}")
    if catalog.format != found:
        raise CatalogError(
            "the catalog is of another format than the store",
            file=location,
            field="format",
            expected=found,
            found=catalog.format,
        )
    return catalog


def _require_format(claims: Mapping[str, Any], location: str, instead: str) -> int:
    """Give the format that the root claims; `instead` says what stands there where it claims none."""
    found = claims.get("format")
    if found is None:
        raise NotAStore(
            "not a wvindex store",
            file=location,
            expected=f"a {ZARR_JSON} that says so",
            found=instead,
        )
    if type(found) is int and found > FORMAT:
        raise StoreVersionError(
            "the store is of a newer format; a newer wvindex reads it",
            file=location,
            field="format",
            expected=f"at most {FORMAT}",
            found=found,
        )
    if type(found) is not int or found < 1:
        raise CatalogError(
            "the store is of no format that there is",
            file=f"{location}/{ZARR_JSON}",
            field="format",
            expected=f"an integer from 1 to {FORMAT}",
            found=repr(found),
        )
    return found


def _require_written(data: bytes, claims: Mapping[str, Any], path: str, location: str) -> None:
    """Hold a file against the checksum that the root has of it.

    Raises
    ------
    CatalogError
        If it is not what was written, or nothing says what was.
    """
    files = claims.get("files")
    expected = files.get(path) if isinstance(files, dict) else None
    if (found := crc32c([data])) != expected:
        raise CatalogError(
            "a file of the store is not what was written",
            file=f"{location}/{path}",
            field="crc32c",
            expected="a checksum of it in the root" if expected is None else expected,
            found=found,
        )


def read_tokenizer(objects: Objects, catalog: Catalog) -> TokenizerData | None:
    """Give the tokenizer that a store keeps, as it was found in the source; None where there is none.

    Raises
    ------
    CatalogError
        If a file that the catalog lists is missing, unreadable, or not what was written.
    """
    found = read_files(objects, catalog, catalog.tokenizer_files)
    files = {path.removeprefix(TOKENIZER): data for path, data in found.items()}
    if not files:
        return None
    metadata = files.pop(GGUF_TOKENIZER.removeprefix(TOKENIZER), b"{}")
    gguf = _json_object(metadata, f"{objects.location}/{GGUF_TOKENIZER}")
    return TokenizerData(files=files, gguf=gguf)


def read_files(objects: Objects, catalog: Catalog, paths: Iterable[str]) -> dict[str, bytes]:
    """Give the bytes of files that the catalog lists, by path.

    Raises
    ------
    CatalogError
        If one is missing, unreadable, or not what was written.
    """
    found: dict[str, bytes] = {}
    claims: Mapping[str, Any] | None = None
    for path in paths:
        claims = _claims_of(objects.read_file(ZARR_JSON, MAX_GROUP_JSON) or b"") if claims is None else claims
        data = objects.read_file(path, MAX_JSON_BYTES)
        if data is None:
            raise CatalogError(
                "a file of the store is missing",
                file=f"{objects.location}/{path}",
                expected="a file that the catalog lists",
                found="nothing",
            )
        _require_written(data, claims, path, objects.location)
        found[path] = data
    return found


def _json_object(data: bytes, file: str) -> dict[str, Any]:
    """Read a JSON object that a build wrote: it may hold NaN."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CatalogError("not JSON", file=file, expected="a JSON object", found=error) from error
    if not isinstance(value, dict):
        raise CatalogError(
            "not a JSON object", file=file, expected="a JSON object", found=type(value).__name__
        )
    return value
