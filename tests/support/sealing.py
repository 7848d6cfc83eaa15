"""Stores whose root has the checksums of the catalog and of the files beside the arrays; damage to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wvindex.store.checksum import crc32c
from wvindex.store.reader import open_catalog
from wvindex.verifying import Fault, verify


def seal(store: Path) -> Path:
    """Write the checksums of the catalog and of other files into the root's zarr.json."""
    names = ("catalog.json", *json.loads((store / "catalog.json").read_text())["files"])
    sums = {name: crc32c([(store / name).read_bytes()]) for name in names}
    root = store / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["wvindex"]["files"] = sums
    root.write_text(json.dumps(document, indent=1) + "\n")
    return store


def copied(store: Path, to: Path) -> Path:
    """Give a copy of a store to damage."""
    return Path(shutil.copytree(store, to / "copy.zarr", symlinks=True))


def chunk_path(store: Path, key: str, index: int = 0) -> Path:
    """Give the file of a chunk."""
    entry = open_catalog(store).arrays[key]
    return store / entry.path / entry.grid.name(index)


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file; a negative place counts from its end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def edit(path: Path, change: Callable[[Any], None], *, sealed: bool = False) -> None:
    """Change a JSON document; `sealed` makes the root's checksums fit again."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    if sealed:
        seal(path.parent)


def faults(store: Path, source: Path | None = None) -> list[tuple[str, str | None, str | None]]:
    """Verify, and give the kind, the tensor and the path of each fault."""
    return [(one.kind, one.tensor, one.path) for one in verify(store, source).faults]


def only_fault(store: Path, source: Path | None = None) -> Fault:
    """Verify, and give the one fault that there is."""
    (fault,) = verify(store, source).faults
    return fault
