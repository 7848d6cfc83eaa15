"""What stands in ``<store>.building/`` is gone on with, put back, cleared or refused; never mixed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from tests.support.arrays import MemoryArray, catalog_of, memory_array, write_store
from tests.support.disk import Disk
from tests.support.trees import contents
from wvindex.errors import SourceChanged, StoreError, TargetExists, UsageError
from wvindex.store import staging as staging_module
from wvindex.store.catalog import ArrayEntry
from wvindex.store.durable import exchange
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

IDENTITY = {"sources": [{"name": "a.gguf", "size": 1}], "options": {"mla": "absorb"}}
OURS = memory_array("model.layers.0.a.weight", (20, 64), "F32", seed=1)
MORE = memory_array("lm_head.weight", (20, 256), "Q4_K", seed=2)


class Stop(Exception):
    """An interruption."""


class Counted:
    """An array that counts how often it is read."""

    def __init__(self, array: MemoryArray) -> None:
        self.array = array
        self.reads = 0

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        self.reads += 1
        self.array.read_rows(start, stop, out, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        self.array.read_scales(start, stop, out)


def build(path: Path, *arrays: MemoryArray, stop: bool = False, **options: Any) -> list[int]:
    """Write arrays in chunks of four rows; give how often each was read."""
    counted = [Counted(array) for array in arrays]
    entries: dict[str, ArrayEntry] = {}
    with StoreWriter(path, chunk_bytes=4 * 256, **{"identity": IDENTITY, **options}) as writer:
        for rows in counted:
            spec = rows.array.spec
            entries[spec.key] = writer.write_array(spec, rows, workspace=1 << 20)
        if stop:
            raise Stop
        writer.finish(catalog_of(entries))
    return [rows.reads for rows in counted]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path where a build was interrupted once `OURS` was written."""
    with pytest.raises(Stop):
        build(tmp_path / "a.zarr", OURS, stop=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr.building"]
    return tmp_path / "a.zarr"


@pytest.fixture
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("unbroken") / "a.zarr"
    build(path, OURS, MORE)
    return contents(path)


def test_an_interrupted_build_is_gone_on_with(path: Path, unbroken: dict[str, bytes]) -> None:
    assert build(path, OURS, MORE) == [0, 4]
    assert contents(path) == unbroken
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


def test_restart_writes_everything_again(path: Path, unbroken: dict[str, bytes]) -> None:
    assert build(path, OURS, MORE, restart=True) == [5, 4]
    assert contents(path) == unbroken


def test_a_build_without_identity_writes_everything_again(path: Path, unbroken: dict[str, bytes]) -> None:
    assert build(path, OURS, MORE, identity=None) == [5, 4]
    assert contents(path) == unbroken


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sources": [{"name": "a.gguf", "size": 2}]}, SourceChanged),
        ({"options": {"mla": "keep"}}, UsageError),
        ({"generator": "wvindex 9"}, UsageError),
    ],
)
def test_another_build_is_refused_and_leaves_what_is_there(
    path: Path, change: dict[str, Any], error: type[Exception], unbroken: dict[str, bytes]
) -> None:
    before = contents(path.parent)
    with pytest.raises(error, match=next(iter(change))):
        build(path, OURS, identity=IDENTITY | change)
    assert contents(path.parent) == before
    build(path, OURS, MORE)
    assert contents(path) == unbroken


def test_files_that_are_not_journaled_are_removed(path: Path, unbroken: dict[str, bytes]) -> None:
    store = path.with_name("a.zarr.building") / "store"
    (store / "lm_head.weight").mkdir()
    (store / "lm_head.weight" / "c.0.0").write_bytes(b"half a chunk")
    (store / "catalog.json").write_text("{")
    (store / "stray").symlink_to(path.parent)
    build(path, OURS, MORE)
    assert contents(path) == unbroken
    assert path.parent.is_dir()


