"""Pages of reports, read by other code than that which wrote them, and documents made without a model."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from wvindex.inspection.report.document import Bars, Block, Document, Entry, Grid, Histogram
from wvindex.inspection.report.statistics import OF_EXPERTS, OF_HEADS, OF_TENSORS

_WITH_HEADS: Final = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o", "latent"))
_FFN: Final = ("gate_proj", "up_proj", "down_proj")
_REST: Final = ("input_layernorm", "post_attention_layernorm", "mlp.gate")


def data_of(page: str | Path) -> dict[str, Any]:
    """Unpack what a page's script reads."""
    text = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    (packed,) = re.findall(r'<script type="application/octet-stream" id="data">([^<]*)</script>', text)
    loaded: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed, validate=True)))
    return loaded


def large_document(n_layers: int = 61, n_experts: int = 256, n_heads: int = 128) -> Document:
    """Make the report of a large mixture of experts whose every number is random: none of it packs well."""
    rng = np.random.default_rng(0)

    def numbers(n: int) -> tuple[float, ...]:
        return tuple((rng.standard_normal(n) * 10.0 ** rng.integers(-4, 4, n)).tolist())

    def entry(key: str, blocks: list[Block]) -> Entry:
        counts = tuple(int(n) for n in rng.integers(1 << 26, 1 << 30, 48))
        columns = tuple(str(n) for n in rng.integers(0, 18432, 16))
        values: dict[str, Any] = dict(
            zip((one.name for one in OF_TENSORS), numbers(len(OF_TENSORS)), strict=True)
        )
        values |= {
            one.name: int(rng.integers(1 << 30)) for one in OF_TENSORS if one.format in {"count", "bytes"}
        }
        values |= {"shape": "256x2048x7168", "encoding": "Q4_K"}
        shapes: list[Block] = [
            Histogram(-0.1, 0.1, counts, *(int(n) for n in rng.integers(1 << 20, size=2))),
            Bars("Outlier channels", "Of all.", "column", columns, numbers(16), 5.0),
            Bars("Singular values", "Some.", "σ", tuple(map(str, range(8))), numbers(8)),
        ]
        facts = (("shape", values["shape"]), ("from", f"{key}, {key}_scale_inv"), ("also", f"blk.{key}"))
        return Entry(key, facts, values, (*shapes, *blocks), (f"blk.{key}",))

    def grid(item: str, measures: Any, count: int) -> Grid:
        return Grid(item, "", item, measures, {one.name: numbers(count) for one in measures})

    entries = [entry("model.embed_tokens.weight", []), entry("lm_head.weight", [])]
    for layer in range(n_layers):
        heads = grid("head", OF_HEADS, n_heads)
        stem = f"model.layers.{layer}"
        experts = [grid("expert", OF_EXPERTS, n_experts) for _ in range(3)]
        parts: dict[str, list[Block]] = {name: [heads] for name in _WITH_HEADS}
        parts |= {f"mlp.experts.{name}": [one] for name, one in zip(_FFN, experts, strict=True)}
        parts |= {name: [] for name in (*(f"mlp.shared_experts.{name}" for name in _FFN), *_REST)}
        entries += [entry(f"{stem}.{name}.weight", blocks) for name, blocks in parts.items()]
    return Document(
        kind="Weight report",
        title="large.zarr",
        facts=(("layers", str(n_layers)),),
        statistics=OF_TENSORS,
        first="kurtosis",
        columns=("std", "kurtosis"),
        entries=tuple(entries),
    )
