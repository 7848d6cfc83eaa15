"""Fuzzes parsers, planner and catalog reader with changed files of the corpus.

``python -m tests.hostile.fuzz --minutes 10 [--seed N]`` runs for that long, prints what it found, keeps the
inputs beside it (``--keep DIRECTORY``), and exits with 1 if anything failed. Failures are exceptions that
are no WvindexError, and cases of more than `MOST_SECONDS`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final

from tests.hostile.fuzz_targets import Target, targets
from tests.hostile.mutate import Mutation, mutated
from wvindex.errors import WvindexError

MOST_SECONDS: Final = 1.0
"""Of this process's time, so that a busy machine is no failure."""


class TooSlow(Exception):
    """A case took more than `MOST_SECONDS`."""


def attempt(target: Target, data: bytes, directory: Path) -> str:
    """Feed one input; give the kind of the error, or ``accepted``.

    Raises
    ------
    TooSlow
        If it took more than `MOST_SECONDS`.
    Exception
        Whatever the parser raised that is no WvindexError.
    """
    with _time_limit():
        try:
            target.feed(data, directory)
        except WvindexError as error:
            str(error)
            return error.kind
    return "accepted"


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(minutes: float, seed: int, keep: Path) -> int:
    """Fuzz every target in turn, by chance; give the number of different failures."""
    rng, until = Random(seed), time.monotonic() + 60 * minutes
    outcomes: dict[str, Counter[str]] = {}
    failures: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        known = targets()
        while time.monotonic() < until:
            name = rng.choice(list(known))
            mutations = [
                Mutation.drawn(rng, known[name].kinds) for _ in range(rng.choice((1, 1, 2, 3, 5, 9)))
            ]
            data = mutated(_seed(known[name], rng), mutations)
            try:
                outcome = attempt(known[name], data, Path(scratch))
            except Exception as error:  # each is a finding
                outcome = "FAILED"
                _report(name, error, data, failures, keep)
            outcomes.setdefault(name, Counter())[outcome] += 1
    for name, counter in outcomes.items():
        print(f"{name}: {counter.total()} cases; {dict(counter.most_common())}")
    return len(failures)


def _seed(target: Target, rng: Random) -> bytes:
    """Choose a sound input three times out of four."""
    return rng.choice(target.sound if rng.random() < 0.75 or not target.unsound else target.unsound)


def _report(name: str, error: Exception, data: bytes, failures: dict[str, Path], keep: Path) -> None:
    """Print a failure, and keep its input, the first time that it is met."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    fault = f"{name}: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
    place = fault.split(": ", 2)[1] if not isinstance(error, TooSlow) else name
    if place in failures:
        return
    failures[place] = keep / f"{name}-{len(failures)}.bin"
    keep.mkdir(parents=True, exist_ok=True)
    failures[place].write_bytes(data)
    print(f"{fault} ({failures[place]})", flush=True)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    arguments = parser.parse_args()
    sys.exit(1 if fuzz(arguments.minutes, arguments.seed, arguments.keep) else 0)


if __name__ == "__main__":
    main()