def _flip(chunk: Path) -> None:
    data = bytearray(chunk.read_bytes())
    data[700] ^= 4
    chunk.write_bytes(data)


def _link(chunk: Path) -> None:
    kept = chunk.rename(chunk.with_name("kept"))
    chunk.symlink_to(kept)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, _flip, _link, lambda chunk: chunk.write_bytes(chunk.read_bytes()[:-1])],
    ids=["missing", "flipped", "linked", "short"],
)
def test_a_journaled_chunk_that_is_not_what_was_written_is_written_again(
    path: Path, damage: Callable[[Path], object], unbroken: dict[str, bytes]
) -> None:
    damage(path.with_name("a.zarr.building") / "store" / "layers" / "0" / "a.weight" / "c.2.0")
    assert build(path, OURS, MORE) == [1, 4]
    assert contents(path) == unbroken


def test_lines_of_another_shape_end_the_journal(path: Path, unbroken: dict[str, bytes]) -> None:
    journal = path.with_name("a.zarr.building") / "journal"
    text = b'[["x"], 1, 2, 3]'
    with journal.open("ab") as file:
        file.write(b"%08x %s\n" % (google_crc32c.value(text), text))
    assert build(path, OURS, MORE) == [0, 4]
    assert contents(path) == unbroken


def test_a_journal_that_is_a_pipe_is_refused(path: Path) -> None:
    journal = path.with_name("a.zarr.building") / "journal"
    journal.unlink()
    os.mkfifo(journal)
    with pytest.raises(StoreError, match="regular"):
        build(path, OURS, MORE)
    build(path, OURS, MORE, restart=True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "store"])
def test_what_comes_to_stand_at_the_path_meanwhile_is_kept(
    tmp_path: Path, kind: str, overwrite: bool
) -> None:
    path, elsewhere = tmp_path / "a.zarr", tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = write_store(elsewhere / "other.zarr", [MORE])
    if overwrite:
        write_store(path, [MORE])
    with StoreWriter(path, identity=IDENTITY, overwrite=overwrite) as writer:
        entry = writer.write_array(OURS.spec, OURS, workspace=1)
        if overwrite:
            shutil.rmtree(path)
        if kind == "file":
            path.write_text("precious")
        elif kind == "symlink":
            path.symlink_to(elsewhere)
        elif kind == "directory":
            path.mkdir()
            (path / "thesis").write_text("precious")
        else:
            other.rename(path)
        before = contents(path) if path.is_dir() else path.read_bytes()
        if overwrite and kind == "store":
            writer.finish(catalog_of({OURS.spec.key: entry}))
            assert set(open_catalog(path).arrays) == {OURS.spec.key}
            return
        with pytest.raises(TargetExists) as caught:
            writer.finish(catalog_of({OURS.spec.key: entry}))
        assert caught.value.file == str(path)
        assert (contents(path) if path.is_dir() else path.read_bytes()) == before


def test_a_store_can_be_built_behind_a_symlinked_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    build(tmp_path / "link" / "a.zarr", OURS)
    assert set(open_catalog(tmp_path / "real" / "a.zarr").arrays) == {OURS.spec.key}


@pytest.mark.parametrize("name", ["building.json", "journal"])
@pytest.mark.parametrize("content", [b"", b"{", b"null\n"])
def test_a_torn_identity_or_journal_starts_anew(
    path: Path, name: str, content: bytes, unbroken: dict[str, bytes]
) -> None:
    (path.with_name("a.zarr.building") / name).write_bytes(content)
    assert build(path, OURS, MORE) == [5, 4]
    assert contents(path) == unbroken


