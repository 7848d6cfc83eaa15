"""A build that is killed leaves nothing or a whole store, and the next one goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest

import wvindex
from tests.faults import crashing
from tests.support.cli import REPOSITORY, argv, environment
from tests.support.interrupted import journaled, tree
from tests.support.safetensors_writer import write_weights
from tests.support.trees import names

KILLS: Final = 20
NIGHTLY_KILLS: Final = 200
LONGEST: Final = 0.4
"""Seconds; a build of the large model takes about as many where nothing else runs."""


class Crashing:
    """Crashes builds at each operation, a scenario a process; they run beside each other."""

    def __init__(self, memory: Path) -> None:
        self._running = {}
        for scenario in crashing.SCENARIOS:
            (memory / scenario).mkdir()
            self._running[scenario] = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.crashing", scenario, memory / scenario],
                cwd=REPOSITORY,
                env=environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def counts(self, scenario: str) -> dict[str, int]:
        """Give what became of a scenario's crashes; its process fails where a promise is broken."""
        running = self._running[scenario]
        out, err = running.communicate(timeout=600)
        assert running.returncode == 0, err
        found: dict[str, int] = json.loads(out)
        return found

    def close(self) -> None:
        """End what nobody has waited for."""
        for running in self._running.values():
            if running.poll() is None:
                running.kill()
            running.communicate()


@pytest.fixture(scope="module")
def crashes(memory: Path) -> Iterator[Crashing]:
    started = Crashing(memory)
    yield started
    started.close()


@pytest.mark.parametrize("scenario", ["exchange", "renames"])
def test_an_old_store_stands_until_the_new_one_does(scenario: str, crashes: Crashing) -> None:
    counts = crashes.counts(scenario)
    assert min(counts["points"], counts["old"]) > 80
    assert min(counts["complete"], counts["resumed"]) > 10
    # Without the exchange of two directories the name is free for three operations. Threads do theirs in
    # another order each time, and so a kill at the same number may strike at one of them again.
    assert counts.get("absent", 0) <= (6 if scenario == "renames" else 0)


def test_a_restart_that_crashes_leaves_nothing_that_is_mixed(crashes: Crashing) -> None:
    counts = crashes.counts("restart")
    assert counts["points"] > 80
    assert counts["resumed"] > 10


def test_going_on_may_crash_as_well(crashes: Crashing) -> None:
    counts = crashes.counts("twice")
    assert counts["points"] > 15
    assert counts["resumed"] > 5


def test_a_new_store_survives_a_crash_at_each_operation(crashes: Crashing) -> None:
    counts = crashes.counts("new")
    assert counts["points"] > 200
    assert counts["resumed"] > 150
    assert counts["absent"] + counts["complete"] == counts["points"]


@pytest.fixture(scope="module")
def source(memory: Path) -> Path:
    """Give a checkpoint of some 160 MB."""
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        f"model.layers.{layer}.w": rng.integers(0, 1 << 14, (1 << 10, 1 << 12), np.uint16).view(
            ml_dtypes.bfloat16
        )
        for layer in range(20)
    }
    (memory / "large").mkdir()
    write_weights(tensors, memory / "large")
    return memory / "large"


_SERVE: Final = """
import os, sys
import wvindex.store.commits as commits
from wvindex.cli.main import main

commits.GROUP_BYTES = 8 << 20  # as often, for its size, as a build of a large model commits
sys.argv = ["wvindex", "build", sys.argv[1], "-o", sys.argv[2]]
try:
    main()  # so that children need not import or compile anything
except SystemExit as done:
    assert not done.code
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.argv = ["wvindex", *line.split()]
        main()
    print(child, flush=True)
    sys.stdin.readline()  # until it is waited for, its number is nobody else's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs `wvindex` in processes of their own, children of one that has imported it."""

    def __init__(self, source: Path, unbroken: Path) -> None:
        self.source = source
        self.unbroken = unbroken
        self._serving = subprocess.Popen(
            argv([source, unbroken], _SERVE),
            cwd=REPOSITORY,
            env=environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == str(unbroken)

    def kill_build(self, target: Path, seconds: float) -> bool:
        """Run `wvindex build` and kill it after so long; False if it was done before."""
        self._tell(f"build {self.source} -o {target} -q")
        child = int(self._answer())
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        self._tell("killed")
        code = int(self._answer())
        assert code in {0, -signal.SIGKILL}
        return code != 0

    def _tell(self, line: str) -> None:
        assert self._serving.stdin is not None
        self._serving.stdin.write(f"{line}\n")
        self._serving.stdin.flush()

    def _answer(self) -> str:
        assert self._serving.stdout is not None
        return self._serving.stdout.readline().strip()

    def close(self) -> None:
        """End."""
        self._serving.communicate()


@pytest.fixture(scope="module")
def commands(source: Path) -> Iterator[Commands]:
    started = Commands(source, source.parent / "unbroken.zarr")
    yield started
    started.close()


class TestKilledAtRandom:
    """`wvindex build` as it is, with a model that takes it a while; after each kill, another build."""

    def test_twenty_times(self, commands: Commands, tmp_memory: Path) -> None:
        require_resumable(commands, tmp_memory, KILLS)

    @pytest.mark.nightly
    def test_two_hundred_times(self, commands: Commands, tmp_memory: Path) -> None:
        require_resumable(commands, tmp_memory, NIGHTLY_KILLS)


def require_resumable(commands: Commands, scratch: Path, kills: int) -> None:
    """Kill builds at random moments until there were `kills`; what is finished or kept is compared."""
    moments = random.Random(kills)
    expected = tree(commands.unbroken)
    target = scratch / "out.zarr"
    staging = target.with_name("out.zarr.building")
    killed = went_on = 0
    kept: set[str] = set()
    while killed < kills or went_on <= kills // 10:
        assert killed < 10 * kills, "hardly a kill left anything to go on with"
        died = commands.kill_build(target, moments.uniform(0, LONGEST))
        killed += died
        if target.exists():
            assert tree(target) == expected
            for left in (target, staging):
                shutil.rmtree(left, ignore_errors=True)
            kept = set()
            continue
        assert died
        now = journaled(staging)
        assert now >= kept, "what was journaled was forgotten"
        for name in now - kept:
            assert (staging / "store" / name).read_bytes() == expected[name]
        went_on += kept < now
        kept = now
    wvindex.build(commands.source, target)
    assert tree(target) == expected
    assert names(scratch) == ["out.zarr"]
