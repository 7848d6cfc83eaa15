"""A store behind Zarr's store interface reads as it does from a directory."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from tests.support.arrays import memory_array, same, write_store
from wvindex.errors import ChecksumError, ChunkError, NotAStore, StoreError, UnreadableSource
from wvindex.query.database import open_store
from wvindex.store import remote
from wvindex.store.reader import open_catalog

ARRAYS = [
    memory_array("model.layers.0.f32", (30, 64), "F32"),
    memory_array("q4_k", (30, 512), "Q4_K"),
    memory_array("fp8", (30, 40), "FP8"),
]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write_store(tmp_path / "x.zarr", ARRAYS, chunk_bytes=1500)


def files(root: Path) -> dict[str, Buffer]:
    make = default_buffer_prototype().buffer.from_bytes
    return {p.relative_to(root).as_posix(): make(p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def in_memory(root: Path) -> zarr.storage.MemoryStore:
    return zarr.storage.MemoryStore(dict(files(root)))


def at_url(root: Path) -> str:
    url = f"memory://{uuid.uuid4().hex}/x.zarr"
    store = zarr.storage.FsspecStore.from_url(url)
    for name, data in files(root).items():
        sync(store.set(name, data))
    return url


@pytest.mark.parametrize("where", ["MemoryStore", "LocalStore", "fsspec"])
@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_reads_are_the_same(local: Path, where: str, check: Any) -> None:
    make: dict[str, Callable[[Path], Any]] = {
        "MemoryStore": in_memory,
        "LocalStore": zarr.storage.LocalStore,
        "fsspec": at_url,
    }
    place = make[where](local)
    with open_store(place, check=check) as db:
        assert set(db) == {array.spec.key for array in ARRAYS}
        for array in ARRAYS:
            tensor = db[array.spec.key]
            for index in (np.s_[:], np.s_[3:20], np.s_[::7, 5:9], np.s_[:, 3], np.s_[-1, -1]):
                assert same(tensor[index], array.values[index])


def test_a_part_is_read_by_range(local: Path) -> None:
    with open_store(in_memory(local)) as db:
        assert db.stats is not None
        db["q4_k"][4:6]
        assert db.stats.bytes_read == 2 * 2 * 144


def test_damage_is_found(local: Path) -> None:
    store = in_memory(local)
    entry = open_catalog(local).arrays["q4_k"]
    name = f"{entry.path}/{entry.grid.name(0)}"
    whole = sync(store.get(name, default_buffer_prototype()))
    assert whole is not None
    data = whole.to_bytes()
    damages: list[tuple[bytes, type[ChunkError]]] = [
        (data[:-1], ChunkError),
        (data + b"\0", ChunkError),
        (bytes([data[0] ^ 1]) + data[1:], ChecksumError),
    ]
    for damaged, error in damages:
        sync(store.set(name, default_buffer_prototype().buffer.from_bytes(damaged)))
        with open_store(store) as db, pytest.raises(error) as caught:
            db["q4_k"][:]
        assert caught.value.tensor == "q4_k"
    sync(store.delete(name))
    with open_store(store) as db, pytest.raises(ChunkError, match="missing"):
        db["q4_k"][0]


def test_nothing_there() -> None:
    with pytest.raises(NotAStore):
        open_store(zarr.storage.MemoryStore())


def test_an_unknown_address_is_named() -> None:
    with pytest.raises(UnreadableSource, match="nosuchthing://x"):
        open_store("nosuchthing://x/y.zarr")


def test_a_closed_store_refuses_reads(local: Path) -> None:
    with open_store(in_memory(local)) as db:
        tensor = db["fp8"]
    with pytest.raises(StoreError, match="closed"):
        tensor[0]


def test_a_failing_backend_is_a_typed_error(local: Path) -> None:
    class Failing(zarr.storage.WrapperStore[ZarrStore]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if "/c." in key:
                raise OSError("the network is gone")
            return await super().get(key, prototype, byte_range)

    with (
        open_store(Failing(in_memory(local))) as db,
        pytest.raises(UnreadableSource, match="network is gone"),
    ):
        db["fp8"][0]


@pytest.mark.parametrize("make", [in_memory, zarr.storage.LocalStore, at_url])
@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_a_part_of_a_chunk_of_another_length_is_refused(
    local: Path, make: Callable[[Path], Any], check: Any
) -> None:
    entry = open_catalog(local).arrays["q4_k"]
    path = local / entry.path / entry.grid.name(0)
    data = path.read_bytes()
    for damaged in (data[:-1], data[:1], b"", data + b"\0", data * 2):
        path.write_bytes(damaged)
        with open_store(make(local), check=check) as db:
            for index in (np.s_[0], np.s_[0, :3], np.s_[:, 3], np.s_[...]):
                with pytest.raises(ChunkError, match="wrong length") as caught:
                    db["q4_k"][index]
                assert caught.value.tensor == "q4_k"
                assert None not in (caught.value.expected, caught.value.found)


def test_a_chunk_is_measured_once(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    class Counting(zarr.storage.WrapperStore[ZarrStore]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            asked.append((key, byte_range))
            return await super().get(key, prototype, byte_range)

    with open_store(Counting(in_memory(local))) as db:
        db["q4_k"][0]
        asked.clear()
        db["q4_k"][1]
        assert len(asked) == 1
        monkeypatch.setattr(remote, "MAX_MEASURED", 0)
        db["model.layers.0.f32"][0]
        asked.clear()
        db["q4_k"][1]
        assert len(asked) == 2  # what was measured is forgotten once it is much


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("lost"), zipfile.BadZipFile("Bad CRC-32")])
def test_whatever_a_backend_raises_is_a_typed_error(local: Path, error: Exception) -> None:
    class Failing(zarr.storage.WrapperStore[ZarrStore]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if "/c." in key:
                raise error
            return await super().get(key, prototype, byte_range)

    with open_store(Failing(in_memory(local))) as db, pytest.raises(UnreadableSource) as caught:
        db["fp8"][0]
    assert caught.value.tensor == "fp8"
    assert type(error).__name__ in str(caught.value.found)
    assert caught.value.__cause__ is error


def test_a_damaged_zip_file_is_refused(local: Path, tmp_path: Path) -> None:
    archive = tmp_path / "s.zip"
    entry = open_catalog(local).arrays["q4_k"]
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(local.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(local).as_posix())
    chunk = (local / entry.path / entry.grid.name(0)).read_bytes()
    data = archive.read_bytes()
    place = data.index(chunk) + 100
    archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    store = zarr.storage.ZipStore(archive, mode="r")
    with open_store(store) as db, pytest.raises((ChecksumError, UnreadableSource)) as caught:
        db["q4_k"][...]
    assert caught.value.tensor == "q4_k"
    store.close()
