"""Stores that were damaged, or made to harm: each fault is done to a copy of a sound one."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.support.arrays import MemoryArray, catalog_of, memory_array, write_store
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

ARRAYS: Final[Mapping[str, MemoryArray]] = {
    "f32": memory_array("model.layers.0.f32", (30, 64), "F32"),
    "q4_k": memory_array("model.layers.0.q4_k", (30, 256), "Q4_K"),
    "fp8": memory_array("model.layers.0.fp8", (30, 40), "FP8"),
    "vector": memory_array("vector", (64,), "F32"),
}
"""What the sound store holds; all but the vector in several chunks."""

CATALOG: Final = "catalog.json"
_BOMB: Final = 64 << 20
"""Bytes that a compressed chunk of 64 KiB becomes."""


def write_sound(path: Path) -> Path:
    """Write the store that the faults are done to."""
    return write_store(path, ARRAYS.values(), chunk_bytes=1500)


def chunk(store: Path, name: str = "f32", index: int = 0) -> Path:
    """Give the path of a chunk."""
    entry = open_catalog(store).arrays[ARRAYS[name].spec.key]
    return store / entry.path / entry.grid.name(index)


def edit(document: Path, *places: tuple[str, Any]) -> None:
    """Set values of a JSON document; a place's steps are parted by ``/``."""
    root: Any = json.loads(document.read_text())
    for place, value in places:
        *outer, last = place.split("/")
        node = root
        for step in outer:
            node = node[step]
        node[last] = value
    document.write_text(json.dumps(root))


def _catalog(*places: tuple[str, Any]) -> Callable[[Path], None]:
    return lambda store: edit(store / CATALOG, *places)


def _catalog_text(text: bytes) -> Callable[[Path], None]:
    return lambda store: _write(store / CATALOG, text)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _chunk(change: Callable[[bytes], bytes], name: str = "f32") -> Callable[[Path], None]:
    return lambda store: _write(chunk(store, name), change(chunk(store, name).read_bytes()))


def _flip(data: bytes, place: int = 700) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _swap(store: Path) -> None:
    first, second = (chunk(store, "f32", index) for index in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def _bomb(store: Path) -> None:
    """Put a compressed bomb in a chunk's place, and have the array's own document say so."""
    path = chunk(store, "f32")
    path.write_bytes(gzip.compress(bytes(_BOMB)))
    document = store / "layers" / "0" / "f32" / "zarr.json"
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip"}]
    edit(document, ("codecs", codecs))


def _link(name: str) -> Callable[[Path], None]:
    """Move a file or directory out of the store and leave a symlink to it."""

    def apply(store: Path) -> None:
        outside = store.parent / f"outside-{store.name}"
        (store / name).rename(outside)
        (store / name).symlink_to(os.path.relpath(outside, (store / name).parent))

    return apply


def _fifo(store: Path) -> None:
    path = chunk(store)
    path.unlink()
    os.mkfifo(path)


_F32: Final = "arrays/model.layers.0.f32"
_SPANNED: Final = [2**39, 64]

OPENING: Final[dict[str, Callable[[Path], None]]] = {
    "catalog-shape-2pow45": _catalog((f"{_F32}/shape", _SPANNED)),
    "catalog-shape-2pow60": _catalog((f"{_F32}/shape", [2**54, 64])),
    "catalog-shape-negative": _catalog((f"{_F32}/shape", [-30, 64])),
    "catalog-checksums-missing": _catalog((f"{_F32}/crc32c", [])),
    "catalog-chunk-rows-0": _catalog((f"{_F32}/chunk_rows", 0)),
    "catalog-path-up": _catalog((f"{_F32}/path", "../../f32")),
    "catalog-path-of-another": _catalog((f"{_F32}/path", "layers/0/fp8")),
    "catalog-file-up": _catalog(("files", ["tokenizer/../../x"])),
    "catalog-link-absolute": _catalog(("source/links", ["/etc/passwd"])),
    "catalog-encoding-unknown": _catalog((f"{_F32}/encoding", "Q9")),
    "catalog-field-unknown": _catalog(("colour", "red")),
    "catalog-field-of-wrong-type": _catalog(("ledger", "none")),
    "catalog-key-twice": _catalog_text(b'{"format": 1, "format": 1}'),
    "catalog-depth-200000": _catalog_text(b"[" * 200_000),
    "catalog-nan": _catalog_text(b'{"format": NaN}'),
    "catalog-not-utf8": _catalog_text(b"\xff\xfe"),
    "catalog-empty": _catalog_text(b""),
    "catalog-cut": lambda store: _write(store / CATALOG, (store / CATALOG).read_bytes()[:-40]),
    "catalog-missing": lambda store: (store / CATALOG).unlink(),
    "catalog-symlink": _link(CATALOG),
    "catalog-of-format-2": _catalog(("format", 2)),
    "format-2": lambda store: edit(store / "zarr.json", ("attributes/wvindex/format", 2)),
    "format-as-text": lambda store: edit(store / "zarr.json", ("attributes/wvindex/format", "1")),
}
"""Faults that are found when the store is opened."""

READING: Final[dict[str, Callable[[Path], None]]] = {
    "chunk-missing": lambda store: chunk(store).unlink(),
    "chunk-empty": _chunk(lambda data: b""),
    "chunk-truncated": _chunk(lambda data: data[:-1]),
    "chunk-too-long": _chunk(lambda data: data + b"\0"),
    "chunk-bit-flipped": _chunk(_flip),
    "chunk-bit-flipped-in-blocks": _chunk(_flip, "q4_k"),
    "chunk-bit-flipped-in-scales": _chunk(partial(_flip, place=-2), "fp8"),
    "chunk-swapped": _swap,
    "chunk-bomb": _bomb,
    "chunk-symlink": _link("layers/0/f32/c.0.0"),
    "chunk-fifo": _fifo,
    "directory-symlink": _link("layers/0/f32"),
    "directory-missing": lambda store: shutil.rmtree(store / "layers" / "0" / "f32"),
    "catalog-encoding-against-chunks": _catalog((f"{_F32}/encoding", "F16")),
    "catalog-shape-against-chunks": _catalog((f"{_F32}/shape", [30, 32])),
    "catalog-checksum-lies": _catalog(("arrays/vector/crc32c", [12345])),
}
"""Faults that are found when an array is read."""


def _unfinished(path: Path) -> Path:
    """Leave a build as it stands before its catalog: a copy of the builder's directory."""
    array = ARRAYS["f32"]
    with StoreWriter(path.with_name("while-building.zarr"), chunk_bytes=1500) as writer:
        entry = writer.write_array(array.spec, array, workspace=1 << 20)
        shutil.copytree(path.with_name("while-building.zarr.building"), path)
        writer.finish(catalog_of({array.spec.key: entry}))
    return path


def make_stores(directory: Path) -> dict[str, Path]:
    """Write the sound store and every damaged one; give them by the fault's name."""
    directory.mkdir()
    sound = write_sound(directory / "sound.zarr")
    stores = {}
    for name, damage in (OPENING | READING).items():
        stores[name] = Path(shutil.copytree(sound, directory / f"{name}.zarr"))
        damage(stores[name])
    stores["unfinished"] = _unfinished(directory / "unfinished.zarr")
    return stores
