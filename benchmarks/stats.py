"""Statistics of every weight of a packed model of 1 GB, beside decoding it."""

from __future__ import annotations

import math

import numpy as np

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.models import TINY_LLAMA, llama_of_size, write_llama

STATS, DECODE, REUSED = "stats", "decoding", "decoding into one buffer"


def run(bench: Bench) -> None:
    """Decode a model tensor by tensor, and take its statistics: moments, quantiles, outliers, channels."""
    shape = TINY_LLAMA if bench.quick else llama_of_size(1 << 30)
    source = write_llama(bench.scratch / "packed.gguf", shape)
    store = wv.build(source, bench.scratch / "packed.zarr")
    source.unlink()
    with wv.open(store) as db:
        buffer = np.zeros(max(tensor.size for tensor in db.values()), np.float32)
        comparison = bench.compare(
            f"{sum(tensor.nbytes for tensor in db.values()) / 1e9:.2g} GB packed",
            {
                DECODE: lambda: _decode_each(db),
                REUSED: lambda: [
                    tensor.read(buffer[: math.prod(tensor.shape)].reshape(tensor.shape))
                    for tensor in db.values()
                ],
                STATS: lambda: wv.stats(db, keep=False),
            },
            repeat=5,
            nbytes=sum(tensor.size for tensor in db.values()) * 4,
        )
    for peer in (DECODE, REUSED):
        ratios = [1 / speed for speed in comparison.speeds(STATS, peer)]
        bar = "stats" if peer == DECODE else None
        bench.read_median(comparison.case, f"{STATS}, x the time of {peer}", ratios, bar=bar)


def _decode_each(db: wv.Store) -> None:
    for tensor in db.values():
        tensor[:]
