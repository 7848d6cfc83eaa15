"""Cost against size: build time, peak memory, opening and slicing, for models from small to large."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

import wvindex as wv
from benchmarks.child import build_alone
from benchmarks.harness import Bench, remove, timed
from benchmarks.models import DeepSeek, llama_of_size, v3_layer, write_deepseek, write_llama

MAX_MEMORY = 1 << 30

SLICE_KEYS = ("model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight")


def run(bench: Bench) -> None:
    """Build each model in a process of its own, then open it and read rows; build one in little memory."""
    sizes = (1_000_000, 4_000_000) if bench.quick else (250_000_000, 1_000_000_000, 4_000_000_000)
    per_gigabyte = {}
    for size in sizes:
        source = write_llama(bench.scratch / "model.gguf", llama_of_size(size))
        per_gigabyte[size] = _measure(bench, f"Llama, {size / 1e9:g} GB", source)
    least, most = min(sizes), max(sizes)
    growth = per_gigabyte[most] / per_gigabyte[least]
    bench.read("Llama", "build time a byte, largest x smallest", growth)
    per_gigabyte.clear()
    for hidden in (64,) if bench.quick else (256, 512, 1024):
        shape = DeepSeek(
            hidden=hidden, moe_intermediate=max(hidden // 8, 32), layers=5 if bench.quick else 61
        )
        source = write_deepseek(bench.scratch / "model.gguf", shape)
        size = source.stat().st_size
        per_gigabyte[size] = _measure(bench, f"DeepSeek-V3's shapes, {size / 1e9:.2g} GB", source)
    growth = per_gigabyte[max(per_gigabyte)] / per_gigabyte[min(per_gigabyte)]
    bench.read("DeepSeek-V3's shapes", "build time a byte, largest x smallest", growth)
    _in_little_memory(bench)


def _in_little_memory(bench: Bench) -> None:
    """Build a V3-shaped layer, absorbed and cast to float32, in the least memory that its plan allows."""
    source = write_deepseek(bench.scratch / "model.gguf", v3_layer(bench.quick, vocab=32_768))
    store = bench.scratch / "model.zarr"
    least = wv.plan(source, mla="absorb", dtype="float32").peak_memory
    _, peak = build_alone(source, store, mla="absorb", dtype="float32", max_memory=least)
    case = f"DeepSeek-V3's layer to float32, max_memory {least >> 20} MiB"
    bench.read(case, "build, peak MiB", peak / 2**20)
    bench.read(case, "peak beyond max_memory, MiB", (peak - least) / 2**20, bar="build-memory")
    remove(source)
    remove(store)


def _measure(bench: Bench, case: str, source: Path) -> float:
    """Measure one model and remove it; give the seconds of its build per GB."""
    store = bench.scratch / "model.zarr"
    taken, peaks = [], []
    for _ in range(1 if bench.quick else 3):
        remove(store)
        os.sync()  # what the last step wrote shall not be on its way to the disk still
        seconds, peak = build_alone(source, store, max_memory=MAX_MEMORY)
        taken.append(seconds)
        peaks.append(peak)
    gigabytes = source.stat().st_size / 1e9
    bench.read_median(case, "build, s/GB", [seconds / gigabytes for seconds in taken])
    bench.read(case, "build, peak MiB", max(peaks) / 2**20)
    _open_and_slice(bench, case, source, store)
    remove(source)
    remove(store)
    return median(taken) / gigabytes


def _open_and_slice(bench: Bench, case: str, source: Path, store: Path) -> None:
    for label, path in (("store", store), ("GGUF", source)):
        opened = [1e3 * timed(partial(_open_and_close, path)) for _ in range(5)]
        bench.read_median(case, f"open the {label}, ms", opened)
    with wv.open(store) as db:
        bench.read(case, "arrays", len(db))
        for key in SLICE_KEYS:
            w = db[key]
            rows = np.random.default_rng(0).integers(0, w.shape[0], 50).tolist()
            taken = [1e3 * timed(partial(w.__getitem__, row)) for row in rows]
            bench.read_median(case, f"one row of {key.split('.')[-2]}, ms", taken)


def _open_and_close(path: Path) -> None:
    wv.open(path).close()
