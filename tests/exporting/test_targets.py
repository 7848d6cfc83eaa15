"""Where a result may stand; that it stands there whole, or not at all; and that nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import wvindex
from tests.support.cli import REPOSITORY, environment
from tests.support.disk import Disk, refusing
from tests.support.golden import EXAMPLE
from tests.support.sealing import flip
from tests.support.stores import Stores
from tests.support.trees import contents, names
from wvindex.errors import (
    BuildLocked,
    ChecksumError,
    NotAStore,
    SourceChanged,
    StoreError,
    TargetExists,
    UnknownFormat,
    UsageError,
)
from wvindex.exporting import targets
from wvindex.store.lock import BuildLock


def small_pieces() -> Any:
    """Have files written 64 KiB at a time."""
    return mock.patch.object(targets, "_MOST_BUFFERED", 1 << 16)


def export_gguf(source: Path, out: Path, **options: Any) -> Path:
    with small_pieces():
        return wvindex.export(source, out, format="gguf", **options)


def test_a_file_that_is_taken_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"something")
    for overwrite in (False, True):
        with pytest.raises(TargetExists):
            export_gguf(EXAMPLE, out, overwrite=overwrite)
    assert out.read_bytes() == b"something"
    assert names(tmp_path) == ["out.gguf"]


def test_a_gguf_file_is_replaced_by_one(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"GGUF of before")
    with pytest.raises(TargetExists):
        export_gguf(EXAMPLE, out)
    export_gguf(EXAMPLE, out, overwrite=True)
    assert out.read_bytes() == EXAMPLE.read_bytes()
    assert names(tmp_path) == ["out.gguf"]


def test_a_directory_is_replaced_if_it_is_a_checkpoint(stores: Stores, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stores.safetensors("qwen2"), tmp_path / "out"))
    source = stores.safetensors("llama")
    with pytest.raises(TargetExists):
        wvindex.export(source, out, format="safetensors")
    wvindex.export(source, out, format="safetensors", overwrite=True)
    assert contents(out) == contents(source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(TargetExists):
        wvindex.export(source, other, format="safetensors", overwrite=True)
    assert names(other) == ["letter.txt"]


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_a_store_is_never_replaced(form: Any, stores: Stores, tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores.build(stores.safetensors("qwen2")), tmp_path / "store.zarr"))
    before = contents(store)
    with pytest.raises(TargetExists):
        wvindex.export(stores.safetensors("qwen2"), store, format=form, overwrite=True)
    assert contents(store) == before


def test_the_result_does_not_stand_in_the_store(stores: Stores, tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores.build(stores.safetensors("qwen2")), tmp_path / "store.zarr"))
    (tmp_path / "link").symlink_to(store, target_is_directory=True)
    for out in (store / "out", tmp_path / "link" / "out"):
        with pytest.raises(UsageError, match="cannot stand where the store does"):
            wvindex.export(store, out, format="safetensors")


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the directory for the result does not exist"):
        export_gguf(EXAMPLE, tmp_path / "no" / "out.gguf")


def test_a_file_in_the_place_of_the_unfinished_export_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.gguf.exporting").write_text("mine")
    with pytest.raises(TargetExists, match=r"place of the unfinished export is taken.*found: a file"):
        export_gguf(EXAMPLE, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf.exporting").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"format": "onnx"}, "format"),
        ({"mla": "both"}, "mla"),
        ({"dtype": "int8"}, "dtype"),
        ({"max_shard_size": 0}, "max_shard_size"),
        ({"max_memory": "1MiB"}, "max_memory"),
    ],
)
def test_an_option_without_such_a_value_is_told_before_anything_is_read(
    options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        wvindex.export(tmp_path / "none", tmp_path / "out", **({"format": "gguf"} | options))
    assert caught.value.field == field


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UnknownFormat):
        export_gguf(tmp_path / "letter.txt", tmp_path / "out.gguf")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").write_text("{}")
    with pytest.raises(NotAStore):
        export_gguf(tmp_path / "store", tmp_path / "out.gguf")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = wvindex.build(EXAMPLE, tmp_path / "store.zarr", mla="keep")
    chunk = max((path for path in store.rglob("c.*")), key=lambda path: path.stat().st_size)
    flip(chunk, 1000)
    with pytest.raises(ChecksumError):
        export_gguf(store, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_another_export_to_the_same_place_is_told(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "out.gguf.exporting")
    lock.acquire()
    try:
        with pytest.raises(BuildLocked, match="exporting to here"):
            export_gguf(EXAMPLE, tmp_path / "out.gguf")
    finally:
        lock.release()


@pytest.mark.parametrize("full", [True, False])
def test_a_disk_that_refuses_leaves_nothing_at_the_target(full: bool, tmp_path: Path) -> None:
    with Disk(tmp_path) as disk:
        export_gguf(EXAMPLE, tmp_path / "out.gguf")
    expected, operations = (tmp_path / "out.gguf").read_bytes(), len(disk.seen)
    (tmp_path / "out.gguf").unlink()
    for at in range(1, operations, max(operations // 25, 1)):
        with Disk(tmp_path, refusing(at, full=full, lasting=True)):
            try:
                export_gguf(EXAMPLE, tmp_path / "out.gguf")
            except StoreError:
                assert not (tmp_path / "out.gguf").exists()
            else:
                assert (tmp_path / "out.gguf").read_bytes() == expected
                (tmp_path / "out.gguf").unlink()
        export_gguf(EXAMPLE, tmp_path / "out.gguf")
        assert (tmp_path / "out.gguf").read_bytes() == expected
        assert names(tmp_path) == ["out.gguf"]
        (tmp_path / "out.gguf").unlink()


_KILLED = """
import os, signal, sys
import wvindex
from unittest import mock
from wvindex.exporting import targets
def progress(done):
    if done.bytes_done > done.bytes_total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
