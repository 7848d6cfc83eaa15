"""Single rows and narrow slices of a packed matrix, and how many bytes they read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import zarr

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.models import write_llama
from benchmarks.reading import ARRAY, GGUF_NAME, KEY, one_layer

STORE, BARE, MEMMAP = "wvindex, a store", "wvindex, the GGUF", "memmap and gguf package"

Slicer = Callable[[int], Any]


def run(bench: Bench) -> None:
    """Read random rows and columns, one at a time, from warm files."""
    source = write_llama(bench.scratch / "packed.gguf", one_layer(bench.quick))
    store = wv.build(source, bench.scratch / "packed.zarr")
    with wv.open(store) as db, wv.open(source) as bare:
        w, in_gguf = db[KEY], bare[KEY]
        tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == GGUF_NAME)
        array = zarr.open_array(store, path=ARRAY, mode="r")
        _slices(
            bench,
            "one row",
            w.shape[0],
            {
                STORE: lambda i: w[i],
                BARE: lambda i: in_gguf[i],
                MEMMAP: lambda i: gguf.dequantize(tensor.data[i : i + 1], tensor.tensor_type),
                "zarr-python": lambda i: array[i],
            },
        )
        _slices(
            bench,
            "16 columns",
            w.shape[1] - 16,
            {
                STORE: lambda i: w[:, i : i + 16],
                BARE: lambda i: in_gguf[:, i : i + 16],
                "reading all": lambda i: w[:][:, i : i + 16],
            },
        )
        _bytes_read(bench, store)
    _plain(bench, source)


def _slices(bench: Bench, case: str, stop: int, slicers: dict[str, Slicer]) -> None:
    repeat = 200 if case == "one row" else 21
    drawn = np.random.default_rng(0).integers(0, stop, 1024).tolist()
    contenders = {}
    for label, slicer in slicers.items():
        at = cycle(drawn)
        contenders[label] = lambda slicer=slicer, at=at: slicer(next(at))
    comparison = bench.compare(case, contenders, repeat=repeat)
    for label in (STORE, BARE):
        bar = "row-time" if case == "one row" else None
        taken = [1e3 * seconds for seconds in comparison.timings[label].seconds]
        bench.read_median(case, f"{label}, ms", taken, bar=bar)
    for peer in [label for label in slicers if label not in (STORE, BARE)]:
        bench.read_speed(comparison, STORE, peer)


def _bytes_read(bench: Bench, store: Path) -> None:
    """Count what the store's files gave for a row that nothing has been read of."""
    shares = []
    for row in range(0, 16, 5):
        with wv.open(store) as db:
            stats = db.stats
            before = stats.bytes_read if stats else 0
            _ = db[KEY][row]
            read = (stats.bytes_read if stats else 0) - before
            shares.append(read / db[KEY].raw((row, row + 1)).nbytes)
    bench.read_median("one row", "bytes read, x the row's", shares, bar="row-bytes")


def _plain(bench: Bench, source: Path) -> None:
    store = wv.build(source, bench.scratch / "plain.zarr", dtype="float32")
    with wv.open(store) as db:
        w = db[KEY]
        flat = bench.scratch / "plain.f32"
        w[:].tofile(flat)
        mapped = np.memmap(flat, np.float32, "r", shape=w.shape)
        array = zarr.open_array(store, path=ARRAY, mode="r")
        at = np.random.default_rng(0).integers(0, w.shape[0], 1024).tolist()
        turns = {label: cycle(at) for label in ("wvindex", "memmap", "zarr")}
        comparison = bench.compare(
            "one row of F32",
            {
                "wvindex": lambda: w[next(turns["wvindex"])],
                "numpy memmap, copied": lambda: np.array(mapped[next(turns["memmap"])]),
                "zarr-python": lambda: array[next(turns["zarr"])],
            },
            repeat=200,
        )
    bench.read("one row of F32", "wvindex, ms", 1e3 * comparison.timings["wvindex"].median)
    for peer in ("numpy memmap, copied", "zarr-python"):
        bench.read_speed(comparison, "wvindex", peer)
