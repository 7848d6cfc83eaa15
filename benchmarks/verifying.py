"""Verifying a store of 1.2 GB, beside plain reading of its files, and their checksum alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.models import llama_of_size, write_llama
from wvindex.store.checksum import crc32c

VERIFY, READ, SUM = "wvindex.verify", "reading, as cat does", "reading and crc32c"

_BLOCK = 1 << 20


def run(bench: Bench) -> None:
    """Verify from the page cache, and from the disk."""
    size = 4_000_000 if bench.quick else 1_200_000_000
    source = write_llama(bench.scratch / "model.gguf", llama_of_size(size))
    store = wv.build(source, bench.scratch / "model.zarr")
    source.unlink()
    files = sorted(path for path in store.rglob("*") if path.is_file())
    nbytes = sum(path.stat().st_size for path in files)
    for case, before in (("page cache", None), ("disk", lambda: forget(files))):
        comparison = bench.compare(
            f"{nbytes / 1e9:.3g} GB from the {case}",
            {
                VERIFY: lambda: _require_sound(wv.verify(store)),
                READ: lambda: read(files, lambda block: None),
                SUM: lambda: read(files, lambda block: crc32c([block])),
            },
            repeat=5,
            nbytes=nbytes,
            before=before,
        )
        speed = comparison.timings[VERIFY].bytes_per_second or 0.0
        bench.read(comparison.case, f"{VERIFY}, GB/s", speed / 1e9)
        bench.read_speed(comparison, VERIFY, READ, bar="verify" if before is not None else None)
        bench.read_speed(comparison, VERIFY, SUM)


def read(files: list[Path], use: Callable[[memoryview], object]) -> None:
    """Read files one after another, block by block."""
    buffer = memoryview(bytearray(_BLOCK))
    for path in files:
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                use(buffer[:n])


def forget(files: list[Path]) -> None:
    """Have the system drop what it holds of files in memory, where it can be asked to (Linux)."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()  # what is not yet on the disk is not dropped
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _require_sound(found: wv.Verification) -> None:
    if not found.ok:
        raise ValueError(str(found.faults[0]))