with mock.patch.object(targets, "_MOST_BUFFERED", 1 << 16):
    wvindex.export(sys.argv[1], sys.argv[2], format=sys.argv[3], progress=progress)
"""


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_killed_export_leaves_nothing_and_goes_on(form: Any, stores: Stores, tmp_path: Path) -> None:
    source = EXAMPLE if form == "gguf" else stores.safetensors("deepseek_v3")
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, source, out, form],
        cwd=REPOSITORY,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names(tmp_path) == ["out.exporting"]
    written = sum(path.stat().st_size for path in (tmp_path / "out.exporting" / "store").iterdir())
    with Disk(tmp_path) as disk, small_pieces():
        wvindex.export(source, out, format=form)
    again = sum(op.length for op in disk.seen if op.kind == "write" and "/store/" in op.path)
    found = contents(out) if form == "safetensors" else {"out": out.read_bytes()}
    assert again == sum(map(len, found.values())) - written
    assert found == (contents(source) if form == "safetensors" else {"out": source.read_bytes()})
    assert names(tmp_path) == ["out"]


def test_an_interrupted_export_of_something_else_is_told(stores: Stores, tmp_path: Path) -> None:
    def progress(done: wvindex.Progress) -> None:
        if done.bytes_done > 1 << 20:
            raise KeyboardInterrupt

    out = tmp_path / "out.gguf"
    with pytest.raises(KeyboardInterrupt):
        export_gguf(EXAMPLE, out, progress=progress)
    with pytest.raises(UsageError, match="export that was interrupted"):
        export_gguf(EXAMPLE, out, dtype="float16")
    export_gguf(EXAMPLE, out, dtype="float16", restart=True)
    assert names(tmp_path) == ["out.gguf"]


def test_progress_comes_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    export_gguf(
        EXAMPLE, tmp_path / "out.gguf", progress=lambda done: seen.append((done.bytes_done, done.bytes_total))
    )
    size = (tmp_path / "out.gguf").stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_a_plan_says_all_and_writes_nothing(tmp_path: Path) -> None:
    planned = wvindex.plan_export(EXAMPLE, tmp_path / "out.gguf", format="gguf")
    assert list(tmp_path.iterdir()) == []
    document = json.loads(json.dumps(planned.to_dict()))
    assert document["files"] == {"out.gguf": EXAMPLE.stat().st_size}
    assert document["nbytes"] == sum(tensor["nbytes"] for tensor in document["tensors"])
    assert (document["refusals"], document["notes"]) == ([], [])


def test_a_bare_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    source = Path(shutil.copy(EXAMPLE, tmp_path / "source.gguf"))

    def touch(done: wvindex.Progress) -> None:
        os.utime(source, ns=(1, 1))

    with pytest.raises(SourceChanged):
        export_gguf(source, tmp_path / "out.gguf", progress=touch)
    assert names(tmp_path) == ["source.gguf"]
