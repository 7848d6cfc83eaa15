"""The page of a layer as text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from wvindex.inspection.attention import Attention
from wvindex.inspection.distribution import Distribution
from wvindex.inspection.facts import experts_text, routing_text
from wvindex.inspection.layer_page import LayerPage, Routing
from wvindex.inspection.tensor_text import anomalies, by_module
from wvindex.inspection.text_parts import (
    Row,
    bar,
    distributions,
    facts,
    few,
    number,
    section,
    shown,
    table,
)
from wvindex.sizes import format_size

MOST_ROWS: Final = 16
"""Heads and experts that stand on the page one by one; of more, how they are spread."""

_MOST_SOURCES: Final = 4
_STRONGEST: Final = 3
_LAYER: Final = re.compile(r"(?:blk|model\.layers)\.\d+\.", re.ASCII)

Facts = Iterator[tuple[str, str]]


def layer_text(page: LayerPage) -> RenderableType:
    """Lay out the page."""
    parts = [_head(page)]
    if page.attention is not None:
        parts.append(section("Attention", facts(_attention(page.attention))))
    parts += [section("Tensors", _tensors(page)), section("Sources", *_sources(page))]
    if any(row["std"] is not None for row in page.tensors):
        parts.append(section("Weights", _weights(page)))
    if len(page.heads):
        parts.append(section("Heads", _heads(page)))
    if len(page.features):
        parts.append(section("Feed-forward features", _features(page)))
    if page.routing is not None:
        parts.append(section("Experts", *_experts(page, page.routing)))
    if any(row["std"] is not None for row in page.tensors):
        parts.append(section("Out of the ordinary", anomalies(page.anomalies)))
    return Group(*parts)


def _head(page: LayerPage) -> RenderableType:
    of = f"beyond the {page.layers}, for multi-token prediction" if page.mtp else f"of {page.layers}"
    title = Text.assemble((f"Layer {page.layer}", "bold"), f" {of}  ", shown(page.path))
    sizes = f"{format_size(page.nbytes)}, {few(page.bits_per_weight)} bits a weight"
    line = f"{page.model_type}: {len(page.tensors)} tensors, {page.parameters:,} parameters, {sizes}"
    return Group(title, shown(line))


def _attention(one: Attention) -> Facts:
    if one.heads and one.qk_head_dim:
        widths = f"query and key {one.qk_head_dim} wide, value {one.v_head_dim}"
        yield "heads", f"{one.heads} query, {one.kv_heads} key/value; {widths}"
    if one.kv_lora_rank is not None:
        ranks = f"q_lora_rank {one.q_lora_rank or 'none'}, kv_lora_rank {one.kv_lora_rank}"
        how = "absorbed from" if one.form == "absorbed" else "factors:"
        yield "latent", f"{how} {ranks}, rope {one.qk_rope_head_dim} + nope {one.qk_nope_head_dim}"
    yield from _row_scales(one)
    if one.rope_type is not None:
        part = f"{one.rotary_dim} of {one.qk_head_dim or '?'} dimensions"
        factor = f", cos and sin times {one.attention_factor:.6g}" if one.attention_factor != 1 else ""
        yield "rotary", f"{one.rope_type}, theta {one.rope_theta:g}, {part}{factor}"
    if one.scale is not None:
        yield "scale", f"{one.scale:.6g}"
    if one.layer_type == "sliding_attention":
        yield "window", f"{one.window} tokens"
    if one.softcap is not None:
        yield "softcap", f"{one.softcap:g}"
    extras = (("sinks", one.sinks), ("norms on queries and keys", one.qk_norm), ("biases", one.bias))
    if any(there for _, there in extras):
        yield "with", ", ".join(name for name, there in extras if there)


def _row_scales(one: Attention) -> Facts:
    if not one.row_scales:
        return
    parts = ", ".join(
        f"{name} {scale.head_slice[0]}:{scale.head_slice[1]}" for name, scale in one.row_scales.items()
    )
    of = {
        scale.weight.partition("self_attn.")[2].removesuffix(".weight") for scale in one.row_scales.values()
    }
    rows = ", ".join(f"{name} {s.rows[0]}:{s.rows[1]}" for name, s in one.row_scales.items())
    yield "row scale", f"of each token, on dimensions {parts} of every head;"
    yield "", f"from rows {rows} of {', '.join(sorted(of))}"


def _tensors(page: LayerPage) -> RenderableType:
    def cells(row: dict[str, Any]) -> Row:
        bits = few(row["bits_per_weight"])
        return row["shape"], row["encoding"], bits, format_size(row["nbytes"]), row["exactness"]

    return by_module(
        page.tensors,
        ("shape", "type", "bits", "size", "exactness"),
        cells,
        left=("shape", "type", "exactness"),
    )


def _sources(page: LayerPage) -> Iterator[RenderableType]:
    """Show what each tensor was made of, but for those that came as they are, under the same name."""
    same = {row["key"] for row in page.tensors if _is_same(row)}
    if len(same) < len(page.tensors):

        def cells(row: dict[str, Any]) -> Row:
            return _made_of(row), ", ".join(row["transforms"])

        others = replace(page.tensors, rows=tuple(row for row in page.tensors.rows if row[0] not in same))
        yield by_module(others, ("made of", "by"), cells, left=("made of", "by"))
    if same:
        yield Text(f"{len(same)} came as they are, each from a tensor of the same name")


def _made_of(row: dict[str, Any]) -> str:
    """Name source tensors, without the part of the name that the tensor's own begins with."""
    module = row["role"].rpartition(".")[0]
    names = [_short(name).removeprefix(f"{module}.") for name in row["sources"]]
    if len(names) <= _MOST_SOURCES:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]}, {len(names)} tensors"


