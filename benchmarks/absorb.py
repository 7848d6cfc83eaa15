"""Absorbing one DeepSeek-V3 layer's latent attention, beside the machine's float32 GEMM rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench
from wvindex.arch.config import MLA
from wvindex.transform.mla import absorb, key_index, q_order, tail_order, value_index
from wvindex.transform.product import TILE_BYTES, ArrayRows, Factor, ProductRows

Floats = NDArray[np.float32]

TILES, WHOLE, GEMM = "in the build's tiles", "absorb, into new arrays", "GEMM"


def run(bench: Bench) -> None:
    """Absorb a layer in memory; the rate counts the products' operations alone."""
    hidden, heads, q_rank, kv_rank = (256, 4, 64, 32) if bench.quick else (7168, 128, 1536, 512)
    nope, rope, value = (16, 8, 16) if bench.quick else (128, 64, 128)
    geometry = MLA(
        kv_lora_rank=kv_rank,
        q_lora_rank=q_rank,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=value,
    )
    q_a, q_b = _random(q_rank, hidden), _random(heads * (nope + rope), q_rank)
    kv_a, kv_b = _random(kv_rank + rope, hidden), _random(heads * (nope + value), kv_rank)
    q_norm, kv_norm = np.ones(q_rank, np.float32), np.ones(kv_rank, np.float32)
    q_factor = Factor(q_a, q_a[:0])
    kv_factor = Factor(kv_a[:kv_rank], kv_a[kv_rank:][tail_order(geometry)])
    products = [
        ProductRows(ArrayRows(q_b), q_order(geometry, heads), lambda: q_norm, lambda: q_factor, hidden),
        *(
            ProductRows(ArrayRows(kv_b), index, lambda: kv_norm, lambda: kv_factor, hidden)
            for index in (key_index(geometry, heads), value_index(geometry, heads))
        ),
    ]
    tile = np.zeros((max(TILE_BYTES // (4 * hidden), 1), hidden), np.float32)
    size = 256 if bench.quick else 4096
    left, right, product = _random(size, size), _random(size, size), _random(size, size)
    comparison = bench.compare(
        f"{heads} heads, hidden size {hidden}",
        {
            TILES: lambda: _read(products, tile),
            WHOLE: lambda: absorb(q_a, q_norm, q_b, kv_a, kv_norm, kv_b, geometry, num_heads=heads),
            GEMM: lambda: np.matmul(left, right, out=product),
        },
        repeat=5,
    )
    operations = 2 * hidden * (q_b.size + heads * (nope + value) * kv_rank)
    per_second = operations / (2 * size**3)
    for label, bar in ((TILES, "absorb"), (WHOLE, None)):
        shares = [per_second * speed for speed in comparison.speeds(label, GEMM)]
        quantity = f"{label}: rate, x a {size}x{size} float32 GEMM's"
        bench.read_median(comparison.case, quantity, shares, bar=bar)
    bench.read(comparison.case, "GEMM, GFLOP/s", 2e-9 * size**3 / comparison.timings[GEMM].median)


def _read(products: Sequence[ProductRows], tile: Floats) -> None:
    """Work every row, tile after tile, into one buffer."""
    for rows in products:
        for start in range(0, rows.n_rows, len(tile)):
            stop = min(start + len(tile), rows.n_rows)
            rows.read_rows(start, stop, tile[: stop - start].reshape(-1).view(np.uint8).data)


def _random(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
