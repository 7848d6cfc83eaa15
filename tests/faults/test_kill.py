"""A build that is killed leaves nothing or a whole store, and the next one goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest

import wvindex
from tests.faults import crashing
from tests.support.cli import REPOSITORY, argv, environment
from tests.support.interrupted import journaled, names, tree
from tests.support.safetensors_writer import write_weights

KILLS: Final = 20
NIGHTLY_KILLS: Final = 200


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
    # Without the exchange of two directories there is a moment at which the name is free.
    assert counts.get("absent", 0) <= (3 if scenario == "renames" else 0)


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


@pytest.fixture(scope="module")
def unbroken(source: Path) -> Path:
    return wvindex.build(source, source.parent / "unbroken.zarr")


class TestKilledAtRandom:
    """`wvindex build` as it is, with a model that takes it a while; after each kill, another build."""

    def test_twenty_times(self, source: Path, unbroken: Path, tmp_memory: Path) -> None:
        require_resumable(source, unbroken, tmp_memory, KILLS)

    @pytest.mark.nightly
    def test_two_hundred_times(self, source: Path, unbroken: Path, tmp_memory: Path) -> None:
        require_resumable(source, unbroken, tmp_memory, NIGHTLY_KILLS)


def require_resumable(source: Path, unbroken: Path, scratch: Path, kills: int) -> None:
    """Kill builds at random moments until there were `kills`; a store that was finished is compared."""
    moments = random.Random(kills)
    expected = tree(unbroken)
    target = scratch / "out.zarr"
    staging = target.with_name("out.zarr.building")
    started = time.monotonic()
    assert not run_and_kill(source, target, random.Random(0), 1e6)
    longest = time.monotonic() - started
    assert tree(target) == expected
    shutil.rmtree(target)
    killed = went_on = 0
    kept: set[str] = set()
    while killed < kills:
        died = run_and_kill(source, target, moments, longest)
        killed += died
        if target.exists():
            assert tree(target) == expected
            shutil.rmtree(target)
            shutil.rmtree(staging, ignore_errors=True)
            kept = set()
            continue
        assert died
        now = journaled(staging)
        assert now >= kept, "what was journaled was forgotten"
        for name in now - kept:
            assert (staging / "store" / name).read_bytes() == expected[name]
        went_on += bool(kept)
        kept = now
    wvindex.build(source, target)
    assert tree(target) == expected
    assert names(scratch) == ["out.zarr"]
    assert went_on > kills // 10


_START: Final = (
    "import os, wvindex.store.commits as commits; commits.GROUP_BYTES = 8 << 20; "
    "import wvindex.building; os.write(3, b'.'); from wvindex.cli.main import main; main()"
)
"""Tells when the imports are done, and commits as often as a build of a large model does in each GB."""


def run_and_kill(source: Path, target: Path, moments: random.Random, longest: float) -> bool:
    """Run `wvindex build` and kill it within that many seconds; False if it was done before."""
    ready, theirs = os.pipe()
    with subprocess.Popen(
        argv(["build", source, "-o", target, "-q"], _START.replace("write(3", f"write({theirs}")),
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs],
    ) as running:
        os.close(theirs)
        os.read(ready, 1)
        os.close(ready)
        with suppress(subprocess.TimeoutExpired):
            running.wait(moments.uniform(0, longest))
        running.kill()
    assert running.returncode in {0, -9}
    return running.returncode == -9
