"""Tries every fault of the corpus in one process, and tells what each call did, took and opened.

``python -m tests.hostile.judge DIRECTORY`` writes the corpus there and prints a JSON document of verdicts.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import wvindex as wv
from tests.hostile.make import Corpus, make
from tests.support.memory import peak_memory
from wvindex.errors import WvindexError
from wvindex.transform.plan import require_representable

OUTSIDE: Final = "outside-"
"""What the names begin with that no call may open."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one call did with one fault.

    Attributes
    ----------
    kind : str
        The error's; ``none`` where nothing was raised, and ``not foreseen: ...`` for any other exception.
    facts : dict of str to str
        What the error names: file, tensor, field, offset, expected, found.
    message : str
    exit_code : int
    seconds : float
    growth : int
        Bytes by which the process's peak is above what it was before the first fault.
    opened : list of str
        Files outside the checkpoint that were opened.
    left : list of str
        What a build left behind.
    """

    kind: str
    facts: dict[str, str]
    message: str
    exit_code: int
    seconds: float
    growth: int
    opened: list[str]
    left: list[str]


class Judge:
    """Tries calls; sees every file that the process opens."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        scratch.mkdir()
        self._opened: list[str] = []
        self._base = 0
        sys.addaudithook(self._audit)

    def start(self) -> None:
        """Count growth from here."""
        self._base = peak_memory()

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and OUTSIDE in (name := str(arguments[0])):
            self._opened.append(name)

    def tried(self, call: Callable[[Path], object], path: Path) -> Verdict:
        """Make a call that should be refused."""
        self._opened.clear()
        error: BaseException | None = None
        started = time.process_time()  # of this process alone: a busy machine is no fault
        try:
            call(path)
        except Exception as raised:  # whatever it is, the table judges it
            error = raised
        seconds = time.process_time() - started
        return Verdict(
            kind=_kind(error),
            facts=_facts(error),
            message=str(error),
            exit_code=getattr(error, "exit_code", 1),
            seconds=seconds,
            growth=peak_memory() - self._base,
            opened=list(self._opened),
            left=self._swept(),
        )

    def build(self, path: Path) -> None:
        """Build a store in a directory where nothing else is."""
        wv.build(path, self.scratch / "x.zarr")

    def _swept(self) -> list[str]:
        """Give what stands in the scratch directory, and take it away."""
        left = sorted(self.scratch.iterdir())
        for path in left:
            shutil.rmtree(path)
        return [path.name for path in left]


def _kind(error: BaseException | None) -> str:
    if error is None:
        return "none"
    return error.kind if isinstance(error, WvindexError) else f"not foreseen: {error!r}"


def _facts(error: BaseException | None) -> dict[str, str]:
    names = ("file", "tensor", "field", "offset", "expected", "found")
    return {name: str(value) for name in names if (value := getattr(error, name, None)) is not None}


def _plan(path: Path) -> None:
    planned = wv.plan(path)
    str(planned)
    require_representable(planned)


def _open(path: Path) -> None:
    wv.open(path).close()


def _read(path: Path) -> None:
    with wv.open(path) as db:
        for tensor in db.values():
            tensor.read()


def _read_parts(path: Path) -> None:
    with wv.open(path, check="always") as db:
        for tensor in db.values():
            tensor[..., :1]


def judge(corpus: Corpus, scratch: Path) -> dict[str, dict[str, Verdict]]:
    """Try every fault in every way: by fault, then by call."""
    judging = Judge(scratch)
    for i, path in enumerate(corpus.valid.values()):  # imports are no growth of ours
        _plan(path)
        _read(path)
        wv.build(path, scratch.with_name(f"valid-{i}.zarr"))
    judging.start()
    source_calls = {"plan": _plan, "open": _open, "build": judging.build}
    store_calls = {"read": _read, "read parts": _read_parts}
    return {
        fault: {name: judging.tried(call, path) for name, call in calls.items()}
        for paths, calls in ((corpus.sources, source_calls), (corpus.stores, store_calls))
        for fault, path in paths.items()
    }


if __name__ == "__main__":
    root = Path(sys.argv[1])
    found = judge(make(root / "corpus"), root / "scratch")
    json.dump(
        {fault: {call: asdict(verdict) for call, verdict in calls.items()} for fault, calls in found.items()},
        sys.stdout,
    )
