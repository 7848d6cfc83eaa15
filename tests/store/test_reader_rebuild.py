"""A store that is held open while another is built in its place is read whole, or not at all."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from zarr.core.buffer import default_buffer_prototype

import wvindex as wv
from tests.support.arrays import MemoryArray, catalog_of, memory_array, same, write_store
from wvindex.errors import ChunkError, NotAStore, StoreReplaced
from wvindex.query.database import Store, open_store
from wvindex.sources.base import TokenizerData
from wvindex.store import objects
from wvindex.store.linked import LinkedStore
from wvindex.store.objects import LocalObjects
from wvindex.store.reader import open_catalog
from wvindex.store.staging import aside_of
from wvindex.store.writer import StoreWriter

SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.layers.0.f32": ("F32", (30, 64)),
    "model.layers.0.q4_k": ("Q4_K", (30, 512)),
    "fp8": ("FP8", (30, 40)),
    "vector": ("F32", (64,)),
}
CHECKS: list[Any] = ["never", "chunks", "always"]
PARTS: list[Any] = [np.s_[0], np.s_[7:9], np.s_[..., 3], np.s_[::7], np.s_[..., :2]]


def arrays(seed: int) -> dict[str, MemoryArray]:
    return {key: memory_array(key, shape, encoding, seed) for key, (encoding, shape) in SHAPES.items()}


OLD, NEW = arrays(1), arrays(2)


def write(path: Path, which: dict[str, MemoryArray], *, overwrite: bool = False) -> Path:
    with StoreWriter(path, chunk_bytes=1500, overwrite=overwrite) as writer:
        entries = {a.spec.key: writer.write_array(a.spec, a, workspace=1 << 20) for a in which.values()}
        writer.finish(catalog_of(entries))
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give both stores, to be copied."""
    root = tmp_path_factory.mktemp("written")
    return write(root / "old.zarr", OLD), write(root / "new.zarr", NEW)


@pytest.fixture
def store(written: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "x.zarr"))


@pytest.fixture
def other(written: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[1], tmp_path / "other.zarr"))


def publish(store: Path, other: Path) -> None:
    """Do what a build does at its end: two renames, and what was there is removed."""
    aside = aside_of(store)
    aside.parent.mkdir()
    store.rename(aside)
    other.rename(store)
    shutil.rmtree(aside.parent)


def require_whole(db: Store, expected: dict[str, MemoryArray]) -> None:
    for key, array in expected.items():
        assert same(db[key][...], array.values)
        for part in PARTS:
            if array.values.ndim > 1:
                assert same(db[key][part], array.values[part])


def require_replaced(db: Store) -> None:
    for key in SHAPES:
        for index in (np.s_[...], np.s_[..., :1]):
            with pytest.raises(StoreReplaced, match="open it again") as caught:
                db[key][index]
            assert caught.value.file == str(db.path)
            assert caught.value.expected == "the directory that was opened"
            assert caught.value.found == "another"


@pytest.mark.parametrize("check", CHECKS)
def test_every_step_of_a_replacement_shows_the_old_store_or_none(
    store: Path, other: Path, tmp_path: Path, check: Any
) -> None:
    aside = aside_of(store)
    aside.parent.mkdir()
    with open_store(store, check=check) as db:
        require_whole(db, OLD)
        store.rename(aside)
        require_whole(db, OLD)
        other.rename(store)
        require_whole(db, OLD)
        shutil.rmtree(aside)
        for key, array in OLD.items():  # what is open is still there, though it has no name
            assert same(db[key][...], array.values)
    with open_store(store) as db:
        require_whole(db, NEW)


@pytest.mark.parametrize("check", CHECKS)
def test_chunks_that_are_gone_are_not_taken_from_the_new_store(
    store: Path, other: Path, monkeypatch: pytest.MonkeyPatch, check: Any
) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 0)
    with open_store(store, check=check) as read, open_store(store, check=check) as unread:
        require_whole(read, OLD)
        publish(store, other)
        require_replaced(read)
        require_replaced(unread)


def test_a_build_replaces_a_store_that_is_open(store: Path) -> None:
    with open_store(store, check="never") as db:
        write(store, NEW, overwrite=True)
        require_replaced(db)
    with open_store(store) as db:
        require_whole(db, NEW)


@pytest.mark.parametrize("check", CHECKS)
def test_half_of_the_old_store_may_be_gone(
    store: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Any
) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 0)
    aside = aside_of(store)
    aside.parent.mkdir()
    with open_store(store, check=check) as db:
        store.rename(aside)
        other.rename(store)
        entry = open_catalog(aside).arrays["fp8"]
        (aside / entry.path / entry.grid.name(1)).unlink()
        assert same(db["vector"][...], OLD["vector"].values)
        with pytest.raises(StoreReplaced):
            db["fp8"][...]


def test_a_chunk_that_is_missing_from_a_store_in_its_place_is_just_missing(store: Path) -> None:
    entry = open_catalog(store).arrays["fp8"]
    (store / entry.path / entry.grid.name(0)).unlink()
    with open_store(store) as db, pytest.raises(ChunkError, match="missing"):
        db["fp8"][0]


def test_a_store_may_be_moved_while_it_is_open(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 0)
    with open_store(store) as db:
        store.rename(tmp_path / "y.zarr")
        require_whole(db, OLD)
        shutil.rmtree(tmp_path / "y.zarr" / "fp8")
        with pytest.raises(StoreReplaced, match="nothing"):
            db["fp8"].read(rows=(0, 1))


