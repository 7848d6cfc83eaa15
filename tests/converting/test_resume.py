"""A conversion that is killed leaves nothing or the whole, and the next one goes on where it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import wvindex
from tests.converting.killing import convert, write_model
from tests.support.cli import REPOSITORY, environment
from tests.support.disk import Disk, Operation
from tests.support.trees import contents, names
from wvindex.converting import hub
from wvindex.errors import BuildLocked, SourceChanged, TargetExists, UsageError


def interrupted(source: Path, target: Path, at: int, **options: Any) -> None:
    """Convert until so many bytes are there."""

    def progress(done: wvindex.Progress) -> None:
        if done.bytes_done >= at:
            raise KeyboardInterrupt

    with mock.patch.object(hub, "_MOST_BUFFERED", 4096), pytest.raises(KeyboardInterrupt):
        wvindex.convert(source, target, fuse_mla_lora=True, progress=progress, **options)


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.converting.killing", tmp_path],
        cwd=REPOSITORY,
        env=environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["points"] > 60
    assert found["resumed"] > 20


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")
    convert(source, tmp_path / "whole")
    interrupted(source, tmp_path / "b", 12_000)
    assert names(tmp_path) == ["a", "b.converting", "whole"]
    before = sum(path.stat().st_size for path in (tmp_path / "b.converting" / "store").iterdir())
    disk = convert(source, tmp_path / "b")
    written = sum(op.length for op in disk.seen if op.kind == "write" and "/store/" in op.path)
    total = sum(len(data) for data in contents(tmp_path / "whole").values())
    assert written == total - before
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")


def test_a_prefix_that_is_not_what_was_written_is_written_anew(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")
    convert(source, tmp_path / "whole")
    interrupted(source, tmp_path / "b", 12_000)
    (file, *_) = sorted((tmp_path / "b.converting" / "store").iterdir())
    file.write_bytes(b"x" + file.read_bytes()[1:])
    convert(source, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")


def test_it_goes_on_only_with_the_same_request_and_source(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")
    interrupted(source, tmp_path / "b", 12_000)
    with pytest.raises(UsageError, match="the conversion that was interrupted here"):
        wvindex.convert(source, tmp_path / "b", fuse_mla_lora=True, allow_requant=True)
    (source / "new.txt").write_text("x")
    with pytest.raises(SourceChanged):
        convert(source, tmp_path / "b")
    convert(source, tmp_path / "b", restart=True)
    assert (tmp_path / "b" / "new.txt").read_text() == "x"
    assert names(tmp_path) == ["a", "b"]


def test_it_says_what_is_kept(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")

    def progress(done: wvindex.Progress) -> None:
        if done.bytes_done > 12_000:
            raise KeyboardInterrupt

    with mock.patch.object(hub, "_MOST_BUFFERED", 4096), pytest.raises(KeyboardInterrupt) as caught:
        wvindex.convert(source, tmp_path / "b", fuse_mla_lora=True, progress=progress)
    (note,) = caught.value.__notes__
    assert "b.converting" in note


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")

    def progress(done: wvindex.Progress) -> None:
        with pytest.raises(BuildLocked, match="converting to here"):
            wvindex.convert(source, tmp_path / "b", fuse_mla_lora=True)

    wvindex.convert(source, tmp_path / "b", fuse_mla_lora=True, progress=progress)


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")
    (tmp_path / "b.converting").mkdir()
    (tmp_path / "b.converting" / "mine").write_text("x")
    with pytest.raises(TargetExists, match="unfinished conversion holds something else"):
        convert(source, tmp_path / "b")
    assert names(tmp_path / "b.converting") == ["mine"]


def test_an_operation_that_the_disk_refuses_is_a_store_error(tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")

    def refuse(number: int, operation: Operation) -> None:
        if operation.kind == "write" and operation.path.endswith("config.json"):
            raise OSError(28, "No space left on device")

    with pytest.raises(wvindex.errors.StoreError, match="No space left"), Disk(tmp_path, refuse):
        wvindex.convert(source, tmp_path / "b", fuse_mla_lora=True)
    assert not (tmp_path / "b").exists()
    convert(source, tmp_path / "b")
