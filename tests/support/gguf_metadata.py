"""The metadata that llama.cpp's converter writes for a Hugging Face config: the architecture's own keys.

Facts: llama.cpp, conversion/{base,llama,gemma,phi,qwen,deepseek}.py (convert_hf_to_gguf.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

Value: TypeAlias = bool | int | float | str
MLAForm = Literal["split", "kv_b"]

ARCHITECTURES: Final = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "kimi_k2": "deepseek2",
    "glm4_moe_lite": "deepseek2",
    "youtu": "deepseek2",
    "mistral4": "mistral4",
    "deepseek_v32": "deepseek32",
    "glm_moe_dsa": "glm-dsa",
    "minicpm3": "minicpm3",
    "gpt_oss": "gpt-oss",
}
"""Hugging Face's model_type to GGUF's general.architecture."""

# GGUF key to config fields, the first that is set counts.
_SIZES: Final = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
}
_HEAD: Final = {
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
}
_EXPERTS: Final = {
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
}
_DEEPSEEK: Final = {
    "vocab_size": ("vocab_size",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "attention.q_lora_rank": ("q_lora_rank",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "rope.dimension_count": ("qk_rope_head_dim",),
}
_INDEXER: Final = {
    "attention.indexer.head_count": ("index_n_heads",),
    "attention.indexer.key_length": ("index_head_dim",),
    "attention.indexer.top_k": ("index_topk",),
}
_GATING_FUNCTIONS: Final = {"softmax": 1, "sigmoid": 2}


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the rotary parameters of the full-attention layers, from either form of config.json."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "rope_theta" in config:
        rope["rope_theta"] = config["rope_theta"]
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    return rope


def metadata(config: Mapping[str, Any], mla: MLAForm = "split") -> dict[str, Value]:
    """Give the architecture's keys and values.

    Floats are written as FLOAT32, integers as UINT32. `mla` chooses DeepSeek's form: ``split`` with one KV
    head and `key_length_mla`, or the older ``kv_b`` with a KV head for every query head.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    keys = {
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "phi3": _phi3,
        "llama": _llama,
        "qwen3moe": _qwen3_moe,
        "minicpm3": _minicpm3,
        "gpt-oss": _gpt_oss,
    }.get(architecture, _plain)
    latent = architecture in {"deepseek2", "deepseek32", "glm-dsa", "mistral4"}
    found = _deepseek(config, mla) if latent else keys(config)
    return {f"{architecture}.{key}": value for key, value in found.items()}


def _fields(config: Mapping[str, Any], table: Mapping[str, tuple[str, ...]]) -> dict[str, Value]:
    found = {key: next((config[n] for n in names if n in config), None) for key, names in table.items()}
    return {key: value for key, value in found.items() if value is not None}


def _plain(config: Mapping[str, Any]) -> dict[str, Value]:
    return _fields(config, _SIZES | _HEAD | _EXPERTS) | _rope(config) | _gating(config)


def _rope(config: Mapping[str, Any]) -> dict[str, Value]:
    rope = rope_parameters(config)
    found: dict[str, Value] = {"rope.freq_base": float(rope["rope_theta"])}
    if rope.get("rope_type") in {"linear", "yarn"}:
        found["rope.scaling.type"] = rope["rope_type"]
        found["rope.scaling.factor"] = float(rope["factor"])
    if rope.get("rope_type") == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        found["rope.scaling.yarn_beta_fast"] = float(rope["beta_fast"])
        found["rope.scaling.yarn_beta_slow"] = float(rope["beta_slow"])
    return found


def _gating(config: Mapping[str, Any]) -> dict[str, Value]:
    function = config.get("scoring_func")
    return {} if function is None else {"expert_gating_func": _GATING_FUNCTIONS[function]}


def _llama(config: Mapping[str, Any]) -> dict[str, Value]:
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return _plain(config) | {"vocab_size": config["vocab_size"], "rope.dimension_count": width}


def _qwen3_moe(config: Mapping[str, Any]) -> dict[str, Value]:
    return _plain(config) | {"expert_feed_forward_length": config["moe_intermediate_size"]}


def _gemma2(config: Mapping[str, Any]) -> dict[str, Value]:
    caps = {
        "attn_logit_softcapping": ("attn_logit_softcapping",),
        "final_logit_softcapping": ("final_logit_softcapping",),
        "attention.sliding_window": ("sliding_window",),
    }
    return _fields(config, _SIZES | _HEAD | caps)


def _gemma3(config: Mapping[str, Any]) -> dict[str, Value]:
    local = {"rope.freq_base_swa": config["rope_local_base_freq"]}
    return _plain(config) | local | {"attention.sliding_window": config["sliding_window"]}


def _phi3(config: Mapping[str, Any]) -> dict[str, Value]:
    rope = rope_parameters(config)
    original = config["original_max_position_embeddings"]
    rotated = int(config.get("partial_rotary_factor", 1.0) * config["hidden_size"])
    found = _fields(config, _SIZES)
    found["rope.scaling.original_context_length"] = original
    found["rope.dimension_count"] = rotated // config["num_attention_heads"]
    found["rope.freq_base"] = float(rope["rope_theta"])
    found["attention.sliding_window"] = config["sliding_window"] or 0
    if rope.get("rope_type") == "longrope":
        scale = config["max_position_embeddings"] / original
        found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    return found


def _minicpm3(config: Mapping[str, Any]) -> dict[str, Value]:
    ranks = ("vocab_size", "attention.q_lora_rank", "attention.kv_lora_rank", "rope.dimension_count")
    found = _fields(config, _SIZES) | _fields(config, {key: _DEEPSEEK[key] for key in ranks})
    return found | {"attention.key_length": config["qk_nope_head_dim"] + config["qk_rope_head_dim"]}


def _gpt_oss(config: Mapping[str, Any]) -> dict[str, Value]:
    found = _plain(config) | {"expert_feed_forward_length": config["intermediate_size"]}
    return found | {"attention.sliding_window": config["sliding_window"]}


def _deepseek(config: Mapping[str, Any], mla: MLAForm) -> dict[str, Value]:
    found = _plain(config) | _fields(config, _DEEPSEEK) | _fields(config, _INDEXER)
    if "n_routed_experts" not in config:  # Youtu: all layers are dense
        found |= {"leading_dense_block_count": config["num_hidden_layers"], "expert_shared_count": 0}
        found["expert_feed_forward_length"] = config["intermediate_size"]
    if config.get("norm_topk_prob"):
        found["expert_weights_norm"] = True
    beta = rope_parameters(config).get("llama_4_scaling_beta")
    if beta is not None:
        # llama.cpp's converter writes these from Mistral's own form of the configuration
        found["attention.temperature_scale"] = beta
        found["attention.temperature_length"] = rope_parameters(config)["original_max_position_embeddings"]
    mscale_all_dim = rope_parameters(config).get("mscale_all_dim")
    if mscale_all_dim is not None:
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * mscale_all_dim
    width = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    if mla == "kv_b":
        sizes = {"key_length": width, "value_length": config["v_head_dim"]}
    else:
        rank = config["kv_lora_rank"]
        sizes = {
            "head_count_kv": 1,
            "key_length": rank + config["qk_rope_head_dim"],
            "value_length": rank,
            "key_length_mla": width,
            "value_length_mla": config["v_head_dim"],
        }
    return found | {f"attention.{key}": value for key, value in sizes.items()}
