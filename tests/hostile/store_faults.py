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
from wvindex.store.checksum import crc32c
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

ARRAYS: Final[Mapping[str, MemoryArray]] = {
    "f32": memory_array("model.layers.0.f32", (30, 64), "F32"),
    "q4_k": memory_array("model.layers.0.q4_k", (30, 256), "Q4_K"),
    "fp8": memory_array("model.layers.0.fp8", (30, 40), "FP8"),
    "vector": memory_array("vector", (64,), "F32"),
    "same": memory_array("model.layers.0.same", (30, 64), "F32", seed=1),
}
"""What the sound store holds; all but the vector in several chunks. One is of the shape of another."""

CATALOG: Final = "catalog.json"
ROOT: Final = "zarr.json"
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
            node = node[int(step) if isinstance(node, list) else step]
        node[int(last) if isinstance(node, list) else last] = value
    document.write_text(json.dumps(root))


def _catalog(*places: tuple[str, Any]) -> Callable[[Path], None]:
    """Change the catalog, and sign it again."""

    def apply(store: Path) -> None:
        edit(store / CATALOG, *places)
        _sign(store)

    return apply


def _catalog_text(text: bytes) -> Callable[[Path], None]:
    def apply(store: Path) -> None:
        _write(store / CATALOG, text)
        _sign(store)

    return apply


def _sign(store: Path) -> None:
    """Put the catalog's checksum where the root has one."""
    claims = json.loads((store / ROOT).read_text())["attributes"]["wvindex"]
    if CATALOG in claims.get("files", {}):
        claims["files"][CATALOG] = crc32c([(store / CATALOG).read_bytes()])
        edit(store / ROOT, ("attributes/wvindex", claims))


def _array(name: str, *places: tuple[str, Any]) -> Callable[[Path], None]:
    """Change an array's own document."""
    return lambda store: edit(store / "layers" / "0" / name / ROOT, *places)


def _renamed_key(key: str) -> Callable[[Path], None]:
    """Have the catalog hold an array under a key that is a path, and at that path."""

    def apply(store: Path) -> None:
        document = json.loads((store / CATALOG).read_text())
        entry = document["arrays"].pop("vector")
        document["arrays"][key] = entry | {"path": key}
        _catalog_text(json.dumps(document).encode())(store)

    return apply


def _folded_keys(first: str, second: str) -> Callable[[Path], None]:
    """Have the catalog hold two arrays whose names a file system may take for one, at one path."""

    def apply(store: Path) -> None:
        document = json.loads((store / CATALOG).read_text())
        entry = document["arrays"].pop("vector")
        document["arrays"] |= {first: entry | {"path": first}, second: entry | {"path": first}}
        _catalog_text(json.dumps(document).encode())(store)

    return apply


def _vector_claim(store: Path) -> None:
    """Claim a vector of 2^45 values, in one chunk."""
    _catalog(("arrays/vector/shape", [2**45]))(store)


def _vector_claims(store: Path) -> None:
    """Claim a vector of 2^45 values, in the array's own document too."""
    _vector_claim(store)
    edit(
        store / "vector" / ROOT,
        ("shape", [2**45]),
        ("chunk_grid/configuration/chunk_shape", [2**45]),
    )


def _rows_claims(store: Path) -> None:
    """Claim a matrix of 2^39 rows in one chunk, in the array's own document too."""
    rows = 2**39
    _catalog((f"{_F32}/shape", [rows, 64]), (f"{_F32}/chunk_rows", rows), (f"{_F32}/crc32c", [1]))(store)
    _array("f32", ("shape", [rows, 64]), ("chunk_grid/configuration/chunk_shape", [rows, 64]))(store)


