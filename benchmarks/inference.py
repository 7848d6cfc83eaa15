"""Running a packed model of 1.2B parameters, beside transformers in float32 with as many threads."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wvindex as wv
from benchmarks.harness import SPIN, Absent, Bench
from benchmarks.models import TINY_LLAMA, Llama, write_llama
from benchmarks.peers import torch_python
from benchmarks.worker import Worker

OURS, THEIRS = "wvindex", "transformers float32"


def run(bench: Bench) -> None:
    """Prefill and generate in turns; both sides are given the same tokens."""
    n_tokens = 16 if bench.quick else 256
    source = write_llama(bench.scratch / "model.gguf", TINY_LLAMA if bench.quick else Llama())
    store = wv.build(source, bench.scratch / "model.zarr")
    python = torch_python()
    with ExitStack() as workers:

        def side(interpreter: Path, module: str, *paths: Path) -> Worker:
            arguments = (*map(str, paths), str(n_tokens))
            return workers.enter_context(Worker(interpreter, module, *arguments, threads=bench.threads))

        sides: dict[str, Worker | Absent] = {
            OURS: side(Path(sys.executable), "benchmarks.infer_wvindex", store, source),
            THEIRS: python if isinstance(python, Absent) else side(python, "benchmarks.infer_torch", source),
        }
        _speed(bench, sides, n_tokens)
        _memory(bench, sides)
        _agreement(bench, sides)
        _loading(bench, sides)


def _speed(bench: Bench, sides: dict[str, Worker | Absent], n_tokens: int) -> None:
    for name, worker in sides.items():
        if name == THEIRS and isinstance(worker, Worker):
            worker.ask("forget")  # what loading took does not count against it
    for case, command, bar in (
        (f"prefill of {n_tokens} tokens", "prefill", "prefill"),
        ("one token", "token", "token"),
    ):
        comparison = bench.compare(
            case,
            {
                label: worker if isinstance(worker, Absent) else partial(worker.ask, command)
                for label, worker in sides.items()
            },
            repeat=5 if command == "prefill" else 21,
            pause=SPIN,
        )
        bench.read_speed(comparison, OURS, THEIRS, bar=bar)


def _memory(bench: Bench, sides: dict[str, Worker | Absent]) -> None:
    """Compare peaks: wvindex's over its whole life, transformers' since it was loaded."""
    peaks = {label: worker.ask("peak") for label, worker in sides.items() if isinstance(worker, Worker)}
    for label, peak in peaks.items():
        bench.read("memory", f"{label}, peak MiB", peak / 2**20)
    theirs = sides[THEIRS]
    note = theirs.reason if isinstance(theirs, Absent) else ""
    share = peaks[OURS] / peaks[THEIRS] if THEIRS in peaks else None
    bench.read("memory", f"{OURS}, x {THEIRS}", share, bar="prefill-memory", note=note)


def _agreement(bench: Bench, sides: dict[str, Worker | Absent]) -> None:
    found: dict[str, Any] = {
        label: np.array(worker.ask("logits")) for label, worker in sides.items() if isinstance(worker, Worker)
    }
    if THEIRS in found:
        difference = largest_difference(found[OURS], found[THEIRS])
        bench.read("agreement", "largest difference of logits, standard deviations", difference)


def largest_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Give the largest difference of logits, shape (vocab_size,), in standard deviations of `theirs`."""
    return float(np.abs(ours - theirs).max() / theirs.std())


def _loading(bench: Bench, sides: dict[str, Worker | Absent]) -> None:
    """Load in turns: every tensor to float32, against from_pretrained(gguf_file=...), which does no less."""
    comparison = bench.compare(
        "loading the GGUF to float32",
        {
            label: worker if isinstance(worker, Absent) else partial(worker.ask, "load")
            for label, worker in sides.items()
        },
        repeat=3,
    )
    bench.read_speed(comparison, OURS, THEIRS)
