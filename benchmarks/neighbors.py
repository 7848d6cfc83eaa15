"""Exact search for the nearest vectors of a packed model of 1 GB, beside decoding it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wvindex as wv
from benchmarks.harness import Bench
from benchmarks.models import TINY_LLAMA, llama_of_size, write_llama
from wvindex.inspection.residual import side_of

SEARCH, DECODE, NUMPY = "neighbors, exact", "decoding into one buffer", "decoding and NumPy float32"
K = 10


def run(bench: Bench) -> None:
    """Find one vector's neighbours among all vectors of a model: rows of some matrices, columns of others."""
    shape = TINY_LLAMA if bench.quick else llama_of_size(1 << 30)
    source = write_llama(bench.scratch / "packed.gguf", shape)
    with wv.open(source) as db:
        vector = db["model.embed_tokens.weight"][7]
        matrices = [tensor for tensor in db.values() if tensor.ndim > 1]
        buffer = np.zeros(max(tensor.size for tensor in matrices), np.float32)

        def decoded() -> Iterator[tuple[wv.Tensor, NDArray[np.float32]]]:
            for tensor in matrices:
                yield tensor, tensor.read(buffer[: math.prod(tensor.shape)].reshape(tensor.shape))

        comparison = bench.compare(
            f"{sum(tensor.nbytes for tensor in matrices) / 1e9:.2g} GB packed",
            {
                DECODE: lambda: sum(1 for _ in decoded()),
                NUMPY: lambda: [_cosines(tensor, values, vector) for tensor, values in decoded()],
                SEARCH: lambda: db.neighbors(vector, k=K),
            },
            repeat=5,
            nbytes=sum(tensor.size for tensor in matrices) * 4,
        )
    for peer in (DECODE, NUMPY):
        ratios = [1 / speed for speed in comparison.speeds(SEARCH, peer)]
        bench.read_median(comparison.case, f"{SEARCH}, x the time of {peer}", ratios)


def _cosines(tensor: wv.Tensor, values: NDArray[np.float32], vector: NDArray[Any]) -> NDArray[np.intp]:
    """Rank vectors as float32 has them, which may swap near ones."""
    if side_of(tensor, len(vector)) == "rows":
        dots, lengths = values @ vector, np.einsum("ij,ij->i", values, values)
    else:
        dots, lengths = vector @ values, np.einsum("ij,ij->j", values, values)
    cosines = dots / np.sqrt(lengths)
    return np.argpartition(-cosines, min(K, len(cosines) - 1))[:K]
