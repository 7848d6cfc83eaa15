"""Ctrl-C: the command ends at once with 130, says that it can be gone on with, and can."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import wvindex
from tests.support.cli import argv, environment, succeed
from tests.support.interrupted import build, journaled, tree, write_plain_model
from tests.support.safetensors_writer import write_weights
from tests.support.trees import names
from wvindex import Progress

CPU_SECONDS: Final = 2.0
WALL_SECONDS: Final = 5.0
"""A machine that is busy with other things is no fault of the build's."""


@pytest.fixture(scope="module")
def source(memory: Path) -> Path:
    """Give a checkpoint of some 160 MB, half of it one tensor."""
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        f"w{i}": rng.integers(-99, 99, (1 << 10, 1 << 12)).astype(np.float32) for i in range(5)
    }
    tensors["x"] = rng.integers(-99, 99, (5 << 10, 1 << 12)).astype(np.float32)
    (memory / "large").mkdir()
    write_weights(tensors, memory / "large")
    return memory / "large"


@pytest.fixture(scope="module")
def unbroken(source: Path) -> dict[str, bytes | None]:
    return tree(wvindex.build(source, source.parent / "unbroken.zarr"))


_START: Final = """
import time
import wvindex.store.commits as commits
from wvindex.cli.main import main

def sync_slowly(paths, sync=commits.fsync_paths):
    time.sleep(0.05)
    sync(paths)

commits.GROUP_BYTES = 8 << 20
commits.fsync_paths = sync_slowly
main()
"""
"""A disk so slow that there is time to interrupt."""


@dataclass
class Interrupted:
    """What a command did once it was interrupted."""

    exit_code: int
    stderr: str
    cpu_seconds: float
    wall_seconds: float


def interrupt(*arguments: object, once: Path, nbytes: int) -> Interrupted:
    """Run a command and send it SIGINT when the file `once` is longer than that."""
    with subprocess.Popen(
        argv(arguments, _START),
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        while not (once.exists() and once.stat().st_size > nbytes):
            assert running.poll() is None, "it was done before"
            time.sleep(0.002)
        before, started = cpu_seconds(running.pid), time.monotonic()
        running.send_signal(signal.SIGINT)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        _, stderr = running.communicate(timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return Interrupted(running.returncode, stderr, used - before, time.monotonic() - started)


def cpu_seconds(process: int) -> float:
    """Give the processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("options", [[], ["--quiet"]], ids=["loud", "quiet"])
@pytest.mark.parametrize("lines", [1, 6])
def test_an_interrupted_command_says_that_it_can_be_gone_on_with(
    source: Path, unbroken: dict[str, bytes | None], tmp_memory: Path, lines: int, options: list[str]
) -> None:
    out = tmp_memory / "out.zarr"
    staging = tmp_memory / "out.zarr.building"
    found = interrupt("build", source, "-o", out, *options, once=staging / "journal", nbytes=60 * lines)
    assert found.exit_code == 130
    assert found.stderr == (
        f"interrupted\nwhat was written is kept in {staging}; the same build goes on with it\n"
    )
    assert found.cpu_seconds < CPU_SECONDS
    assert found.wall_seconds < WALL_SECONDS
    assert names(tmp_memory) == [staging.name]
    assert len(journaled(staging)) >= lines
    assert succeed("build", source, "-o", out) == f"{out}\n"
    assert tree(out) == unbroken


def test_nothing_is_said_of_what_is_not_kept(tmp_memory: Path) -> None:
    """A build that has written nothing leaves nothing."""
    source = write_plain_model(tmp_memory / "source")

    def interrupt(number: int, operation: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        build(source, tmp_memory / "out.zarr", before=interrupt)
    assert not getattr(caught.value, "__notes__", ())
    assert names(tmp_memory) == ["source"]


def test_what_was_written_since_the_last_commit_is_kept_as_well(tmp_memory: Path) -> None:
    source = write_plain_model(tmp_memory / "source")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        wvindex.build(source, tmp_memory / "out.zarr", progress=interrupt)
    staging = tmp_memory / "out.zarr.building"
    assert caught.value.__notes__ == [
        f"what was written is kept in {staging}; the same build goes on with it"
    ]
    assert journaled(staging)
    assert names(tmp_memory) == ["out.zarr.building", "source"]


def test_an_interruption_at_each_operation(tmp_memory: Path) -> None:
    source = write_plain_model(tmp_memory / "source")
    steps = len(build(source, tmp_memory / "expected.zarr").seen)
    for at in range(1, steps, 4):
        out = tmp_memory / f"{at}" / "out.zarr"
        out.parent.mkdir()

        def interrupt(number: int, operation: object, at: int = at) -> None:
            if number == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(source, out, before=interrupt)
        build(source, out, overwrite=out.exists())
        assert tree(out) == tree(tmp_memory / "expected.zarr")
        assert names(out.parent) == ["out.zarr"]
