"""Settings of MaxText that change what a model computes, and the values at which they do not.

A setting that is mapped is part of Hugging Face's configuration. One that is not must be neutral, or, where a
decoder block is made with it, have the one value that the block's class in Hugging Face stands for. What a
setting does: https://github.com/AI-Hypercomputer/maxtext, ``configs/base.yml``, ``layers`` and ``models``.

Settings of training (dropout, losses, the bias's updates), of precision, of kernels and of where arrays lie
are not here: the numbers that they move are roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from wvindex.errors import MetadataError
from wvindex.sources.maxtext_settings import Settings


class _Off(NamedTuple):
    """Any value that switches something off: false, none, empty, zero or less."""

    def __str__(self) -> str:
        return "off (false, none, 0 or less)"


OFF: Final = _Off()
MAPPED: Final = "mapped"
"""Whatever it is, the configuration says it."""


@dataclass(frozen=True)
class Neutral:
    """What a setting must be.

    Attributes
    ----------
    value : object
        By default of ``base.yml``, and of every decoder block that is not in `blocks`.
    blocks : mapping of str to object
        What it is in single decoder blocks, `MAPPED` for anything.
    """

    value: object = OFF
    blocks: Mapping[str, object] = field(default_factory=dict)


_GEMMA: Final = {"gemma2": MAPPED}
_DEEPSEEK: Final = {"deepseek": MAPPED}
_ROUTED: Final = {"deepseek": MAPPED, "mixtral": MAPPED, "qwen3_moe": MAPPED}
_PLAIN_ROPE: Final = dict.fromkeys(
    ("llama2", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2"), MAPPED
)

NEUTRAL: Final[Mapping[str, Neutral]] = {
    # Attention.
    "attention_type": Neutral("global", {"deepseek": "mla"}),
    "training_objective": Neutral("causal_lm"),
    "attn_logits_soft_cap": Neutral(blocks=_GEMMA),
    "sliding_window_size": Neutral(blocks=_GEMMA),
    "chunk_attn_window_size": Neutral(),
    "attention_sink": Neutral(),
    "attention_bias": Neutral(blocks={"qwen2": True}),
    "attention_output_dim": Neutral(),
    "use_qk_norm": Neutral(blocks={"qwen3": True, "qwen3_moe": True}),
    "qk_norm_with_scale": Neutral(True),
    "temperature_tuning": Neutral(),
    "share_kv_projections": Neutral(),
    "num_kv_shared_layers": Neutral(),
    "global_head_dim": Neutral(),
    "global_num_kv_heads": Neutral(),
    "moba": Neutral(),
    "compress_ratios": Neutral(),
    "o_lora_rank": Neutral(),
    "o_groups": Neutral(),
    "fused_qkv": Neutral(),
    # Positions.
    "rope_min_timescale": Neutral(1),
    "rope_linear_scaling_factor": Neutral(1, _PLAIN_ROPE),
    "local_rope_max_timescale": Neutral(),
    "global_rope_max_timescale": Neutral(),
    "partial_rotary_factor": Neutral(1),
    "nope_layer_interval": Neutral(),
    "use_mrope": Neutral(),
    "trainable_position_size": Neutral(),
    "use_untrainable_positional_embedding": Neutral(),
    # Layers.
    "global_parameter_scale": Neutral(1),
    "use_post_attn_norm": Neutral(blocks={"gemma2": True}),
    "use_post_ffw_norm": Neutral(blocks={"gemma2": True}),
    "inhomogeneous_layer_cycle_interval": Neutral(1),
    "hidden_size_per_layer_input": Neutral(),
    "mhc_expansion_rate": Neutral(1),
    "engram_layers": Neutral(),
    "mtp_num_layers": Neutral(blocks=_DEEPSEEK),
    # Feed-forward networks and experts.
    "mlp_activations_limit": Neutral(),
    "mlp_bias": Neutral(),
    "use_double_wide_mlp": Neutral(),
    "fused_mlp": Neutral(),
    "num_experts": Neutral(1, _ROUTED),
    "shared_experts": Neutral(blocks=_DEEPSEEK),
    "first_num_dense_layers": Neutral(blocks=_DEEPSEEK),
    "first_num_hash_layers": Neutral(),
    "interleave_moe_layer_step": Neutral(1),
    "moe_expert_input_dim": Neutral(),
    "capacity_factor": Neutral(),
    "routed_bias": Neutral(blocks=_DEEPSEEK),
    "routed_score_func": Neutral(blocks=_DEEPSEEK),
    "routed_scaling_factor": Neutral(1, _DEEPSEEK),
    "n_routing_groups": Neutral(blocks=_DEEPSEEK),
    "use_random_routing": Neutral(),
    # Embeddings and logits.
    "final_logits_soft_cap": Neutral(blocks=_GEMMA),
    "use_multimodal": Neutral(),
    "use_audio": Neutral(),
    # What the leaves hold.
    "checkpoint_is_quantized": Neutral(),
    "weight_sparsity_n": Neutral(),
}


def require_neutral(settings: Settings, block: str) -> None:
    """Refuse a setting by which a decoder block computes what its mapped configuration does not say.

    Raises
    ------
    MetadataError
        Naming the setting.
    """
    for name, neutral in NEUTRAL.items():
        wanted = neutral.blocks.get(block, neutral.value)
        if wanted is MAPPED:
            continue
        found = settings.raw.get(name, neutral.value)
        if not _is(wanted, found):
            raise _refusal(settings, name, wanted, found)


def _is(wanted: object, found: object) -> bool:
    if isinstance(found, str):
        with suppress(ValueError):
            found = float(found)  # YAML 1.1 takes 1e0 for a string
    if wanted is OFF:
        return found is OFF or not found or (isinstance(found, int | float) and found <= 0)
    return wanted == found and isinstance(wanted, bool) == isinstance(found, bool)


def _refusal(settings: Settings, name: str, wanted: object, found: object) -> MetadataError:
    text = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    stated = "off, its default" if found is OFF else found
    return settings.error(name, f"{text}: what it changes is not mapped", stated)
