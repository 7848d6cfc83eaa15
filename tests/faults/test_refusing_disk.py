"""A disk that is full or broken: one clear error, nothing lost, and the next build goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import wvindex
from tests.support.cli import argv, environment, invoke
from tests.support.disk import Disk, Operation, refusing, refusing_once_journaled
from tests.support.interrupted import (
    build,
    chunks_of,
    chunks_written,
    journaled,
    tree,
    write_latent_model,
    write_plain_model,
)
from tests.support.safetensors_writer import write_weights
from tests.support.trees import names
from wvindex.errors import NoSpace, StoreError
from wvindex.store import staging as staging_module


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """No descriptor and no thread is left behind."""
    open_before, threads = descriptors(), threading.active_count()
    yield
    assert descriptors() == open_before
    assert threading.active_count() == threads


def descriptors() -> int:
    """Count this process's open files."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Model:
    """A source, its store, and how many operations a build takes."""

    def __init__(self, source: Path, scratch: Path) -> None:
        self.source = source
        self.scratch = scratch
        self.operations = build(source, scratch / "expected.zarr").seen
        self.expected = tree(scratch / "expected.zarr")

    def require_survives(self, at: int, *, full: bool, lasting: bool, old: Path | None = None) -> str:
        """Build on a disk that refuses, and then on one that does not."""
        directory = self.scratch / "refused"
        target, staging = directory / "out.zarr", directory / "out.zarr.building"
        directory.mkdir()
        if old is not None:
            shutil.copytree(old, target)
        error = self._refused(target, at, full=full, lasting=lasting, overwrite=old is not None)
        # Without the exchange of directories the disk may refuse a second rename, and to undo the first.
        stands = target if target.exists() or old is None or not lasting else staging / "replaced"
        assert (tree(stands) if stands.exists() else None) in (
            self.expected,
            None if old is None else tree(old),
        )
        kept = journaled(staging)
        if error is not None:
            assert error.file is not None
            assert Path(error.file).is_relative_to(directory)
            assert os.strerror(errno.ENOSPC if full else errno.EIO) in str(error)
            if not lasting and not target.exists():
                assert kept or not staging.exists(), "what is of no use is left"
            assert bool(kept) == any("goes on" in note for note in getattr(error, "__notes__", ()))
        disk = build(self.source, target, overwrite=target.exists() or old is not None)
        assert sorted(chunks_written(disk, staging)) == sorted(chunks_of(self.expected) - kept)
        assert tree(target) == self.expected
        assert names(directory) == ["out.zarr"]
        shutil.rmtree(directory)
        return "resumed" if kept else "started anew"

    def _refused(self, target: Path, at: int, **how: Any) -> StoreError | None:
        overwrite = how.pop("overwrite")
        with nothing_leaks():
            try:
                build(self.source, target, before=refusing(at, **how), overwrite=overwrite)
            except StoreError as error:
                return error
        return None  # nothing of what was left to do takes room


@pytest.fixture(scope="module")
def plain(memory: Path) -> Model:
    (memory / "plain").mkdir()
    return Model(write_plain_model(memory / "plain" / "source"), memory / "plain")


@pytest.fixture(scope="module")
def latent(memory: Path) -> Model:
    (memory / "latent").mkdir()
    return Model(write_latent_model(memory / "latent" / "model.gguf"), memory / "latent")


@pytest.fixture(scope="module")
def old(memory: Path) -> Path:
    build(write_plain_model(memory / "old", seed=1, rows=40), memory / "old.zarr")
    return memory / "old.zarr"


@pytest.mark.parametrize(
    ("full", "lasting"), [(True, True), (False, True), (False, False)], ids=["full", "broken", "broken once"]
)
def test_a_refusal_at_each_operation(plain: Model, full: bool, lasting: bool) -> None:
    outcomes = [
        plain.require_survives(at, full=full, lasting=lasting) for at in range(1, len(plain.operations) + 1)
    ]
    assert outcomes.count("resumed") > (5 if full and lasting else 20)
    assert outcomes.count("started anew") > 10


