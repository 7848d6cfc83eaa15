"""GGUF metadata for a model that came from a Hugging Face checkpoint, as llama.cpp's converter writes them.

Keys: gguf.constants.Keys; which of them a family has: llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from wvindex.arch.config import MLA, ModelConfig, MoE
from wvindex.arch.gguf_metadata import ROPE_SCALING
from wvindex.arch.keys import EXPERT_MODULES, split_layer
from wvindex.errors import UnsupportedError
from wvindex.exporting.described import described, require_same_model
from wvindex.exporting.gguf_file import typed
from wvindex.exporting.gguf_named import splits_factors
from wvindex.exporting.gguf_target import with_file_type
from wvindex.exporting.held import Held
from wvindex.exporting.indexer import indexer_sizes
from wvindex.exporting.rope_parameters import FULL, stated_rope
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.gguf_kept import TypedValue

_QUANTIZATION_VERSION: Final = 2
_GATING: Final = {"softmax": 1, "sigmoid": 2}
_SLIDING: Final = "sliding_attention"
_CONTEXT: Final = "original_max_position_embeddings"

_WINDOWED: Final = ("gemma2", "gemma3", "phi3", "gpt_oss")
"""Families in which llama.cpp heeds a sliding window; it reads the key in no other."""

Values = dict[str, Any]


def gguf_metadata(held: Held, tensors: Sequence[OutTensor]) -> dict[str, TypedValue]:
    """Give metadata that mean the same model; they are read back before they are given.

    Raises
    ------
    UnsupportedError
        Naming the field that GGUF has no key for.
    """
    family, config = held.family, held.config
    if family is None:
        raise UnsupportedError(
            "GGUF has no keys for an architecture that is not known", file=held.name, field="model_type"
        )
    own = _sizes(config) | _rope(held) | _routing(held)
    if family.name in _WINDOWED:
        own["attention.sliding_window"] = config.sliding_window
    if family.name == "phi3":  # llama.cpp's loader asks for both, whatever they are
        own["attention.sliding_window"] = config.sliding_window or 0
        own["rope.scaling.original_context_length"] = stated_rope(held).get(
            _CONTEXT, config.max_position_embeddings
        )
    if config.mla is not None:
        own |= _latent(config, config.mla, split=splits_factors(family))
    if config.index_topk is not None:
        own |= _indexer(held, config.index_topk)
    values: Values = {
        "general.architecture": family.gguf_arch,
        "general.type": "model",
        "general.name": PurePath(held.name).stem,
        "general.quantization_version": _QUANTIZATION_VERSION,
        **{f"{family.gguf_arch}.{key}": value for key, value in own.items() if value is not None},
    }
    if config.bos_token_id is not None:
        values["tokenizer.ggml.bos_token_id"] = config.bos_token_id
    for name, number in zip(("eos", "eot"), config.eos_token_ids, strict=False):
        values[f"tokenizer.ggml.{name}_token_id"] = number
    require_same_model(described(held.name, "gguf", values, tensors), config)
    return with_file_type({key: typed(_kind(value), value) for key, value in values.items()}, tensors)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "BOOL"
    return "STRING" if isinstance(value, str) else "FLOAT32" if isinstance(value, float) else "UINT32"


def _sizes(config: ModelConfig) -> Values:
    return {
        "block_count": (config.num_hidden_layers or 0) + config.num_nextn_predict_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.v_head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attn_logit_softcapping": config.attn_logit_softcapping,
        "final_logit_softcapping": config.final_logit_softcapping,
        "vocab_size": config.vocab_size,
        "nextn_predict_layers": config.num_nextn_predict_layers or None,
    }


def _rope(held: Held) -> Values:
    found, local = held.config.rope.get(FULL), held.config.rope.get(_SLIDING)
    main = found or local
    if main is None:
        return {}
    values: Values = {"rope.freq_base": float(main.rope_theta), "rope.dimension_count": main.rotary_dim}
    if found is not None and local is not None and local.rope_theta != found.rope_theta:
        values["rope.freq_base_swa"] = float(local.rope_theta)
    stated = stated_rope(held)
    if main.rope_type in ("linear", "yarn"):
        values["rope.scaling.type"] = main.rope_type
        values |= {
            key: stated[name] if name == _CONTEXT else float(stated[name])
            for key, name in ROPE_SCALING.items()
            if name in stated and name != "attention_factor"
        }
    if main.rope_type == "yarn" and held.config.mla is not None:
        values["rope.scaling.yarn_log_multiplier"] = 0.1 * float(stated.get("mscale_all_dim") or 0.0)
    if main.long_inv_freq is not None:
        values["rope.scaling.original_context_length"] = main.original_max_position_embeddings
        values["rope.scaling.attn_factor"] = float(main.attention_factor)
    return values


def _routing(held: Held) -> Values:
    moe: MoE | None = held.config.moe
    if moe is None:
        return _dense(held.config) if held.config.mla is not None else {}
    grouped = moe.n_group > 1 or held.config.mla is not None
    layers = [layer for spec in held.specs if (layer := _routed_layer(spec.key)) is not None]
    return {
        "expert_count": moe.n_routed_experts,
        "expert_used_count": moe.num_experts_per_tok,
        "expert_feed_forward_length": moe.moe_intermediate_size,
        "leading_dense_block_count": min(layers, default=0),
        "expert_shared_count": moe.n_shared_experts or None,
        "expert_weights_norm": moe.norm_topk_prob,
        "expert_weights_scale": float(moe.routed_scaling_factor),
        "expert_group_count": moe.n_group if grouped else None,
        "expert_group_used_count": moe.topk_group if grouped else None,
        "expert_gating_func": _GATING[moe.scoring_func],
    }


def _dense(config: ModelConfig) -> Values:
    """Give what llama.cpp's architecture for latent attention wants to know of a model without experts."""
    return {
        "leading_dense_block_count": config.num_hidden_layers,
        "expert_feed_forward_length": config.intermediate_size,
        "expert_shared_count": 0,
    }


def _routed_layer(key: str) -> int | None:
    layer, role = split_layer(key)
    return layer if role.rpartition(".")[0] in EXPERT_MODULES else None


def _indexer(held: Held, topk: int) -> Values:
    sizes = indexer_sizes(held)
    return {
        "attention.indexer.head_count": sizes.heads,
        "attention.indexer.key_length": sizes.head_dim,
        "attention.indexer.top_k": topk,
    }


def _latent(config: ModelConfig, mla: MLA, *, split: bool) -> Mapping[str, Any]:
    """Give the keys of latent attention; where factors are split, of the attention that llama.cpp runs."""
    width = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    common = {
        "attention.q_lora_rank": mla.q_lora_rank,
        "attention.kv_lora_rank": mla.kv_lora_rank,
        "rope.dimension_count": mla.qk_rope_head_dim,
        "attention.temperature_scale": config.attn_temperature_scale or None,
        "attention.temperature_length": config.attn_temperature_length,
    }
    if not split:
        return {
            **common,
            "attention.head_count_kv": config.num_attention_heads,
            "attention.key_length": width,
            "attention.value_length": mla.v_head_dim,
        }
    return {
        **common,
        "attention.head_count_kv": 1,
        "attention.key_length": mla.kv_lora_rank + mla.qk_rope_head_dim,
        "attention.value_length": mla.kv_lora_rank,
        "attention.key_length_mla": width,
        "attention.value_length_mla": mla.v_head_dim,
    }
