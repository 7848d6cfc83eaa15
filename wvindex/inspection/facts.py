"""A model's configuration in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wvindex.arch.config import MLA, ModelConfig, MoE, Rope
    from wvindex.query.summary import Summary

Facts = Iterator[tuple[str, str]]


def model_facts(config: ModelConfig, summary: Summary) -> Facts:
    """Give what a configuration says, as labels and texts; an empty label carries the text above on."""
    yield from _model(config, summary)
    yield from _attention(config)
    yield from _feed_forward(config)


def _model(config: ModelConfig, summary: Summary) -> Facts:
    yield "family", _family(config)
    extra = f", and {len(summary.mtp_layers)} for multi-token prediction" if summary.mtp_layers else ""
    yield "layers", f"{summary.layers}{extra}"
    if config.hidden_size:
        yield "hidden size", str(config.hidden_size)
    if config.vocab_size:
        tied = ", embedding and head tied" if config.tie_word_embeddings else ""
        yield "vocabulary", f"{config.vocab_size}{tied}"
    if config.max_position_embeddings:
        yield "context", f"{config.max_position_embeddings} tokens"


def _family(config: ModelConfig) -> str:
    if config.family == config.model_type:
        return config.family
    said = f"model_type {config.model_type}"
    if config.family is not None:
        return f"{config.family} ({said})"
    from wvindex.arch.registry import is_known

    why = f"{said}, but metadata or tensors that do not fit it" if is_known(config.model_type) else said
    return f"unknown: tensors keep their own names ({why})"


def _attention(config: ModelConfig) -> Facts:
    if config.num_attention_heads and config.head_dim:
        widths = f"query and key {config.head_dim} wide, value {config.v_head_dim or config.head_dim}"
        heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} key/value heads"
        yield "attention", f"{heads}; {widths}"
    if config.mla is not None:
        yield "", latent_text(config.mla, config.attention_form)
    windows = Counter(config.layer_types)
    if windows["sliding_attention"]:
        yield "window", f"{config.sliding_window} tokens, in {windows['sliding_attention']} layers"
    ropes = {name: rotary_text(rope, config.head_dim) for name, rope in config.rope.items()}
    if len(set(ropes.values())) == 1:
        yield "rotary", next(iter(ropes.values()))
    else:
        for position, (name, text) in enumerate(ropes.items()):
            yield "" if position else "rotary", f"{name}: {text}"
    if config.attention_scale is not None:
        yield "scale", f"{config.attention_scale:.6g}"
    if config.attn_temperature_scale:
        every = f"every {config.attn_temperature_length} tokens"
        yield "", f"queries sharpen {every}, by {config.attn_temperature_scale:g} of the logarithm"


def latent_text(mla: MLA, form: str) -> str:
    """Say what latent attention's factors are, or were."""
    ranks = f"q_lora_rank {mla.q_lora_rank or 'none'}, kv_lora_rank {mla.kv_lora_rank}"
    how = "absorbed from" if form == "dense" else "kept as factors:"
    return f"{how} {ranks}, rope {mla.qk_rope_head_dim} + nope {mla.qk_nope_head_dim}"


def rotary_text(rope: Rope, head_dim: int | None) -> str:
    """Say how, and how much of, a head is rotated."""
    part = f"{rope.rotary_dim} of {head_dim or '?'} dimensions"
    return f"{rope.rope_type}, theta {rope.rope_theta:g}, {part}"


def _feed_forward(config: ModelConfig) -> Facts:
    if config.intermediate_size:
        yield "mlp", f"{config.intermediate_size} wide, {config.hidden_act or 'unknown activation'}"
    if config.moe is not None:
        yield "experts", f"{experts_text(config.moe)}; {routing_text(config.moe)}"


def experts_text(moe: MoE) -> str:
    """Say how many experts there are."""
    shared = f"; {moe.n_shared_experts} shared" if moe.n_shared_experts else ""
    counts = f"{moe.n_routed_experts} routed, {moe.num_experts_per_tok} a token{shared}"
    zero = f"; {moe.n_zero_experts} without weights" if moe.n_zero_experts else ""
    clamped = f", SwiGLU clamped at {moe.swiglu_limit:g}" if moe.swiglu_limit is not None else ""
    return f"{counts}{zero}; {moe.moe_intermediate_size} wide{clamped}"


def routing_text(moe: MoE) -> str:
    """Say how experts are chosen."""
    groups = f", {moe.topk_group} of {moe.n_group} groups" if moe.n_group > 1 else ""
    beside = "; beside the MLP, added a layer later" if moe.shortcut else ""
    return f"{moe.scoring_func}, {moe.topk_method}{groups}{beside}"
