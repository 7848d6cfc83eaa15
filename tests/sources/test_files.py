"""Only regular files are opened, and a path stays within its checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wvindex.errors import LimitExceeded, SourceChanged, TruncatedSource, UnreadableSource, UsageError
from wvindex.sources.files import OpenFiles, read_beside, resolve_member
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.safetensors import SafetensorsSource


def _file(path: Path, data: bytes = b"0123456789") -> Path:
    path.write_bytes(data)
    return path


def _n_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest.mark.parametrize("reader", [GGUFSource, SafetensorsSource])
def test_a_fifo_does_not_hang(tmp_path: Path, reader: type[GGUFSource] | type[SafetensorsSource]) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(UnreadableSource, match="not a regular file"):
        reader(tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["missing", "a\0b", "x" * 5000, "file/inside"])
@pytest.mark.parametrize("reader", [GGUFSource, SafetensorsSource])
def test_a_path_that_cannot_be_opened_is_unreadable(
    tmp_path: Path, reader: type[GGUFSource] | type[SafetensorsSource], name: str
) -> None:
    _file(tmp_path / "file")
    with pytest.raises(UnreadableSource):
        reader(tmp_path / name)


def test_a_device_and_a_directory_are_not_regular_files(tmp_path: Path) -> None:
    for path in (Path(os.devnull), tmp_path):
        with OpenFiles() as files, pytest.raises(UnreadableSource, match="not a regular file"):
            files.add(path)


def test_nothing_stays_open_after_close(tmp_path: Path) -> None:
    before = _n_descriptors()
    with OpenFiles() as files:
        for i in range(5):
            files.add(_file(tmp_path / str(i)))
        assert _n_descriptors() == before + 5
    assert _n_descriptors() == before


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    before = _n_descriptors()
    with pytest.raises(UnreadableSource):
        GGUFSource(tmp_path)
    assert _n_descriptors() == before


def test_descriptors_are_bounded_and_files_beyond_them_still_read(tmp_path: Path) -> None:
    before = _n_descriptors()
    paths = [_file(tmp_path / str(i), str(i).encode()) for i in range(100)]
    with OpenFiles() as files:
        for path in paths:
            files.add(path)
        assert _n_descriptors() == before + 64
        assert [bytes(files.read(p, 0, len(p.name))).decode() for p in paths] == [p.name for p in paths]
        assert _n_descriptors() == before + 64


def test_a_file_replaced_behind_a_closed_descriptor_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wvindex.sources.files.MAX_DESCRIPTORS", 0)
    path = _file(tmp_path / "a")
    with OpenFiles() as files:
        files.add(path)
        _file(tmp_path / "b", b"other data").rename(path)
        with pytest.raises(SourceChanged):
            files.read(path, 0, 4)


def test_reads_in_small_system_calls_fill_the_whole_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wvindex.sources.files.MAX_READ", 3)
    path = _file(tmp_path / "a")
    with OpenFiles() as files:
        files.add(path)
        assert files.read(path, 1, 8) == b"12345678"
        with pytest.raises(TruncatedSource):
            files.read(path, 5, 8)


def test_a_file_that_was_not_added_is_refused(tmp_path: Path) -> None:
    with OpenFiles() as files, pytest.raises(UsageError):
        files.read(_file(tmp_path / "a"), 0, 1)


def test_a_file_beside_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    _file(tmp_path / "a")
    assert read_beside(tmp_path, "a", 10) == b"0123456789"
    assert read_beside(tmp_path, "missing", 10) is None
    with pytest.raises(LimitExceeded):
        read_beside(tmp_path, "a", 9)


def test_a_symlink_within_the_directory_is_followed(tmp_path: Path) -> None:
    _file(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    assert resolve_member(tmp_path, "b") == (tmp_path / "a").resolve()
