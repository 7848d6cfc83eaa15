"""Absorbing one DeepSeek-V3 layer's latent attention, beside the machine's float32 GEMM rate; building it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import wvindex as wv
from benchmarks.harness import SPIN, Bench, Contender, remove
from benchmarks.models import DeepSeek, v3_layer, write_deepseek
from wvindex.arch.config import MLA
from wvindex.transform.mla import absorb, key_index, q_order, tail_order, value_index
from wvindex.transform.product import TILE_BYTES, ArrayRows, Factor, ProductRows

Floats = NDArray[np.float32]

TILES, WHOLE, GEMM = "in memory, in the build's tiles", "absorb, into new arrays", "GEMM"


def run(bench: Bench) -> None:
    """Absorb a layer in memory, beside GEMM, then build one from its file."""
    _in_memory(bench)
    _from_a_file(bench)


def _in_memory(bench: Bench) -> None:
    """Work the products in memory; the rate counts their operations alone."""
    layer = _Layer(v3_layer(bench.quick))
    hidden = layer.shape.hidden
    tile = np.zeros((max(TILE_BYTES // (4 * hidden), 1), hidden), np.float32)
    size = 256 if bench.quick else 4096
    left, right, product = _random(size, size), _random(size, size), _random(size, size)
    comparison = bench.compare(
        f"{layer.shape.heads} heads, hidden size {hidden}",
        {
            TILES: lambda: _read(layer.products, tile),
            WHOLE: layer.absorb,
            GEMM: lambda: np.matmul(left, right, out=product),
        },
        repeat=5,
        pause=SPIN,
    )
    per_second = layer.operations / (2 * size**3)
    for label, bar in ((TILES, "absorb"), (WHOLE, None)):
        shares = [per_second * speed for speed in comparison.speeds(label, GEMM)]
        quantity = f"{label}: rate, x a {size}x{size} float32 GEMM's"
        bench.read_median(comparison.case, quantity, shares, bar=bar)
    bench.read(comparison.case, "GEMM, GFLOP/s", 2e-9 * size**3 / comparison.timings[GEMM].median)


def _from_a_file(bench: Bench) -> None:
    """Build a store of such a layer in BF16: reading, decoding, absorbing, writing and syncing."""
    source = write_deepseek(bench.scratch / "layer.gguf", v3_layer(bench.quick), "BF16")
    store = bench.scratch / "layer.zarr"

    def clean() -> None:
        remove(store)
        os.sync()

    work: dict[str, Contender] = {"wvindex.build": lambda: wv.build(source, store, mla="absorb")}
    case = f"the layer, {source.stat().st_size / 1e9:.2g} GB of BF16, to a store"
    comparison = bench.compare(case, work, repeat=3, nbytes=source.stat().st_size, before=clean)
    bench.read_median(case, "wvindex.build, s", comparison.timings["wvindex.build"].seconds)


class _Layer:
    """The factors of one layer's attention, in float32, and the products that a build works of them."""

    def __init__(self, shape: DeepSeek) -> None:
        self.shape = shape
        self.geometry = MLA(
            kv_lora_rank=shape.kv_rank,
            q_lora_rank=shape.q_rank,
            qk_nope_head_dim=shape.nope,
            qk_rope_head_dim=shape.rope,
            v_head_dim=shape.value,
        )
        q_rows, kv_rows = (shape.heads * (shape.nope + width) for width in (shape.rope, shape.value))
        self.q_a, self.q_b = _random(shape.q_rank, shape.hidden), _random(q_rows, shape.q_rank)
        self.kv_a = _random(shape.kv_rank + shape.rope, shape.hidden)
        self.kv_b = _random(kv_rows, shape.kv_rank)
        self.q_norm, self.kv_norm = np.ones(shape.q_rank, np.float32), np.ones(shape.kv_rank, np.float32)
        self.operations = 2 * shape.hidden * (self.q_b.size + self.kv_b.size)
        self.products = self._products()

    def absorb(self) -> object:
        """Work all of them into new arrays."""
        factors = (self.q_a, self.q_norm, self.q_b, self.kv_a, self.kv_norm, self.kv_b)
        return absorb(*factors, self.geometry, num_heads=self.shape.heads)

    def _products(self) -> list[ProductRows]:
        geometry, heads, hidden = self.geometry, self.shape.heads, self.shape.hidden
        latent, tail = np.split(self.kv_a, [self.shape.kv_rank])
        q_factor = Factor(self.q_a, self.q_a[:0])
        kv_factor = Factor(latent, tail[tail_order(geometry)])
        q_rows, kv_rows = ArrayRows(self.q_b), ArrayRows(self.kv_b)
        return [
            ProductRows(q_rows, q_order(geometry, heads), lambda: self.q_norm, lambda: q_factor, hidden),
            *(
                ProductRows(kv_rows, index, lambda: self.kv_norm, lambda: kv_factor, hidden)
                for index in (key_index(geometry, heads), value_index(geometry, heads))
            ),
        ]


def _read(products: Sequence[ProductRows], tile: Floats) -> None:
    """Work every row, tile after tile, into one buffer."""
    for rows in products:
        for start in range(0, rows.n_rows, len(tile)):
            stop = min(start + len(tile), rows.n_rows)
            rows.read_rows(start, stop, tile[: stop - start].reshape(-1).view(np.uint8).data)


def _random(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
