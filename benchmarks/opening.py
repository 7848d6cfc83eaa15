"""Opening a checkpoint with a large vocabulary, or many tensors; starting: import, help, a first tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

import gguf

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.many import DeepSeek, write_deepseek
from benchmarks.models import TINY_LLAMA, write_llama, write_vocabulary

UNREAD, WITH_TOKENIZER, READER = (
    "wvindex.open, tokenizer left unread",
    "wvindex.open and its tokenizer",
    "GGUFReader",
)
OPEN, LIST = "wvindex.open", "wvindex ls"


def run(bench: Bench) -> None:
    """Open a file with 150k tokens and merges, which GGUFReader reads and wvindex skips; start processes."""
    n_tokens = 1_000 if bench.quick else 150_000
    path = write_vocabulary(bench.scratch / "vocabulary.gguf", n_tokens)
    comparison = bench.compare(
        f"{n_tokens:,} tokens and merges",
        {
            UNREAD: lambda: wv.open(path).close(),
            WITH_TOKENIZER: lambda: _tokenizer(path),
            READER: lambda: gguf.GGUFReader(path),
        },
        repeat=3,
    )
    beside = f"with the tokenizer built, {median(comparison.speeds(WITH_TOKENIZER, READER)):.2g}"
    speeds = comparison.speeds(UNREAD, READER)
    bench.read_median(comparison.case, f"{UNREAD}, x {READER}", speeds, bar="open", note=beside)
    bench.read_speed(comparison, WITH_TOKENIZER, READER)
    _many(bench)
    _starting(bench)


def _tokenizer(path: Path) -> None:
    with wv.open(path) as db:
        _ = db.tokenizer


def _many(bench: Bench) -> None:
    """List the 90,427 tensors of DeepSeek-V3: open it, and in a process of its own."""
    model = DeepSeek(layers=4, experts=8, shards=2) if bench.quick else DeepSeek()
    path = bench.scratch / "many"
    n_tensors = write_deepseek(path, model)
    comparison = bench.compare(
        f"{n_tensors:,} tensors",
        {
            OPEN: lambda: wv.open(path).close(),
            LIST: lambda: _python("-m", "wvindex", "ls", str(path)),
        },
        repeat=5,
    )
    for label, bar in ((OPEN, "open-many"), (LIST, "list-many")):
        bench.read_median(comparison.case, f"{label}, s", comparison.timings[label].seconds, bar=bar)


def _starting(bench: Bench) -> None:
    model = write_llama(bench.scratch / "tiny.gguf", TINY_LLAMA)
    first = f"import wvindex\nwvindex.open({str(model)!r})['model.layers.0.mlp.up_proj.weight'][:]"
    comparison = bench.compare(
        "starting",
        {
            "python": lambda: _python("-c", "pass"),
            "import wvindex": lambda: _python("-c", "import wvindex"),
            "wvindex --help": lambda: _python("-m", "wvindex", "--help"),
            "first decoded tensor": lambda: _python("-c", first),
        },
        repeat=9,
    )
    for label, bar in (
        ("import wvindex", "import"),
        ("wvindex --help", "help"),
        ("first decoded tensor", "first-decode"),
    ):
        bench.read_median(
            label, "seconds, the interpreter's start included", comparison.timings[label].seconds, bar=bar
        )


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
