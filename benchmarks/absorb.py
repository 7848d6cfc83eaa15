"""Absorbing one DeepSeek-V3 layer's latent attention, beside the machine's float32 GEMM rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench
from wvindex.arch.config import MLA
from wvindex.transform.mla import absorb

Floats = NDArray[np.float32]


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
    size = 256 if bench.quick else 4096
    left, right, product = _random(size, size), _random(size, size), _random(size, size)

    def once() -> object:
        return absorb(q_a, q_norm, q_b, kv_a, kv_norm, kv_b, geometry, num_heads=heads)

    comparison = bench.compare(
        f"{heads} heads, hidden size {hidden}",
        {"absorb": once, "GEMM": lambda: np.matmul(left, right, out=product)},
        repeat=5,
    )
    operations = 2 * hidden * (q_b.size + heads * (nope + value) * kv_rank)
    per_second = operations / (2 * size**3)
    shares = [per_second * speed for speed in comparison.speeds("absorb", "GEMM")]
    bench.read_median(
        comparison.case, f"absorb's rate, x a {size}x{size} float32 GEMM's", shares, bar="absorb"
    )
    bench.read(comparison.case, "GEMM, GFLOP/s", 2e-9 * size**3 / comparison.timings["GEMM"].median)


def _random(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