def _linked(**changes: Any) -> Callable[[Path], None]:
    """Make the vector a link into a file beside the store; `changes` are to its range, or to its shape."""
    shape = changes.pop("shape", [64])
    part = {"file": 0, "offset": 16, "nbytes": 4 * shape[0]} | changes
    file = {"name": "m.bin", "size": 2**60, "mtime_ns": 1, "header_sha256": "0" * 64, "header_nbytes": 16}
    link = {"rows": [part], "scales": []}
    vector = {"shape": shape, "crc32c": [], "nan": None, "inf": None, "link": link}
    places = [(f"arrays/vector/{name}", value) for name, value in vector.items()]
    return _catalog(("source/files", [file]), ("source/links", ["../m.bin"]), *places)


def _swap_directories(store: Path) -> None:
    first, second, aside = (store / "layers" / "0" / name for name in ("f32", "same", "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def _chunk_of_another(store: Path) -> None:
    chunk(store, "f32").write_bytes(chunk(store, "same").read_bytes())


def _bomb_alone(store: Path) -> None:
    chunk(store, "f32").write_bytes(gzip.compress(bytes(_BOMB)))


def _directory_in_place_of(name: str) -> Callable[[Path], None]:
    def apply(store: Path) -> None:
        (store / name).unlink()
        (store / name).mkdir()

    return apply


def _file_in_place_of(name: str) -> Callable[[Path], None]:
    def apply(store: Path) -> None:
        shutil.rmtree(store / name)
        (store / name).write_bytes(b"")

    return apply


def _fifo_in_place_of(name: str) -> Callable[[Path], None]:
    def apply(store: Path) -> None:
        (store / name).unlink()
        os.mkfifo(store / name)

    return apply


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


_F32: Final = "arrays/model.layers.0.f32"
_SPANNED: Final = [2**39, 64]
_SCALE: Final = {"weight": "model.layers.0.same", "rows": [0, 30], "eps": 1e-6, "head_slice": [0, 30]}

OPENING: Final[dict[str, Callable[[Path], None]]] = {
    "catalog-shape-2pow45": _catalog((f"{_F32}/shape", _SPANNED)),
    "catalog-checksum-of-33-bits": _catalog((f"{_F32}/crc32c/0", 2**32)),
    "catalog-checksum-negative": _catalog((f"{_F32}/crc32c/0", -1)),
    "catalog-checksums-too-many": _catalog(("arrays/vector/crc32c", [0] * 100_000)),
    "catalog-counts-of-nothing": _catalog((f"{_F32}/nan", 10**6)),
    "catalog-chunks-2pow40": _catalog((f"{_F32}/shape", [2**40, 64]), (f"{_F32}/chunk_rows", 1)),
    "catalog-chunk-rows-2pow40": _catalog((f"{_F32}/chunk_rows", 2**40)),
    "catalog-heads-no-divisor": _catalog((f"{_F32}/heads", {"axis": 0, "count": 7})),
    "catalog-part-names-too-many": _catalog((f"{_F32}/part_aliases", ["a"] * 31)),
    "catalog-scale-of-nothing": _catalog((f"{_F32}/row_scale", _SCALE | {"weight": "gone"})),
    "catalog-scale-of-another-width": _catalog(
        (f"{_F32}/row_scale", _SCALE | {"weight": "model.layers.0.fp8"})
    ),
    "catalog-scale-rows-past-end": _catalog((f"{_F32}/row_scale", _SCALE | {"rows": [0, 31]})),
    "catalog-scale-slice-past-end": _catalog((f"{_F32}/row_scale", _SCALE | {"head_slice": [0, 31]})),
    "catalog-scale-eps-negative": _catalog((f"{_F32}/row_scale", _SCALE | {"eps": -1.0})),
    "catalog-layers-2pow45": _catalog(("config/num_hidden_layers", 2**45)),
    "catalog-key-up": _renamed_key("../vector"),
    "catalog-key-into-another": _renamed_key("layers/0/f32/zarr.json/b"),
    "catalog-key-reserved": _renamed_key("__vector"),
    "catalog-key-with-tab": _renamed_key("vec\ttor"),
    "catalog-keys-that-differ-in-case": _folded_keys("vector", "Vector"),
    "catalog-keys-that-differ-in-unicode-form": _folded_keys("v\u00e9ctor", "ve\u0301ctor"),
    "catalog-link-past-end": _linked(offset=2**60),
    "catalog-link-into-header": _linked(offset=0),
    "catalog-link-empty": _linked(nbytes=0),
    "catalog-link-negative": _linked(offset=-8),
    "catalog-link-too-short": _linked(nbytes=252),
    "catalog-link-of-no-file": _linked(file=1),
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
    "catalog-fifo": _fifo_in_place_of(CATALOG),
    "catalog-directory": _directory_in_place_of(CATALOG),
    "root-symlink": _link(ROOT),
    "root-fifo": _fifo_in_place_of(ROOT),
    "catalog-of-format-2": _catalog(("format", 2)),
    "format-2": lambda store: edit(store / ROOT, ("attributes/wvindex/format", 2)),
    "format-2pow70": lambda store: edit(store / ROOT, ("attributes/wvindex/format", 2**70)),
    "format-0": lambda store: edit(store / ROOT, ("attributes/wvindex/format", 0)),
    "format-true": lambda store: edit(store / ROOT, ("attributes/wvindex/format", True)),
    "format-as-text": lambda store: edit(store / ROOT, ("attributes/wvindex/format", "1")),
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
    "chunk-bomb-alone": _bomb_alone,
    "chunk-of-another-array": _chunk_of_another,
    "chunk-directory": _directory_in_place_of("layers/0/f32/c.0.0"),
    "chunk-symlink": _link("layers/0/f32/c.0.0"),
    "chunk-fifo": _fifo_in_place_of("layers/0/f32/c.0.0"),
    "directory-symlink": _link("layers/0/f32"),
    "directory-file": _file_in_place_of("layers/0/f32"),
    "directory-of-layers-symlink": _link("layers"),
    "directory-missing": lambda store: shutil.rmtree(store / "layers" / "0" / "f32"),
    "catalog-encoding-against-chunks": _catalog((f"{_F32}/encoding", "F16")),
    "catalog-shape-against-chunks": _catalog((f"{_F32}/shape", [30, 32])),
    "catalog-checksum-lies": _catalog(("arrays/vector/crc32c", [12345])),
    "catalog-vector-2pow45": _vector_claim,
    "catalog-link-2pow45": _linked(shape=[2**45]),
    "catalog-link-to-nothing": _linked(),
    "array-vector-2pow45": _vector_claims,
    "array-rows-2pow39": _rows_claims,
    "array-shape-lies": _array("f32", ("shape", [30, 32])),
    "array-dtype-lies": _array("f32", ("data_type", "int32")),
    "array-chunk-shape-lies": _array("f32", ("chunk_grid/configuration/chunk_shape", [30, 64])),
    "array-chunk-names-lie": _array("f32", ("chunk_key_encoding/configuration/separator", "/")),
    "array-codec-lies": _array("q4_k", ("codecs/0/configuration/type", "Q4_0")),
    "array-scale-block-lies": _array("fp8", ("codecs/0/configuration/scale_block", [5, 3])),
    "array-of-another-key": _swap_directories,
    "array-is-a-group": _array("f32", ("node_type", "group")),
    "array-without-attributes": _array("f32", ("attributes", {})),
    "array-document-missing": lambda store: (store / "layers/0/f32" / ROOT).unlink(),
    "array-document-symlink": _link("layers/0/f32/zarr.json"),
    "array-document-not-json": lambda store: _write(store / "layers/0/f32" / ROOT, b"{"),
    "array-document-depth-200000": lambda store: _write(store / "layers/0/f32" / ROOT, b"[" * 200_000),
    "array-document-2-MB": lambda store: _write(store / "layers/0/f32" / ROOT, b" " * 2_000_000),
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