def _is_same(row: dict[str, Any]) -> bool:
    return not row["transforms"] and [_short(name) for name in row["sources"]] == [row["role"]]


def _short(name: str) -> str:
    return _LAYER.sub("", name).removesuffix(".weight")


def _weights(page: LayerPage) -> RenderableType:
    def cells(row: dict[str, Any]) -> Row:
        ratio, top = row["top_channel_ratio"], row["top_channel"]
        channel = "" if top is None or math.isnan(ratio) else f"{top}, {ratio:.1f}x"
        numbers = [number(row[name]) for name in ("std", "absmax", "kurtosis", "outliers")]
        return (*numbers, channel)

    titles = ("std", "absmax", "kurtosis", ">6σ", "top channel")
    return by_module(page.tensors, titles, cells)


def _heads(page: LayerPage) -> RenderableType:
    rows = page.heads.to_dicts()
    if len(rows) > MOST_ROWS:
        names = {"QK": "qk_norm", "OV": "ov_norm"} | {name: f"{name}_l2" for name in "qkvo"}
        return _spread((title, [row[name] for row in rows], str) for title, name in names.items())
    most = {name: max((row[name] for row in rows), default=0.0) for name in ("qk_norm", "ov_norm")}
    shared = any(row["kv_head"] != row["head"] for row in rows)
    cells: list[Row] = [
        (
            str(row["head"]),
            str(row["kv_head"]) if shared else "",
            number(row["qk_norm"]),
            bar(row["qk_norm"], most["qk_norm"]),
            number(row["ov_norm"]),
            bar(row["ov_norm"], most["ov_norm"]),
            *(number(row[f"{name}_l2"]) for name in "qkvo"),
        )
        for row in rows
    ]
    titles = ("head", "kv", "qk norm", " ", "ov norm", "  ", "q", "k", "v", "o")
    return table(titles, cells, left=(" ", "  "))


def _features(page: LayerPage) -> RenderableType:
    rows: list[tuple[str, Distribution | str, str]] = []
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in page.features:
        is_part = row["role"].endswith("_proj")
        blocks.setdefault(row["role"].rpartition(".")[0] if is_part else row["role"], []).append(row)
    for block, parts in blocks.items():
        per_expert = parts[0]["features"] // (parts[0]["experts"] or 1)
        n_experts = parts[0]["experts"]
        size = f"{n_experts} x {per_expert:,}" if n_experts else f"{per_expert:,}"
        rows.append((block, size, "expert/feature" if n_experts else "feature"))
        for row in parts:
            one = Distribution.of_row(row)
            name = row["role"].removeprefix(f"{block}.") if row["role"] != block else "product"
            top = one.top[: _STRONGEST - bool(n_experts)]
            strongest = [_feature(i, per_expert if n_experts else None) for i in top]
            rows.append((f"  {name}", one, ", ".join(strongest)))
    return distributions(rows)


def _feature(place: int, per_expert: int | None) -> str:
    return str(place) if per_expert is None else f"{place // per_expert}/{place % per_expert}"


def _experts(page: LayerPage, routing: Routing) -> Iterator[RenderableType]:
    pairs = [("experts", experts_text(routing.rule)), ("chosen by", routing_text(routing.rule))]
    if routing.correction_bias is not None:
        least, most = routing.correction_bias
        pairs.append(("bias", f"e_score_correction_bias from {least:.4g} to {most:.4g}"))
    yield facts(pairs)
    rows = page.experts.to_dicts()
    if len(rows) > MOST_ROWS:
        names = {"expert": "l2", "gate": "gate_l2", "up": "up_l2", "down": "down_l2", "router": "router_l2"}
        names |= {"likeness": "cosine"}
        yield _spread((title, [row[name] for row in rows], str) for title, name in names.items())
        return
    cells = [
        (
            str(row["expert"]),
            *(number(row[name]) for name in ("l2", "norm_ratio", "gate_l2", "up_l2", "down_l2", "router_l2")),
            number(row["correction_bias"]),
            "" if row["nearest"] is None else f"{row['nearest']} at {row['cosine']:.2f}",
        )
        for row in rows
    ]
    if cells:
        titles = ("expert", "norm", "ratio", "gate", "up", "down", "router", "bias", "nearest")
        yield table(titles, cells)


def _spread(columns: Iterable[tuple[str, list[float | None], Callable[[int], str]]]) -> RenderableType:
    """Show how numbers are spread, and the places of the largest."""
    rows: list[tuple[str, Distribution | str, str]] = []
    for title, values, name in columns:
        if any(value is not None for value in values):
            one = Distribution.of(np.array([np.nan if value is None else value for value in values]))
            rows.append((title, one, ", ".join(map(name, one.top[:_STRONGEST]))))
    return distributions(rows)