def test_the_working_directory_may_change(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    with open_store(store.name) as db:
        monkeypatch.chdir("/")
        (store / "fp8" / "c.0.0").unlink()
        assert same(db["vector"][...], OLD["vector"].values)
        with pytest.raises(ChunkError, match="missing"):
            db["fp8"][0]


def test_a_link_to_a_store_may_lead_elsewhere(store: Path, other: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(store)
    with open_store(link) as db:
        link.unlink()
        link.symlink_to(other)
        require_whole(db, OLD)
        with open_store(link) as now:
            require_whole(now, NEW)


def test_a_tokenizer_is_the_old_stores_or_none(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with StoreWriter(tmp_path / "x.zarr", overwrite=overwrite) as writer:
            writer.add_tokenizer(TokenizerData(files={"tokenizer.json": b"{}"}, gguf={}))
            if overwrite:
                db = open_store(tmp_path / "x.zarr")
            writer.finish(catalog_of({}))
    with db, pytest.raises(StoreReplaced):
        _ = db.tokenizer


class TestOpening:
    """A store is opened whole while another takes its place."""

    @pytest.mark.parametrize("opening", [wv.open, open_store, LinkedStore])
    def test_between_the_two_renames(
        self, store: Path, other: Path, tmp_path: Path, opening: Callable[[Path], Any]
    ) -> None:
        aside_of(store).parent.mkdir()
        store.rename(aside_of(store))
        later = threading.Timer(0.1, other.rename, [store])
        later.start()
        with opening(store):
            pass
        later.join()

    def test_what_was_left_halfway_is_named(
        self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aside_of(store).parent.mkdir()
        store.rename(aside_of(store))
        started = time.monotonic()
        with pytest.raises(NotAStore, match=r"what stood here is in .*x\.zarr\.building"):
            wv.open(store)
        assert 0.5 < time.monotonic() - started < 5

    def test_a_store_that_goes_while_it_is_opened_is_opened_again(
        self, store: Path, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_file = LocalObjects.read_file

        def replacing(self: LocalObjects, path: str, limit: int) -> bytes | None:
            if other.exists():
                publish(store, other)
            return read_file(self, path, limit)

        monkeypatch.setattr(LocalObjects, "read_file", replacing)
        with open_store(store) as db:
            require_whole(db, NEW)

    def test_one_that_never_stays_is_refused(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(self: LocalObjects, path: str, limit: int) -> bytes | None:
            raise StoreReplaced("replaced")

        monkeypatch.setattr(LocalObjects, "read_file", gone)
        with pytest.raises(StoreReplaced):
            open_store(store)


@pytest.mark.parametrize("check", CHECKS)
def test_readers_during_many_rebuilds_see_one_store_each(
    store: Path, written: tuple[Path, Path], tmp_path: Path, check: Any
) -> None:
    """Values of one open store are all of one build; a read gives them or says that it was replaced."""
    done = threading.Event()
    wrong: list[str] = []
    outcomes = {"whole": 0, "replaced": 0}

    def read() -> None:
        while not done.is_set():
            with wv.open(store, check=check) as db:
                seen = set()
                try:
                    for key in SHAPES:
                        values = np.asarray(db[key][..., :2])
                        matches = [
                            i for i, a in enumerate((OLD, NEW)) if same(values, a[key].values[..., :2])
                        ]
                        seen.update(matches or [-1])
                    outcomes["whole"] += 1
                except StoreReplaced:
                    outcomes["replaced"] += 1
                if len(seen) > 1 or -1 in seen:
                    wrong.append(str(seen))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(25):
        publish(store, Path(shutil.copytree(written[(i + 1) % 2], tmp_path / "next.zarr")))
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert outcomes["whole"] > 0


class TestRemote:
    """Behind Zarr's interface a replacement shows where something does not fit."""

    @staticmethod
    def files(root: Path) -> dict[str, Any]:
        make = default_buffer_prototype().buffer.from_bytes
        found = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): make(path.read_bytes()) for path in found}

    @pytest.mark.parametrize("check", ["chunks", "always"])
    def test_checksums_tell(self, store: Path, other: Path, check: Any) -> None:
        contents = self.files(store)
        with open_store(zarr.storage.MemoryStore(contents), check=check) as db:
            require_whole(db, OLD)
            contents.update(self.files(other))
            for key in SHAPES:
                with pytest.raises(StoreReplaced, match="catalog that was read"):
                    db[key][...]

    def test_lengths_and_absence_tell(self, store: Path, tmp_path: Path) -> None:
        contents = self.files(store)
        smaller = write_store(tmp_path / "s.zarr", [memory_array("fp8", (7, 40), "FP8")])
        with open_store(zarr.storage.MemoryStore(contents), check="never") as db:
            db["fp8"][0]
            db["vector"][0]
            contents.clear()
            contents.update(self.files(smaller))
            for key in ("fp8", "vector"):
                with pytest.raises(StoreReplaced):
                    db[key][...]

    def test_damage_alone_is_no_replacement(self, store: Path) -> None:
        contents = self.files(store)
        del contents["vector/c.0"]
        with open_store(zarr.storage.MemoryStore(contents)) as db, pytest.raises(ChunkError, match="missing"):
            db["vector"][0]

    def test_a_file_url_is_a_directory(self, store: Path, other: Path) -> None:
        with open_store(store.as_uri(), check="never") as db:
            publish(store, other)
            require_replaced(db)

    def test_a_zip_file_is_held_open(self, store: Path, other: Path, tmp_path: Path) -> None:
        for name, root in (("s", store), ("o", other)):
            shutil.make_archive(str(tmp_path / name), "zip", root)
        archive = zarr.storage.ZipStore(tmp_path / "s.zip", mode="r")
        with open_store(archive, check="never") as db:
            (tmp_path / "o.zip").replace(tmp_path / "s.zip")
            require_whole(db, OLD)
        archive.close()
