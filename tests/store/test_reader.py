"""Damage to a store is found and named; nothing is ever read as zeros."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.arrays import catalog_of, memory_array, same, write_store
from wvindex.errors import (
    CatalogError,
    ChecksumError,
    ChunkError,
    NotAStore,
    StoreError,
    StoreVersionError,
    UnreadableSource,
    UnsafePath,
    UsageError,
)
from wvindex.query.database import open_store
from wvindex.sources.base import TokenizerData
from wvindex.store import objects
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

ARRAYS = {
    "f32": memory_array("model.layers.0.f32", (30, 64), "F32"),
    "q4_k": memory_array("model.layers.0.q4_k", (30, 256), "Q4_K"),
    "fp8": memory_array("model.layers.0.fp8", (30, 40), "FP8"),
}
KEYS = {name: array.spec.key for name, array in ARRAYS.items()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "x.zarr", ARRAYS.values(), chunk_bytes=1500)


def chunk(store: Path, name: str, index: int) -> Path:
    entry = open_catalog(store).arrays[KEYS[name]]
    return store / entry.path / entry.grid.name(index)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (Path.unlink, "no file"),
        (rewrite(lambda data: data[:-1]), "bytes"),
        (rewrite(lambda data: data + b"\0"), "bytes"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
    ],
    ids=["missing", "short", "long", "empty"],
)
@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_a_chunk_of_another_length_is_named(
    store: Path, name: str, damage: Callable[[Path], Any], found: str, check: Any
) -> None:
    path = chunk(store, name, 1)
    damage(path)
    with open_store(store, check=check) as db, pytest.raises(ChunkError) as caught:
        db[KEYS[name]][:]
    assert caught.value.tensor == KEYS[name]
    assert caught.value.file == str(path)
    assert found in str(caught.value.found)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(("check", "index", "finds"), [
    ("never", np.s_[:], False),
    ("never", np.s_[0], False),
    ("chunks", np.s_[:], True),
    ("chunks", np.s_[0], False),
    ("always", np.s_[:], True),
    ("always", np.s_[0], True),
    ("always", np.s_[1:3, 5], True),
])  # fmt: skip
def test_a_flipped_bit_is_found_when_it_is_looked_for(
    store: Path, name: str, check: Any, index: Any, finds: bool
) -> None:
    flip(chunk(store, name, 0), 700)
    with open_store(store, check=check) as db:
        if not finds:
            db[KEYS[name]][index]
            return
        with pytest.raises(ChecksumError, match="crc32c") as caught:
            db[KEYS[name]][index]
        assert caught.value.tensor == KEYS[name]


def test_a_flipped_scale_is_found(store: Path) -> None:
    flip(chunk(store, "fp8", 0), -1)
    with open_store(store) as db, pytest.raises(ChecksumError):
        db[KEYS["fp8"]][:]


def test_whole_chunks_inside_a_row_range_are_verified(store: Path) -> None:
    rows = open_catalog(store).arrays[KEYS["f32"]].chunk_rows
    flip(chunk(store, "f32", 1), 0)
    with open_store(store) as db, pytest.raises(ChecksumError):
        db[KEYS["f32"]][1 : 3 * rows]


class TestSymlinks:
    """No symlink in a store is followed."""

    def test_of_a_chunk(self, store: Path, tmp_path: Path) -> None:
        path = chunk(store, "f32", 0)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with open_store(store) as db, pytest.raises(UnsafePath, match="symlink"):
            db[KEYS["f32"]][:]

    @pytest.mark.parametrize("directory", ["layers", "layers/0", "layers/0/f32"])
    def test_of_a_directory(self, store: Path, tmp_path: Path, directory: str) -> None:
        (store / directory).rename(tmp_path / "elsewhere")
        (store / directory).symlink_to(tmp_path / "elsewhere")
        with open_store(store) as db, pytest.raises(UnsafePath, match="symlink"):
            db[KEYS["f32"]][:]

    def test_of_the_catalog(self, store: Path, tmp_path: Path) -> None:
        (store / "catalog.json").rename(tmp_path / "elsewhere")
        (store / "catalog.json").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnsafePath):
            open_catalog(store)

    def test_of_the_store_is_the_users_own(self, store: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(store)
        with open_store(tmp_path / "link") as db:
            assert same(db[KEYS["f32"]][:], ARRAYS["f32"].values)


def test_a_fifo_is_refused_at_once(store: Path) -> None:
    path = chunk(store, "f32", 0)
    path.unlink()
    os.mkfifo(path)
    with open_store(store) as db, pytest.raises(UnreadableSource, match="regular"):
        db[KEYS["f32"]][:]


class TestTokenizer:
    """Files beside the arrays are those that were written, or refused."""

    @pytest.fixture
    @staticmethod
    def kept(tmp_path: Path) -> Path:
        with StoreWriter(tmp_path / "x.zarr") as writer:
            writer.add_tokenizer(TokenizerData(files={"a.json": b"{}"}, gguf={"tokenizer.ggml.model": "x"}))
            writer.finish(catalog_of({}))
        return tmp_path / "x.zarr"

    @pytest.mark.parametrize("name", ["a.json", "gguf.json"])
    def test_a_missing_file_is_named(self, kept: Path, name: str) -> None:
        (kept / "tokenizer" / name).unlink()
        with open_store(kept) as db, pytest.raises(CatalogError) as caught:
            _ = db.tokenizer
        assert caught.value.file == str(kept / "tokenizer" / name)
        assert None not in (caught.value.expected, caught.value.found)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 10_000, "\x80"])
    def test_metadata_that_are_none_are_named(self, kept: Path, text: str) -> None:
        (kept / "tokenizer" / "gguf.json").write_bytes(text.encode("latin-1"))
        with open_store(kept) as db, pytest.raises(CatalogError) as caught:
            _ = db.tokenizer
        assert caught.value.file == str(kept / "tokenizer" / "gguf.json")
        assert None not in (caught.value.expected, caught.value.found)

    def test_a_changed_file_is_held_against_the_roots_checksum(self, kept: Path) -> None:
        (kept / "tokenizer" / "a.json").write_text("[]")
        with open_store(kept) as db, pytest.raises(CatalogError, match="not what was written"):
            _ = db.tokenizer

    @pytest.mark.parametrize("sums", [None, {}, 5, {"catalog.json": "1"}])
    def test_a_root_without_the_catalogs_checksum_is_refused(self, kept: Path, sums: object) -> None:
        root = json.loads((kept / "zarr.json").read_text())
        root["attributes"]["wvindex"]["files"] = sums
        (kept / "zarr.json").write_text(json.dumps(root))
        with pytest.raises(CatalogError, match="not what was written"):
            open_store(kept)


class TestOpening:
    """What is no finished store of a known format is refused by name."""

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore, match="nowhere"):
            open_store(tmp_path / "nowhere")

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore, match="nothing"):
            open_store(tmp_path)

    def test_another_zarr(self, tmp_path: Path) -> None:
        (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        with pytest.raises(NotAStore, match="another"):
            open_store(tmp_path)

    def test_without_a_catalog(self, store: Path) -> None:
        (store / "catalog.json").unlink()
        with pytest.raises(NotAStore, match="did not finish"):
            open_store(store)

    def test_a_build_that_goes_on(self, tmp_path: Path) -> None:
        (tmp_path / "x.zarr.building").mkdir()
        (tmp_path / "x.zarr.building" / "building.json").write_text("{}")
        with pytest.raises(NotAStore):
            open_store(tmp_path / "x.zarr.building")

    def test_a_newer_format(self, store: Path) -> None:
        text = (store / "zarr.json").read_text()
        (store / "zarr.json").write_text(text.replace('"format": 1', '"format": 2'))
        with pytest.raises(StoreVersionError, match="at most 1"):
            open_store(store)

    def test_a_catalog_that_is_not_json(self, store: Path) -> None:
        (store / "catalog.json").write_text("{")
        with pytest.raises(CatalogError, match=r"catalog\.json"):
            open_store(store)

    def test_an_unknown_check(self, store: Path) -> None:
        with pytest.raises(UsageError, match="sometimes"):
            open_store(store, check="sometimes")  # type: ignore[arg-type]


def test_a_closed_store_refuses_reads(store: Path) -> None:
    with open_store(store) as db:
        tensor = db[KEYS["f32"]]
        tensor[0]
    with pytest.raises(StoreError, match="closed"):
        tensor[0]


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_few_files_stay_open(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 2)
    before = open_files()
    with open_store(store) as db:
        for tensor in db.values():
            tensor[:]
        assert open_files() == before + 3  # the directory is one
        assert db.stats is not None
        assert db.stats.files_opened > 6
    assert open_files() == before


def test_threads_read_one_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 1)
    wrong: list[str] = []

    def read(db: Any) -> None:
        for _ in range(20):
            wrong.extend(name for name, array in ARRAYS.items() if not same(db[KEYS[name]][:], array.values))

    with open_store(store) as db:
        threads = [threading.Thread(target=read, args=(db,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