@pytest.mark.parametrize("lasting", [True, False], ids=["for good", "once"])
def test_refusals_with_packed_and_absorbed_weights(latent: Model, lasting: bool) -> None:
    outcomes = [
        latent.require_survives(at, full=bool(at % 2), lasting=lasting)
        for at in range(1, len(latent.operations), 9)
    ]
    assert outcomes.count("resumed") > 10


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("lasting", [True, False], ids=["for good", "once"])
def test_a_refusal_while_a_store_is_replaced(
    plain: Model, old: Path, lasting: bool, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last chunk on: what comes before is as in a new store."""
    if not exchanges:
        monkeypatch.setattr(staging_module, "exchange", lambda *_: False)
    last = max(number for number, seen in enumerate(plain.operations, 1) if seen.kind == "create")
    for at in range(last, last + 60):
        plain.require_survives(at, full=False, lasting=lasting, old=old)


def test_nothing_more_is_read_once_the_disk_is_full(
    plain: Model, tmp_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    tensors = {f"w{i}": rng.standard_normal((1000, 32)).astype(np.float32) for i in range(6)}
    (tmp_memory / "many").mkdir()
    write_weights(tensors, tmp_memory / "many")
    reads = []

    def count(number: int, operation: Operation) -> None:
        if "/c." in operation.path:
            reads.append(operation.path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="No space left"):
        build(tmp_memory / "many", tmp_memory / "out.zarr", before=count)
    assert len(reads) < 20  # of some 190 chunks
    assert names(tmp_memory) == ["many"]


class TestTooLittleRoom:
    """The build says so before it begins."""

    def test_a_new_store(self, plain: Model, tmp_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = wvindex.plan(plain.source).bytes_out
        give_room(monkeypatch, needed - 1)
        with nothing_leaks(), pytest.raises(NoSpace, match=r"out\.zarr.*free") as caught:
            build(plain.source, tmp_memory / "out.zarr")
        assert (caught.value.exit_code, caught.value.kind) == (3, "no-space")
        assert names(tmp_memory) == []
        give_room(monkeypatch, needed)
        build(plain.source, tmp_memory / "out.zarr")

    def test_what_is_written_already_needs_no_more(
        self, plain: Model, tmp_memory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(StoreError):
            build(plain.source, tmp_memory / "out.zarr", before=refusing_once_journaled())
        store = tmp_memory / "out.zarr.building" / "store"
        there = sum((store / name).stat().st_size for name in journaled(store.parent))
        assert there
        give_room(monkeypatch, wvindex.plan(plain.source).bytes_out - there - 1)
        before = journaled(store.parent)
        with pytest.raises(NoSpace) as caught:
            build(plain.source, tmp_memory / "out.zarr")
        assert "goes on" in caught.value.__notes__[0]
        assert journaled(store.parent) == before
        give_room(monkeypatch, wvindex.plan(plain.source).bytes_out - there)
        build(plain.source, tmp_memory / "out.zarr")
        assert tree(tmp_memory / "out.zarr") == plain.expected


def give_room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, free))


def test_a_limit_of_file_sizes_is_a_clear_error(plain: Model, tmp_memory: Path) -> None:
    """The system's own limit, in a process of its own, on the command line."""
    (tmp_memory / "large").mkdir()
    write_weights(
        {"small": np.ones((64, 64), np.float32), "z": np.ones((1024, 1024), np.float32)}, tmp_memory / "large"
    )
    out = tmp_memory / "out.zarr"
    limited = subprocess.run(
        argv(["build", tmp_memory / "large", "-o", out]),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert limited.returncode == 3
    error, note = limited.stderr.splitlines()
    assert error.startswith("error[store]: cannot write a file: File too large (file: ")
    assert "out.zarr.building/store/z/c.0.0" in error
    assert note == f"what was written is kept in {out}.building; the same build goes on with it"
    assert journaled(tmp_memory / "out.zarr.building") == {"small/c.0.0"}
    assert invoke("build", tmp_memory / "large", "-o", out).exit_code == 0
    wvindex.build(tmp_memory / "large", tmp_memory / "again.zarr")
    assert tree(out) == tree(tmp_memory / "again.zarr")


def test_the_command_line_says_it_in_one_line(plain: Model, tmp_memory: Path) -> None:
    with Disk(tmp_memory, refusing(20, full=True, lasting=True)):
        result = invoke("build", plain.source, "-o", tmp_memory / "out.zarr")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error[store]: cannot ")
    assert "No space left on device (file: " in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr


_ON_A_SMALL_DISK: Final = """
set -e
mount -t tmpfs -o size=3m tmpfs "$1"
status=0; "$2" -c "$3" build "$4" -o "$1/out.zarr" 2>"$5/refusal" || status=$?
test $status = 3
grep -q '^error.store.: cannot .*No space left on device' "$5/refusal"
test ! -e "$1/out.zarr"
mount -o remount,size=32m "$1"
"$2" -c "$3" build "$4" -o "$1/out.zarr" 2>"$5/success"
diff -r "$1/out.zarr" "$5/expected.zarr"
"""


@pytest.mark.nightly
def test_a_disk_that_is_really_full(tmp_memory: Path) -> None:
    """A small file system in a namespace of its own, which a system may forbid: then this fails."""
    rng = np.random.default_rng(1)
    tensors = {f"w{i}": rng.standard_normal((256, 256)).astype(np.float32) for i in range(40)}
    for name in ("model", "disk"):
        (tmp_memory / name).mkdir()
    write_weights(tensors, tmp_memory / "model")
    wvindex.build(tmp_memory / "model", tmp_memory / "expected.zarr")
    start = (  # others fill the disk once the build has looked how much room there is
        "import shutil, wvindex.store.commits as commits; from wvindex.cli.main import main; "
        "commits.GROUP_FILES = 2; usage = shutil.disk_usage; "
        "shutil.disk_usage = lambda path: usage(path)._replace(free=1 << 40); main()"
    )
    arguments = [tmp_memory / "disk", sys.executable, start, tmp_memory / "model", tmp_memory]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", _ON_A_SMALL_DISK, "sh", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refusal = (tmp_memory / "refusal").read_text()
    assert refusal.count("error[") == 1
    assert refusal.endswith("the same build goes on with it\n")
