"""The down-projections of latent attention as one product, beside two, at DeepSeek-V3's widths."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.blocks import random_blocks
from benchmarks.harness import SPIN, Bench
from wvindex.formats.encodings import ENCODINGS, F32
from wvindex.formats.matmul import EncodedMatrix

Floats = NDArray[np.float32]

FUSED, UNFUSED = "one product, then a cut", "two products"

ENCODED: Final = ("F32", "Q4_K", "Q8_0")


class Widths(NamedTuple):
    """Hidden size, q_lora_rank, kv_lora_rank + qk_rope_head_dim."""

    hidden: int
    query: int
    below: int


def run(bench: Bench) -> None:
    """Project tokens both ways, in turns: many at once, and one."""
    widths = Widths(256, 64, 32) if bench.quick else Widths(7168, 1536, 576)
    rng = np.random.default_rng(0)
    for n_tokens, repeat in ((16 if bench.quick else 256, 11), (1, 51)):
        x = rng.standard_normal((n_tokens, widths.hidden), np.float32)
        tokens = "one token" if n_tokens == 1 else f"prefill of {n_tokens} tokens"
        for type_name in ENCODED:
            whole = _matrix(type_name, widths)
            halves = [EncodedMatrix(part, whole.encoding) for part in np.split(whole.raw, [widths.query])]
            case = f"{type_name}, {widths.hidden} -> {widths.query} | {widths.below}, {tokens}"
            comparison = bench.compare(
                case,
                {UNFUSED: partial(_unfused, x, halves), FUSED: partial(_fused, x, whole, widths.query)},
                repeat=repeat,
                pause=SPIN if n_tokens > 1 else 0.0,
            )
            ratios = [1 / speed for speed in comparison.speeds(FUSED, UNFUSED)]
            bench.read_median(case, f"{FUSED}, x the time of {UNFUSED}", ratios)
            apart = np.concatenate(_unfused(x, halves), axis=1)
            together = np.concatenate(_fused(x, whole, widths.query), axis=1)
            bench.read(case, "largest difference", float(np.abs(together - apart).max()))


def _fused(x: Floats, whole: EncodedMatrix, cut: int) -> tuple[Floats, Floats]:
    both = whole.matmul(x)
    return both[:, :cut], both[:, cut:]


def _unfused(x: Floats, halves: list[EncodedMatrix]) -> tuple[Floats, Floats]:
    first, second = (half.matmul(x) for half in halves)
    return first, second


def _matrix(type_name: str, widths: Widths) -> EncodedMatrix:
    encoding = ENCODINGS[type_name]
    if encoding == F32:
        block_size = 1
    else:
        block_size, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    rows = widths.query + widths.below
    raw = random_blocks(type_name, rows * widths.hidden // block_size, 0).reshape(rows, -1)
    return EncodedMatrix(np.ascontiguousarray(raw), encoding)
