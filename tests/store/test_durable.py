"""Files are written whole, directories change places by a rename, and one process at a time builds."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from wvindex.errors import BuildLocked, StoreError
from wvindex.store.durable import BuildLock, empty_directory, fsync_tree, publish, write_file


def test_parts_stand_one_after_another(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b", [b"12", memoryview(b"345"), b"", bytearray(b"6")], fsync=True)
    assert (tmp_path / "a" / "b").read_bytes() == b"123456"


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    write_file(tmp_path / "a", [b"1"])
    with pytest.raises(StoreError, match="File exists"):
        write_file(tmp_path / "a", [b"2"])
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "wrong", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")]
)
def test_the_systems_refusal_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: OSError
) -> None:
    def refuse(descriptor: int) -> None:
        raise wrong

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=wrong.strerror):
        write_file(tmp_path / "a", [b"1"], fsync=True)


def make(path: Path, text: str) -> Path:
    write_file(path / "sub" / "file", [text.encode()])
    return path


def test_publish_renames(tmp_path: Path) -> None:
    publish(make(tmp_path / "x.building", "new"), tmp_path / "x")
    assert (tmp_path / "x" / "sub" / "file").read_text() == "new"
    assert not (tmp_path / "x.building").exists()


def test_publish_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    make(tmp_path / "x", "old")
    publish(make(tmp_path / "x.building", "new"), tmp_path / "x")
    assert (tmp_path / "x" / "sub" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_publish_syncs_everything_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    staging = make(tmp_path / "x.building", "new")
    wanted = [path.stat().st_ino for path in (staging / "sub" / "file", staging / "sub", staging)]
    publish(staging, tmp_path / "x")
    assert sorted(synced[:-1]) == sorted(wanted)
    assert synced[-1] == tmp_path.stat().st_ino


def test_a_failed_rename_brings_the_old_store_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "x", "old")
    staging = make(tmp_path / "x.building", "new")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == staging:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StoreError, match="Input/output"):
        publish(staging, tmp_path / "x")
    assert (tmp_path / "x" / "sub" / "file").read_text() == "old"


def test_fsync_tree_names_what_fails(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="sync"):
        fsync_tree(tmp_path)


def test_emptying_does_not_follow_symlinks(tmp_path: Path) -> None:
    kept = make(tmp_path / "kept", "mine")
    directory = make(tmp_path / "d", "x")
    (directory / "link").symlink_to(kept)
    empty_directory(directory)
    assert list(directory.iterdir()) == []
    assert (kept / "sub" / "file").read_text() == "mine"


def _hold(path: Path, connection: Connection) -> None:
    lock = BuildLock(path)
    lock.acquire()
    connection.send("locked")
    connection.recv()
    os._exit(1)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "x.building"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(path, there))
    process.start()
    assert here.recv() == "locked"
    with pytest.raises(BuildLocked):
        BuildLock(path).acquire()
    here.send("die")
    process.join()
    lock = BuildLock(path)
    lock.acquire()
    lock.release()


def test_a_lock_moves_on_with_the_path(tmp_path: Path) -> None:
    """A directory that was published while we waited for its lock is not the one to build in."""
    path = tmp_path / "x.building"
    first = BuildLock(path)
    first.acquire()
    path.rename(tmp_path / "x")
    second = BuildLock(path)
    second.acquire()
    assert path.stat().st_ino != (tmp_path / "x").stat().st_ino
    first.release()
    second.release()


def test_a_symlink_is_no_place_to_build(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "x.building").symlink_to(tmp_path / "real")
    with pytest.raises(StoreError):
        BuildLock(tmp_path / "x.building").acquire()
