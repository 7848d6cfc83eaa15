"""Kills a build at each operation in turn, and has another go on.

``python -m tests.faults.crashing SCENARIO DIRECTORY`` prints a JSON document of what became of each crash. It
is a process of its own because it forks: nothing else runs in it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import wvindex
from tests.support.disk import killing
from tests.support.interrupted import (
    build,
    chunks_of,
    chunks_written,
    journaled,
    tree,
    write_latent_model,
    write_plain_model,
)
from tests.support.killed import killed
from tests.support.trees import names
from wvindex.errors import TargetExists
from wvindex.store import staging as staging_module

SCENARIOS: Final = ("new", "exchange", "renames", "twice", "restart")
_STRIDES: Final = (17, 23)


class Crashes:
    """Crashes builds of one model; the target may be taken by the store of another."""

    def __init__(self, scenario: str, scratch: Path) -> None:
        self.scratch = scratch
        self.overwrite = scenario in {"exchange", "renames"}
        if scenario == "new":
            self.source = write_latent_model(scratch / "new.gguf")
        else:
            self.source = write_plain_model(scratch / "new")
        self.expected = self._built(self.source, "expected.zarr")
        old = write_plain_model(scratch / "old-source", seed=1, rows=40)
        self.old = self._built(old, "old.zarr")
        self.outcomes: Counter[str] = Counter()
        if scenario == "renames":  # what a file system without the exchange of directories takes
            mock.patch.object(staging_module, "exchange", lambda *_: False).start()

    def _built(self, source: Path, name: str) -> dict[str, bytes | None]:
        build(source, self.scratch / name)
        return tree(self.scratch / name)

    def prepare(self, name: str) -> Path:
        """Give where to build: a directory that holds nothing, or the old store."""
        target = self.scratch / name / "out.zarr"
        target.parent.mkdir()
        if self.overwrite:
            shutil.copytree(self.scratch / "old.zarr", target)
        return target

    def crash(self, target: Path, at: int, **options: Any) -> bool:
        """Build in a child that dies at its operation `at`; False if it had no more so many."""
        overwrite = self.overwrite or target.exists()
        return killed(partial(build, self.source, target, before=killing(at), overwrite=overwrite, **options))

    def require_whole(self, target: Path) -> str:
        """Tell what stands at the target: nothing, the old store or the new one; never a part."""
        staging = target.with_name("out.zarr.building")
        assert set(names(target.parent)) <= {target.name, staging.name}
        if not target.exists():
            assert not self.overwrite or tree(staging / "replaced") == self.old, "the old store is lost"
            return "absent"
        found = tree(target)
        assert found in (self.expected, self.old), f"half a store: {sorted(found)}"
        return "complete" if found == self.expected else "old"

    def go_on(self, target: Path) -> None:
        """Build again: only what was not journaled is written, and all is as if nothing had happened."""
        outcome = self.require_whole(target)
        staging = target.with_name("out.zarr.building")
        kept = journaled(staging)
        if outcome == "complete":
            try:
                build(self.source, target)
                raise AssertionError("a store was replaced without being asked")
            except TargetExists:
                pass
        disk = build(self.source, target, overwrite=self.overwrite or outcome == "complete")
        written = chunks_written(disk, staging)
        assert sorted(written) == sorted(chunks_of(self.expected) - kept)
        assert tree(target) == self.expected
        assert names(target.parent) == [target.name]
        self.outcomes[outcome] += 1
        self.outcomes["resumed"] += bool(kept)
        self.outcomes["chunks kept"] += len(kept)
        shutil.rmtree(target.parent)


def crash_everywhere(crashes: Crashes) -> Iterator[int]:
    """Crash at each operation once."""
    at = 1
    while crashes.crash(target := crashes.prepare(f"{at}"), at):
        crashes.go_on(target)
        yield at
        at += 1


def crash_twice(crashes: Crashes) -> Iterator[int]:
    """Crash, and crash the build that goes on.

    Threads share the work out differently each time, so one build may be done in fewer operations than
    another: where the last `first` is past the end of one, there is nothing to go on with.
    """
    first = 1
    while crashes.crash(crashes.prepare(f"probe-{first}"), first):
        second = 1
        while True:
            target = crashes.prepare(f"{first}-{second}")
            if not crashes.crash(target, first):
                break
            if not crashes.crash(target, second):
                break
            crashes.go_on(target)
            yield first
            second += _STRIDES[1]
        first += _STRIDES[0]


def crash_restarting(crashes: Crashes) -> Iterator[int]:
    """Crash a build late, and then at each operation a build that is to discard what it left."""
    late = len(build(crashes.source, crashes.prepare("probe")).seen) * 2 // 3
    at = 1
    while True:
        target = crashes.prepare(f"{at}")
        assert crashes.crash(target, late)
        if not crashes.crash(target, at, restart=True):
            return
        crashes.go_on(target)
        yield at
        at += 1


def main(scenario: str, directory: str) -> None:
    """Run a scenario and print its outcomes."""
    assert Path(wvindex.__file__).is_relative_to(Path.cwd())
    crashes = Crashes(scenario, Path(directory))
    run = {"twice": crash_twice, "restart": crash_restarting}.get(scenario, crash_everywhere)
    points = sum(1 for _ in run(crashes))
    print(json.dumps({"points": points, **crashes.outcomes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
