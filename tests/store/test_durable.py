"""Files are written whole and never over others; what the system refuses is a typed error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wvindex.errors import StoreError
from wvindex.store.durable import (
    append_to,
    fsync_path,
    fsync_paths,
    make_directory,
    remove_tree,
    rename,
    truncate_file,
    write_file,
)


def test_parts_stand_one_after_another(tmp_path: Path) -> None:
    write_file(tmp_path / "b", [b"12", memoryview(b"345"), b"", bytearray(b"6")])
    assert (tmp_path / "b").read_bytes() == b"123456"


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    write_file(tmp_path / "a", [b"1"])
    with pytest.raises(StoreError, match="File exists"):
        write_file(tmp_path / "a", [b"2"])
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_symlink_is_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for write in (write_file, append_to):
        with pytest.raises(StoreError):
            write(tmp_path / "link", [b"2"])
    assert not (tmp_path / "elsewhere").exists()


def test_appending_goes_on_behind_a_cut(tmp_path: Path) -> None:
    append_to(tmp_path / "a", [b"12", b"34"])
    truncate_file(tmp_path / "a", 3)
    append_to(tmp_path / "a", [b"5"])
    assert (tmp_path / "a").read_bytes() == b"1235"


@pytest.mark.parametrize(
    "wrong", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")]
)
def test_the_systems_refusal_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: OSError
) -> None:
    def refuse(*_: object) -> int:
        raise wrong

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StoreError, match=wrong.strerror):
        write_file(tmp_path / "a", [b"1"])
    with pytest.raises(StoreError, match=wrong.strerror):
        append_to(tmp_path / "b", [b"1"])


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_file(tmp_path / "a", [bytes(range(100)), b"x"])
    assert (tmp_path / "a").read_bytes() == bytes(range(100)) + b"x"


def test_directories_are_made_where_they_are_missing(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b" / "c")
    make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    write_file(tmp_path / "file", [])
    with pytest.raises(StoreError):
        make_directory(tmp_path / "file" / "x")


def test_a_rename_syncs_both_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    for name in ("from/a", "to"):
        make_directory(tmp_path / name)
    rename(tmp_path / "from" / "a", tmp_path / "to" / "b")
    assert synced == {(tmp_path / "from").stat().st_ino, (tmp_path / "to").stat().st_ino}


def test_what_cannot_be_synced_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="sync"):
        fsync_path(tmp_path / "link")
    with pytest.raises(StoreError, match="link"):
        fsync_paths([tmp_path, tmp_path / "link"])


def test_removing_does_not_follow_symlinks(tmp_path: Path) -> None:
    make_directory(tmp_path / "kept")
    write_file(tmp_path / "kept" / "file", [b"mine"])
    make_directory(tmp_path / "d" / "x")
    write_file(tmp_path / "d" / "x" / "file", [])
    for name in ("d/link", "d/x/link"):
        (tmp_path / name).symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "kept" / "file").read_bytes() == b"mine"
