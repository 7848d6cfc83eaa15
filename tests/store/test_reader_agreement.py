"""An array's own document must say what the catalog says; it is read when the array is first read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr
import zarr.storage
from google_crc32c import value as crc32c

from tests.support.arrays import memory_array, same, write_store
from tests.support.linking import write_linked_store
from wvindex.errors import CatalogError
from wvindex.query.database import open_store
from wvindex.store.chunk_reader import MAX_ARRAY_JSON
from wvindex.store.codec import FP8BlockCodec, GGMLCodec
from wvindex.store.metadata import codec_metadata
from wvindex.store.objects import LocalObjects
from wvindex.store.reader import open_catalog

ARRAYS = {
    "f32": memory_array("f32", (30, 64), "F32"),
    "bf16": memory_array("model.layers.1.bf16", (30, 64), "BF16"),
    "bool": memory_array("bool", (30, 64), "BOOL"),
    "q4_k": memory_array("model.layers.0.q4_k", (29, 512), "Q4_K"),
    "fp8": memory_array("fp8", (29, 40), "FP8"),
    "scalar": memory_array("scalar", (), "F16"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("written") / "x.zarr", ARRAYS.values(), chunk_bytes=700)


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "x.zarr"))


def document(store: Path, name: str) -> Path:
    return store / open_catalog(store).arrays[ARRAYS[name].spec.key].path / "zarr.json"


def change(path: Path, *places: tuple[str, Any]) -> None:
    root: Any = json.loads(path.read_text())
    for place, value in places:
        node = root
        *outer, last = place.split(".")
        for step in outer:
            node = node[int(step) if isinstance(node, list) else step]
        node[last] = value
    path.write_text(json.dumps(root))


LIES = [
    ("f32", "shape", [30, 63], "shape"),
    ("f32", "shape", [30.0, 64], "shape"),
    ("f32", "data_type", "float64", "data_type"),
    ("f32", "chunk_grid.configuration.chunk_shape", [1, 64], "chunk_grid"),
    ("f32", "chunk_key_encoding.configuration.separator", "/", "chunk_key_encoding"),
    ("f32", "codecs.0.configuration.endian", "big", "codecs"),
    ("f32", "codecs", [{"name": "bytes"}, {"name": "gzip"}], "codecs"),
    ("f32", "node_type", "group", "node_type"),
    ("f32", "zarr_format", 2, "zarr_format"),
    ("bf16", "data_type", "float16", "data_type"),
    ("q4_k", "codecs.0.configuration.type", "Q5_K", "codecs"),
    ("q4_k", "codecs.0.configuration.edge_rows", 3, "codecs"),
    ("fp8", "codecs.0.configuration.scale_block", [5, 3], "codecs"),
    ("f32", "attributes.wvindex.key", "g32", "attributes.wvindex"),
    ("f32", "attributes.wvindex.exactness", "cast", "attributes.wvindex"),
]


@pytest.mark.parametrize(("name", "place", "value", "field"), LIES)
@pytest.mark.parametrize("check", ["never", "chunks"])
def test_a_lie_is_named_at_the_first_read(
    store: Path, name: str, place: str, value: Any, field: str, check: Any
) -> None:
    path = document(store, name)
    change(path, (place, value))
    with open_store(store, check=check) as db:
        for _ in range(2):
            for index in (..., (..., 0)):
                with pytest.raises(CatalogError, match="not what the catalog says") as caught:
                    db[ARRAYS[name].spec.key][index]
        error = caught.value
        assert (error.file, error.tensor, error.field) == (str(path), ARRAYS[name].spec.key, field)
        assert None not in (error.expected, error.found)
        for other, array in ARRAYS.items():
            if other != name:
                assert same(db[array.spec.key][...], array.values)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "[" * 100_000, '{"shape": [1], "shape": [1]}'])
def test_a_document_that_is_missing_or_none_is_named(store: Path, text: str | None) -> None:
    path = document(store, "q4_k")
    path.unlink()
    if text is not None:
        path.write_text(text)
    with open_store(store) as db, pytest.raises(CatalogError) as caught:
        db[ARRAYS["q4_k"].spec.key][0]
    assert (caught.value.file, caught.value.tensor) == (str(path), ARRAYS["q4_k"].spec.key)
    assert None not in (caught.value.expected, caught.value.found)


def test_two_arrays_of_one_shape_are_told_apart(tmp_path: Path) -> None:
    arrays = [memory_array(key, (4, 8), "F32", seed) for seed, key in enumerate("ab")]
    store = write_store(tmp_path / "x.zarr", arrays)
    for name, other in (("a", "aside"), ("b", "a"), ("aside", "b")):
        (store / name).rename(store / other)
    with open_store(store, check="never") as db, pytest.raises(CatalogError):
        db["a"][0]


class TestZarrsOwn:
    """What a Zarr tool does to a document without changing the array is no lie."""

    def test_attributes_of_a_user(self, store: Path) -> None:
        for name, array in ARRAYS.items():
            zarr.open_array(document(store, name).parent, mode="r+").update_attributes({"mine": [1, name]})
            with open_store(store) as db:
                assert same(db[array.spec.key][...], array.values)

    @pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")  # the catalog is none of Zarr's
    def test_consolidated_metadata(self, store: Path) -> None:
        zarr.consolidate_metadata(zarr.storage.LocalStore(store))
        with open_store(store) as db:
            for array in ARRAYS.values():
                assert same(db[array.spec.key][...], array.values)

    def test_other_white_space_and_order(self, store: Path) -> None:
        path = document(store, "fp8")
        found = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(found.items())), indent=7))
        with open_store(store) as db:
            assert same(db["fp8"][...], ARRAYS["fp8"].values)

    def test_the_codecs_are_those_that_zarr_finds(self) -> None:
        for name, codec in (("q4_k", GGMLCodec), ("fp8", FP8BlockCodec)):
            (found,) = codec_metadata(ARRAYS[name].spec.encoding, 3)
            assert json.loads(json.dumps(codec.from_dict(found).to_dict())) == found


def test_each_document_is_read_once_and_none_at_opening(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    read_file = LocalObjects.read_file

    def counting(self: LocalObjects, path: str, limit: int) -> bytes | None:
        read.append((path, limit))
        return read_file(self, path, limit)

    monkeypatch.setattr(LocalObjects, "read_file", counting)
    with open_store(store) as db:
        assert sorted(path for path, _ in read) == ["catalog.json", "zarr.json"]
        read.clear()
        for _ in range(3):
            for array in ARRAYS.values():
                db[array.spec.key][...]
        assert len(read) == len(set(read)) == len(ARRAYS)
        assert {limit for _, limit in read} == {MAX_ARRAY_JSON}


def test_linked_arrays_have_no_document(tmp_path: Path) -> None:
    store = write_linked_store(tmp_path, ARRAYS.values())
    assert not (store / "f32").exists()
    with open_store(store) as db:
        for array in ARRAYS.values():
            assert same(db[array.spec.key][...], array.values)


def test_what_the_catalog_says_of_a_file_is_held_against_the_roots_checksum(store: Path) -> None:
    data = (store / "catalog.json").read_bytes()
    change(store / "zarr.json", ("attributes.wvindex.files", {"catalog.json": crc32c(data)}))
    open_store(store).close()
    (store / "catalog.json").write_bytes(data.replace(b"llama", b"lmama", 1))
    with pytest.raises(CatalogError, match="not what was written") as caught:
        open_store(store)
    assert caught.value.file == str(store / "catalog.json")
    assert caught.value.expected == crc32c(data)


def test_comparing_takes_no_zarr(store: Path) -> None:
    """Importing it takes half a second: a first slice would wait for it."""
    script = "import sys, wvindex; wvindex.open(sys.argv[1])['fp8'][0]; sys.exit('zarr' in sys.modules)"
    subprocess.run([sys.executable, "-c", script, str(store)], check=True, timeout=60)
