"""A packed build, beside cp of the same bytes with the same syncing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import wvindex as wv
from benchmarks.harness import Bench, remove
from benchmarks.models import llama_of_size, write_llama

BUILD, COPY = "wvindex.build", "cp and sync"


def run(bench: Bench) -> None:
    """Build a Llama in Q4_K; both read from the page cache and end with their bytes on the disk."""
    size = 4_000_000 if bench.quick else 1_200_000_000
    source = write_llama(bench.scratch / "model.gguf", llama_of_size(size))
    store, copy = bench.scratch / "model.zarr", bench.scratch / "copy.gguf"

    def clean() -> None:
        remove(store)
        remove(copy)
        os.sync()

    comparison = bench.compare(
        f"{source.stat().st_size / 1e9:.3g} GB of Q4_K",
        {BUILD: lambda: wv.build(source, store), COPY: lambda: copy_and_sync(source, copy)},
        repeat=5,
        nbytes=source.stat().st_size,
        before=clean,
    )
    bench.read_speed(comparison, BUILD, COPY, bar="build")


def copy_and_sync(source: Path, copy: Path) -> None:
    """Copy with cp, sharing no blocks, then sync the file and its directory."""
    gnu = ["--reflink=never", "--sparse=never"] if sys.platform == "linux" else []
    subprocess.run(["cp", *gnu, str(source), str(copy)], check=True)
    for path in (copy, copy.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
