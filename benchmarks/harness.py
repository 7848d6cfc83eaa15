"""Contenders timed in turns, A B A B ..., and the readings taken from them."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.bars import BARS


@dataclass(frozen=True)
class Absent:
    """A contender that is not there, and why."""

    reason: str


_LONG = 0.05
"""Seconds."""

SPIN = 0.05
"""Seconds for which the threads of a BLAS may spin after their work, and would slow the next contender."""

Contender: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """One contender's seconds, a number a round, and the bytes that a run of it made or read."""

    seconds: tuple[float, ...]
    nbytes: int | None = None

    @cached_property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def bytes_per_second(self) -> float | None:
        """Throughput at the median."""
        return None if self.nbytes is None else self.nbytes / self.median


@dataclass(frozen=True)
class Comparison:
    """Contenders that did the same work in turns."""

    benchmark: str
    case: str
    timings: Mapping[str, Timing]
    absent: Mapping[str, str] = field(default_factory=dict)

    def speeds(self, label: str, peer: str) -> tuple[float, ...]:
        """Give how many times as fast as `peer` a contender was, round by round; nothing if one is absent.

        A ratio is taken within each round, so that what slows a while of the run slows both its terms.
        """
        if label in self.absent or peer in self.absent:
            return ()
        ours, theirs = self.timings[label].seconds, self.timings[peer].seconds
        return tuple(b / a for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Reading:
    """One number.

    Attributes
    ----------
    benchmark, case, quantity : str
        Where it belongs, what was worked on, what the number is.
    value : float or None
        None where it could not be taken; `note` says why.
    bar : str or None
        Name of the bar that it is held against.
    note : str
    samples : tuple of float
        What `value` is the median of, where it is one: their spread tells how far to trust it.
    """

    benchmark: str
    case: str
    quantity: str
    value: float | None
    bar: str | None = None
    note: str = ""
    samples: tuple[float, ...] = ()


@dataclass
class Bench:
    """What one benchmark is given, and where it leaves its results.

    Attributes
    ----------
    name : str
    scratch : Path
        An empty directory, removed afterwards.
    quick : bool
        Sizes so small that times mean nothing, to see that everything works.
    threads : int
        Processors that may be used.
    began : str
        When, and how busy the machine was.
    """

    name: str
    scratch: Path
    quick: bool
    threads: int
    began: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def compare(
        self,
        case: str,
        contenders: Mapping[str, Contender | Absent],
        *,
        repeat: int,
        nbytes: int | None = None,
        before: Contender | None = None,
        pause: float = 0.0,
    ) -> Comparison:
        """Time contenders in turns, after one round that does not count.

        Parameters
        ----------
        case : str
            What is worked on.
        contenders : mapping of str to callable or Absent
            By label, in the order of their turns.
        repeat : int
            Rounds; two in quick mode.
        nbytes : int, optional
            Bytes of one run, for throughput.
        before : callable, optional
            Called before every run, untimed.
        pause : float
            Seconds between runs, for threads that spin for a while after their work.
        """
        _say(f"  {case}")
        present = {label: run for label, run in contenders.items() if not isinstance(run, Absent)}
        absent = {label: run.reason for label, run in contenders.items() if isinstance(run, Absent)}
        seconds: dict[str, list[float]] = {label: [] for label in present}
        rounds = min(repeat, 2) if self.quick else repeat
        for turn in range(rounds + 1):
            for label, run in present.items():
                if before is not None:
                    before()
                time.sleep(pause)
                taken = timed(run)
                if turn:
                    seconds[label].append(taken)
        timings = {label: Timing(tuple(taken), nbytes) for label, taken in seconds.items()}
        comparison = Comparison(self.name, case, timings, absent)
        self.comparisons.append(comparison)
        return comparison

    def read(
        self, case: str, quantity: str, value: float | None, *, bar: str | None = None, note: str = ""
    ) -> None:
        """Keep a number, and hold it against a bar if one is named."""
        self._keep(Reading(self.name, case, quantity, value, bar, note))

    def read_median(
        self, case: str, quantity: str, samples: Sequence[float], *, bar: str | None = None, note: str = ""
    ) -> None:
        """Keep the median of some numbers, and the numbers; `note` says why where there are none."""
        value = median(samples) if samples else None
        self._keep(Reading(self.name, case, quantity, value, bar, note, tuple(samples)))

    def read_speed(self, comparison: Comparison, label: str, peer: str, *, bar: str | None = None) -> None:
        """Keep how many times as fast as `peer` a contender was: the median over rounds."""
        absent = comparison.absent
        note = absent.get(label) or absent.get(peer) or ""
        speeds = comparison.speeds(label, peer)
        self.read_median(comparison.case, f"{label}, x {peer}", speeds, bar=bar, note=note)

    def _keep(self, reading: Reading) -> None:
        if reading.bar is not None and reading.bar not in BARS:
            raise KeyError(reading.bar)
        self.readings.append(reading)
        shown = reading.note if reading.value is None else f"{reading.value:.3g}"
        _say(f"    {reading.case}: {reading.quantity}: {shown}")


def timed(run: Contender) -> float:
    """Give the seconds of one run, undisturbed by the garbage collector."""
    gc.disable()
    try:
        start = time.perf_counter()
        result = run()
        taken = time.perf_counter() - start
    finally:
        gc.enable()
    del result
    if taken > _LONG:
        gc.collect()  # what it left; after short work, collecting would only empty the caches
    return taken


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
