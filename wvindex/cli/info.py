"""``wvindex info``: what a store or a checkpoint is, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.options import PATH, json_option
from wvindex.cli.output import emit, emit_facts, emit_json, emit_table
from wvindex.cli.runnable import check_runs
from wvindex.errors import WvindexError
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.arch.config import MLA, ModelConfig, MoE, Rope
    from wvindex.query.database import Store
    from wvindex.query.summary import Summary
    from wvindex.store.catalog import Catalog

Facts = Iterator[tuple[str, str]]

_MOST_NAMES: Final = 20
"""Names that a list on the page has; ``--json`` has them all."""


@click.command("info")
@click.argument("path", type=PATH)
@json_option
def command(path: str, as_json: bool) -> None:
    """Tell what PATH is, on one page.

    Its model, its size, how it is stored, what is odd about it, and whether it can be run.
    PATH is a store, or a bare GGUF or safetensors checkpoint.
    """
    import wvindex as wv
    from wvindex.query.summary import summarize

    with wv.open(path) as db:
        summary = summarize(db)
        refusal = _refusal(db)
        if as_json:
            emit_json(_document(db, summary, refusal))
        else:
            _print_page(db, summary, refusal)


def _refusal(db: Store) -> WvindexError | None:
    """Give what the forward pass would refuse this model for; None where it runs."""
    try:
        check_runs(db)
    except WvindexError as error:
        return error
    return None


def _document(db: Store, summary: Summary, refusal: WvindexError | None) -> dict[str, Any]:
    catalog = db.catalog
    return {
        "path": str(db.path),
        "kind": "checkpoint" if catalog is None else "store",
        "summary": summary.to_json(),
        "config": db.config.to_json(),
        "notes": list(db.notes),
        "runs": refusal is None,
        "refusal": None if refusal is None else {"kind": refusal.kind, "message": str(refusal)},
        "store": None
        if catalog is None
        else {
            "format": catalog.format,
            "generator": catalog.generator,
            "options": catalog.options,
            "source_format": catalog.source_format,
            "sources": [asdict(file) for file in catalog.sources],
            "links": catalog.links,
            "files": catalog.files,
        },
    }


def _print_page(db: Store, summary: Summary, refusal: WvindexError | None) -> None:
    emit_facts(
        [
            *_origin(db),
            *_model(db.config, summary),
            *_attention(db.config),
            *_feed_forward(db.config),
            *_contents(summary),
            *_labelled("note", db.notes),
            ("runs", _runs(db.config) if refusal is None else f"no: {refusal}"),
        ]
    )
    emit()
    emit_table(
        ("encoding", "arrays", "parameters", "size"),
        [(e.encoding, str(e.arrays), f"{e.parameters:,}", format_size(e.nbytes)) for e in summary.encodings],
        right=("arrays", "parameters", "size"),
    )


def _runs(config: ModelConfig) -> str:
    if config.index_topk is None:
        return "yes"
    return f"yes, up to {config.index_topk} tokens: beyond, an indexer would choose among them (index_topk)"


def _origin(db: Store) -> Facts:
    catalog = db.catalog
    if catalog is None:
        yield "path", f"{db.path} (a bare checkpoint)"
        return
    yield "path", f"{db.path} (a store, format {catalog.format}, written by {catalog.generator})"
    yield from _labelled("source", [f"{f.name}, {format_size(f.size)}" for f in catalog.sources])
    yield "built with", _build_options(catalog)
    if catalog.files:
        yield "tokenizer", ", ".join(catalog.files)


def _build_options(catalog: Catalog) -> str:
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in catalog.options.items())
    return " ".join(flag if value is True else f"{flag} {value}" for flag, value in flags)


def _model(config: ModelConfig, summary: Summary) -> Facts:
    family = config.family or "unknown: tensors keep their own names"
    yield "family", family if family == config.model_type else f"{family} (model_type {config.model_type})"
    extra = f", and {len(summary.mtp_layers)} for multi-token prediction" if summary.mtp_layers else ""
    yield "layers", f"{summary.layers}{extra}"
    if config.hidden_size:
        yield "hidden size", str(config.hidden_size)
    if config.vocab_size:
        tied = ", embedding and head tied" if config.tie_word_embeddings else ""
        yield "vocabulary", f"{config.vocab_size}{tied}"
    if config.max_position_embeddings:
        yield "context", f"{config.max_position_embeddings} tokens"


def _attention(config: ModelConfig) -> Facts:
    if config.num_attention_heads and config.head_dim:
        widths = f"query and key {config.head_dim} wide, value {config.v_head_dim or config.head_dim}"
        heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} key/value heads"
        yield "attention", f"{heads}; {widths}"
    if config.mla is not None:
        yield "", _latent(config.mla, config.attention_form)
    windows = Counter(config.layer_types)
    if windows["sliding_attention"]:
        yield "window", f"{config.sliding_window} tokens, in {windows['sliding_attention']} layers"
    ropes = {name: _rotary(rope, config.head_dim) for name, rope in config.rope.items()}
    if len(set(ropes.values())) == 1:
        yield "rotary", next(iter(ropes.values()))
    else:
        yield from _labelled("rotary", [f"{name}: {text}" for name, text in ropes.items()])
    if config.attention_scale is not None:
        yield "scale", f"{config.attention_scale:.6g}"
    if config.attn_temperature_scale:
        every = f"every {config.attn_temperature_length} tokens"
        yield "", f"queries sharpen {every}, by {config.attn_temperature_scale:g} of the logarithm"


def _latent(mla: MLA, form: str) -> str:
    ranks = f"q_lora_rank {mla.q_lora_rank or 'none'}, kv_lora_rank {mla.kv_lora_rank}"
    how = "absorbed from" if form == "dense" else "kept as factors:"
    return f"{how} {ranks}, rope {mla.qk_rope_head_dim} + nope {mla.qk_nope_head_dim}"


def _rotary(rope: Rope, head_dim: int | None) -> str:
    part = f"{rope.rotary_dim} of {head_dim or '?'} dimensions"
    return f"{rope.rope_type}, theta {rope.rope_theta:g}, {part}"


def _feed_forward(config: ModelConfig) -> Facts:
    if config.intermediate_size:
        yield "mlp", f"{config.intermediate_size} wide, {config.hidden_act or 'unknown activation'}"
    if config.moe is not None:
        yield "experts", _experts(config.moe)


def _experts(moe: MoE) -> str:
    shared = f"; {moe.n_shared_experts} shared" if moe.n_shared_experts else ""
    counts = f"{moe.n_routed_experts} routed, {moe.num_experts_per_tok} a token{shared}"
    counts += f"; {moe.n_zero_experts} without weights" if moe.n_zero_experts else ""
    groups = f", {moe.topk_group} of {moe.n_group} groups" if moe.n_group > 1 else ""
    width = f"{moe.moe_intermediate_size} wide"
    width += f", SwiGLU clamped at {moe.swiglu_limit:g}" if moe.swiglu_limit is not None else ""
    beside = "; beside the MLP, added a layer later" if moe.shortcut else ""
    return f"{counts}; {width}; {moe.scoring_func}, {moe.topk_method}{groups}{beside}"


def _contents(summary: Summary) -> Facts:
    yield "arrays", str(summary.arrays)
    yield "parameters", f"{summary.parameters:,}"
    yield "size", f"{format_size(summary.nbytes)}, {summary.bits_per_weight:.2f} bits a weight"
    if summary.linked:
        size = format_size(summary.linked_nbytes)
        yield "linked", f"{summary.linked} arrays, {size}, are bytes of the source's files"
    yield "exactness", ", ".join(f"{count} {label}" for label, count in summary.exactness.items())
    yield from _labelled("unmapped", summary.unmapped)
    yield from _labelled("undecodable", summary.undecodable)
    odd = [f"{one.key}: {one.nan} NaN, {one.inf} infinite" for one in summary.nonfinite or ()]
    yield from _labelled("not finite", odd)


def _labelled(label: str, values: list[str] | tuple[str, ...]) -> Facts:
    """Give a list as facts, one a line under one label; a long one is cut."""
    for position, value in enumerate(values[:_MOST_NAMES]):
        yield "" if position else label, value
    if len(values) > _MOST_NAMES:
        yield "", f"and {len(values) - _MOST_NAMES} more; --json names them"
