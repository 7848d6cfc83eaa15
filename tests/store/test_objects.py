"""A store's directory is held open; nothing in it is followed elsewhere, and few descriptors are held."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wvindex.errors import (
    ChunkError,
    LimitExceeded,
    NotAStore,
    StoreClosed,
    UnreadableSource,
    UnsafePath,
)
from wvindex.store import objects
from wvindex.store.objects import ChunkFile, LocalObjects

CHUNK = ChunkFile("w", "a/b/c.0", 4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "x" / "a" / "b").mkdir(parents=True)
    (tmp_path / "x" / "a" / "b" / "c.0").write_bytes(b"1234")
    (tmp_path / "x" / "file").write_bytes(b"text")
    return tmp_path / "x"


def read(local: LocalObjects, chunk: ChunkFile = CHUNK) -> bytes:
    out = bytearray(chunk.nbytes)
    local.read(chunk, 0, memoryview(out))
    return bytes(out)


def test_what_is_there_is_read(root: Path) -> None:
    local = LocalObjects(root)
    assert read(local) == b"1234"
    assert local.read_file("file", 4) == b"text"
    assert local.read_file("nothing", 4) is None
    assert local.read_file("nothing/below", 4) is None
    with pytest.raises(LimitExceeded) as caught:
        local.read_file("file", 3)
    assert (caught.value.expected, caught.value.found) == ("at most 3", 4)


@pytest.mark.parametrize("name", ["a", "a/b", "a/b/c.0"])
def test_a_symlink_that_takes_the_place_of_anything_is_named_and_not_followed(
    root: Path, tmp_path: Path, name: str
) -> None:
    local = LocalObjects(root)
    assert local.read_file("a/b/c.0", 4) == b"1234"  # seen once, and then changed
    (root / name).rename(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath) as caught:
        read(local)
    error = caught.value
    assert (error.file, error.tensor) == (str(root / name), "w")
    assert error.found == f"a symlink to {tmp_path / 'elsewhere'}"
    assert error.expected in {"a directory of its own", "a file of its own"}


def test_a_symlink_that_leads_nowhere_or_to_itself_is_one_too(root: Path) -> None:
    for target in ("nowhere", "c.0"):
        (root / "a/b/c.0").unlink()
        (root / "a/b/c.0").symlink_to(target)
        with pytest.raises(UnsafePath, match=f"a symlink to {target}"):
            read(LocalObjects(root))


@pytest.mark.parametrize(("kind", "found"), [("fifo", "prw"), ("directory", "drw"), ("socket", "")])
def test_what_is_no_regular_file_is_refused_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str, found: str
) -> None:
    path = root / "a/b/c.0"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            monkeypatch.chdir(path.parent)  # a socket's path may have a hundred characters or so
            bound.bind(path.name)
    with pytest.raises(UnreadableSource) as caught:
        read(LocalObjects(root))
    assert (caught.value.file, caught.value.tensor) == (str(path), "w")
    assert str(caught.value.found).startswith(found)
    assert caught.value.expected is not None


def test_a_file_in_the_place_of_a_directory_is_named(root: Path) -> None:
    with pytest.raises(UnreadableSource) as caught:
        LocalObjects(root).read_file("file/below", 4)
    assert caught.value.file == str(root / "file")
    assert (caught.value.expected, caught.value.found) == ("a directory to read", "Not a directory")


def test_what_is_no_directory_is_no_store(root: Path) -> None:
    with pytest.raises(NotAStore) as caught:
        LocalObjects(root / "file")
    assert (caught.value.expected, caught.value.found) == ("a store", "a file")
    with pytest.raises(NotAStore) as caught:
        LocalObjects(root / "nothing")
    assert (caught.value.expected, caught.value.found) == ("a store", "nothing")
    (root / "loop").symlink_to("loop")
    for path in ("loop", "\0", "n" * 300):
        with pytest.raises(UnreadableSource):
            LocalObjects(root / path)


def test_the_length_is_compared_with_every_read(root: Path) -> None:
    local = LocalObjects(root)
    read(local)
    with (root / "a/b/c.0").open("ab") as file:
        file.write(b"5")
    with pytest.raises(ChunkError, match="expected: 4 bytes, found: 5 bytes"):
        read(local)
    with pytest.raises(ChunkError, match="expected: 4 bytes, found: 5 bytes"):
        local.require(CHUNK)


def test_after_it_was_closed_nothing_is_read(root: Path) -> None:
    local = LocalObjects(root)
    read(local)
    local.close()
    with pytest.raises(StoreClosed):
        read(local)
    with pytest.raises(StoreClosed):
        local.read_file("file", 4)
    with pytest.raises(StoreClosed):
        local.require(CHUNK)


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_the_directory_and_the_last_chunks_are_held_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 3)
    for i in range(20):
        (root / f"array-{i}").mkdir()
        (root / f"array-{i}" / "c.0").write_bytes(b"1234")
    before = open_files()
    local = LocalObjects(root)
    for i in range(20):
        read(local, ChunkFile("w", f"array-{i}/c.0", 4))
        assert local.read_file(f"array-{i}/zarr.json", 9) is None
        assert open_files() <= before + 4
    local.close()
    assert open_files() == before


def test_a_store_that_is_let_go_of_closes_what_it_held(root: Path) -> None:
    before = open_files()
    for _ in range(50):
        read(LocalObjects(root))
    assert open_files() == before
