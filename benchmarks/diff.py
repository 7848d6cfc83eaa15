"""How two packed models of 1 GB differ, value by value, beside decoding both."""

from __future__ import annotations

import math

import numpy as np

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.models import TINY_LLAMA, llama_of_size, write_llama

DIFF, SAME, DECODE, REUSED = "diff", "diff of equal bytes", "decoding both", "decoding both into one buffer"


def run(bench: Bench) -> None:
    """Decode two models tensor by tensor, and compare them: one of Q4_K, one of Q6_K."""
    shape = TINY_LLAMA if bench.quick else llama_of_size(1 << 30)
    stores = []
    for type_name in ("Q4_K", "Q6_K"):
        source = write_llama(bench.scratch / f"{type_name}.gguf", shape, type_name)
        stores.append(wv.build(source, bench.scratch / f"{type_name}.zarr"))
        source.unlink()
    with wv.open(stores[0]) as a, wv.open(stores[1]) as b, wv.open(stores[0]) as again:
        tensors = [*a.values(), *b.values()]
        buffer = np.zeros(max(tensor.size for tensor in tensors), np.float32)
        comparison = bench.compare(
            " and ".join(f"{sum(t.nbytes for t in db.values()) / 1e9:.2g} GB" for db in (a, b)) + " packed",
            {
                DECODE: lambda: _decode_each(tensors),
                REUSED: lambda: [
                    tensor.read(buffer[: math.prod(tensor.shape)].reshape(tensor.shape)) for tensor in tensors
                ],
                DIFF: lambda: wv.diff(a, b),
                SAME: lambda: wv.diff(a, again),
            },
            repeat=5,
            nbytes=sum(tensor.size for tensor in tensors) * 4,
        )
    for peer in (DECODE, REUSED):
        ratios = [1 / speed for speed in comparison.speeds(DIFF, peer)]
        bar = "diff" if peer == DECODE else None
        bench.read_median(comparison.case, f"{DIFF}, x the time of {peer}", ratios, bar=bar)
    ratios = [1 / speed for speed in comparison.speeds(SAME, DECODE)]
    bench.read_median(comparison.case, f"{SAME}, x the time of {DECODE}", ratios)


def _decode_each(tensors: list[wv.Tensor]) -> None:
    for tensor in tensors:
        tensor[:]