def test_clearing_begins_with_what_says_that_chunks_are_there(path: Path) -> None:
    """Killed in between, or with the power gone, no build would believe in chunks that are not there."""
    staging = path.with_name("a.zarr.building")
    with Disk(path.parent) as disk:
        build(path, OURS, MORE, restart=True)
    done = [(operation.kind, operation.path) for operation in disk.seen]
    journal = done.index(("unlink", f"{staging}/journal"))
    store = done.index(("rmdir", f"{staging}/store"))
    ours = done.index(("unlink", f"{staging}/building.json"))
    synced = [number for number, operation in enumerate(done) if operation == ("fsync", str(staging))]
    removed = [number for number, (kind, where) in enumerate(done[:store]) if kind in {"unlink", "rmdir"}]
    assert removed[0] == journal
    assert any(journal < number < removed[1] for number in synced)
    assert any(store < number < ours for number in synced)


@pytest.mark.parametrize("name", ["building.json", "journal"])
def test_what_cannot_be_read_is_not_taken_for_nothing(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(path.parent)
    read = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file.name == name:
            raise OSError(5, "Input/output error")
        return read(file)

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="Input/output"):
        patch.setattr(Path, "read_bytes", refuse)
        build(path, OURS, MORE)
    assert contents(path.parent) == before


class TestOverwriting:
    """The old store stands until the new one does."""

    def old(self, path: Path) -> dict[str, bytes]:
        write_store(
            path, [memory_array("model.layers.0.a.weight", (20, 64), "F32", seed=9)], chunk_bytes=1024
        )
        return contents(path)

    @pytest.mark.parametrize("can_exchange", [True, False])
    def test_the_new_store_takes_the_old_ones_place(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        can_exchange: bool,
        unbroken: dict[str, bytes],
    ) -> None:
        if not can_exchange:
            monkeypatch.setattr(staging_module, "exchange", lambda *_: False)
        self.old(tmp_path / "a.zarr")
        build(tmp_path / "a.zarr", OURS, MORE, overwrite=True)
        assert contents(tmp_path / "a.zarr") == unbroken
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]

    def test_an_interruption_behind_the_exchange_never_mixes_the_stores(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: dict[str, bytes]
    ) -> None:
        """The old store then stands where the journal says that the new one's chunks are."""
        path = tmp_path / "a.zarr"
        self.old(path)

        def stop(_: object) -> None:
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(staging_module.Staging, "discard", stop)
            with pytest.raises(Stop):
                build(path, OURS, MORE, overwrite=True)
        assert contents(path) == unbroken
        assert (tmp_path / "a.zarr.building" / "store" / "catalog.json").is_file()
        assert build(path, OURS, MORE, overwrite=True) == [5, 4]
        assert contents(path) == unbroken
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]

    def test_an_interruption_between_two_renames_brings_the_old_store_back(
        self, tmp_path: Path, unbroken: dict[str, bytes]
    ) -> None:
        path = tmp_path / "a.zarr"
        old = self.old(path)
        with pytest.raises(Stop):
            build(path, OURS, MORE, stop=True, overwrite=True)
        path.rename(tmp_path / "a.zarr.building" / "replaced")
        with pytest.raises(TargetExists, match="taken"):
            build(path, OURS, MORE)
        assert contents(path) == old
        assert build(path, OURS, MORE, overwrite=True) == [0, 0]
        assert contents(path) == unbroken

    def test_a_refused_rename_brings_the_old_store_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.zarr"
        old = self.old(path)
        rename = Path.rename

        def fail(one: Path, other: Path) -> Path:
            if one.name == "store":
                raise OSError(5, "Input/output error")
            return rename(one, other)

        monkeypatch.setattr(staging_module, "exchange", lambda *_: False)
        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(StoreError, match="Input/output"):
            build(path, OURS, MORE, overwrite=True)
        assert contents(path) == old


def test_directories_are_exchanged_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b") == hasattr(os, "fork")
    assert (tmp_path / "a" / "name").read_text() == "b"
    assert (tmp_path / "b" / "name").read_text() == "a"


def test_a_finished_store_has_nothing_of_its_build(path: Path) -> None:
    build(path, OURS, MORE)
    assert set(open_catalog(path).arrays) == {OURS.spec.key, MORE.spec.key}
    assert not any("journal" in name or "building" in name for name in contents(path))
