"""A file that is asked for: refused before any work, there whole or not at all, and replaced only if told."""

from __future__ import annotations

from pathlib import Path

import pytest

from wvindex.errors import StoreError, TargetExists
from wvindex.store.outputs import output_file, require_output


def test_what_is_written_gets_the_name_in_the_end(tmp_path: Path) -> None:
    with output_file(tmp_path / "a.txt") as path:
        path.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt), output_file(tmp_path / "a.txt", overwrite=True) as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "mine")]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(TargetExists), output_file(tmp_path / "a.txt") as path:
        path.write_text("late")
        (tmp_path / "a.txt").write_text("mine")
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        require_output(tmp_path / "missing" / "a.txt", overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_nothing_but_a_file_is_replaced(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("directory", "link"):
        with pytest.raises(TargetExists, match="only a file"):
            require_output(tmp_path / name, overwrite=overwrite)
