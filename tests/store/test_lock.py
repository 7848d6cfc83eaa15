"""One process at a time builds, and a lock dies with its holder."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from wvindex.errors import BuildLocked, StoreError
from wvindex.store.lock import BuildLock


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


def test_a_file_system_without_locks_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="No locks available"):
        BuildLock(tmp_path / "x.building").acquire()


def test_a_directory_that_goes_while_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, path = fcntl.flock, tmp_path / "x.building"

    def remove_and_lock(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        path.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    lock = BuildLock(path)
    lock.acquire()
    with pytest.raises(BuildLocked):
        BuildLock(path).acquire()
    lock.release()


def test_a_symlink_is_no_place_to_build(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "x.building").symlink_to(tmp_path / "real")
    with pytest.raises(StoreError):
        BuildLock(tmp_path / "x.building").acquire()
