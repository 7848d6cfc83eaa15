"""A journal gives back what was appended, however its last bytes were lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wvindex.store.journal import Journal, WrittenChunk

CHUNKS = {f"layers/{i}/w%3d/c.{i}.0": WrittenChunk(2**32 - 1 - i, None if i == 2 else i, i) for i in range(4)}


def written(path: Path) -> bytes:
    journal = Journal(path)
    journal.start(12345)
    journal.append(list(CHUNKS.items())[:3])
    journal.append(list(CHUNKS.items())[3:])
    return path.read_bytes()


def test_what_was_appended_comes_back(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    found = Journal(tmp_path / "journal")
    assert found.chunks == CHUNKS
    assert found.directory == 12345


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal").chunks == {}
    assert Journal(tmp_path / "journal").directory is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("journal") / "journal")


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_lost_and_garbled_ends_are_cut_off(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, len(whole)))
    tail = data.draw(st.one_of(st.binary(max_size=80), st.integers(0, 80).map(bytes)))
    path = tmp_path_factory.mktemp("journal") / "journal"
    path.write_bytes(whole[:kept] + tail)
    lines = whole[:kept].count(b"\n")
    if (
        kept
        and whole[:kept][-1:] != b"\n"
        and (whole[:kept] + tail).startswith(whole[: whole.find(b"\n", kept) + 1])
    ):
        lines += 1  # the tail happens to be what was cut
    found = Journal(path)
    assert found.chunks == dict(list(CHUNKS.items())[: max(lines - 1, 0)])
    assert found.directory == (12345 if lines else None)


def test_after_a_cut_lines_are_appended_to_good_ones(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(whole[:-5])
    more = {"x/c.0": WrittenChunk(1, 0, 0)}
    Journal(path).append(more.items())
    assert Journal(path).chunks == dict(list(CHUNKS.items())[:3]) | more
