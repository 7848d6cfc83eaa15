"""MaxText's configuration in Hugging Face's form.

MaxText is configured by YAML: a model's file over ``base.yml``. The names and defaults here are those of
https://github.com/AI-Hypercomputer/maxtext, ``configs/base.yml`` and ``configs/models``; what each means for
the model is as in ``layers/attention_mla.py``, ``layers/moe.py`` and ``layers/embeddings.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.errors import MetadataError, UnsupportedModel
from wvindex.limits import MAX_JSON_BYTES
from wvindex.sources.files import read_whole, real_path
from wvindex.sources.maxtext_neutral import require_neutral
from wvindex.sources.maxtext_settings import Settings
from wvindex.sources.strict_json import parse_object
from wvindex.sources.strict_yaml import parse_mapping

_SIZES: Final = (
    "base_emb_dim",
    "base_num_query_heads",
    "base_num_kv_heads",
    "base_mlp_dim",
    "base_num_decoder_layers",
)
MODEL_TYPES: Final = {
    "llama2": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "gemma2": "gemma2",
    "deepseek": "deepseek_v3",
}
"""What ``decoder_block`` is to Hugging Face; DeepSeek-V2 and V3 are one block there."""

_ROUTED_NAMES: Final = ("deepseek3", "deepseek4")
"""Of models that MaxText routes as DeepSeek-V3 (``layers/moe.py``)."""

_GEMMA_EPSILON: Final = 1e-6
"""Norms within Gemma 2's layers are made without the setting."""


@dataclass(frozen=True)
class MaxTextConfig:
    """A model's configuration.

    Attributes
    ----------
    hub : mapping
        In the form of Hugging Face's config.json.
    scan_axis : int
        Where a scanned stack has its layers (``param_scan_axis``).
    notes : tuple of str
        What MaxText itself computes otherwise.
    """

    hub: Mapping[str, Any]
    scan_axis: int = 1
    notes: tuple[str, ...] = ()


def read_config(path: Path) -> MaxTextConfig:
    """Read a MaxText configuration (YAML), or a config.json of Hugging Face.

    Raises
    ------
    MalformedHeader, LimitExceeded, DuplicateName
        If it is neither.
    MetadataError, UnsupportedModel
        If a field is missing or wrong, or the model is one that wvindex does not map.
    """
    return parsed_config(read_whole(path, real_path(path), MAX_JSON_BYTES), path)


def parsed_config(data: bytes, path: Path) -> MaxTextConfig:
    """Read a configuration that is in memory; `path` is its name. Raises as `read_config`."""
    if path.suffix == ".json":
        document = parse_object(data, file=path, constants=True)
    else:
        document = parse_mapping(data, file=path)
    if "model_type" in document:
        return MaxTextConfig(document)
    if "decoder_block" not in document and "base_emb_dim" not in document:
        raise MetadataError(
            "neither MaxText's configuration nor Hugging Face's",
            file=path,
            expected="decoder_block, or model_type",
            found=", ".join(list(document)[:8]) or "nothing",
        )
    return _converted(Settings(document, path))


def _converted(s: Settings) -> MaxTextConfig:
    block = s.text("decoder_block")
    if block not in MODEL_TYPES or s.flag("use_indexer"):
        raise UnsupportedModel(
            "a MaxText model that wvindex does not map",
            file=s.file,
            field="decoder_block",
            expected=f"{', '.join(MODEL_TYPES)}, without an indexer",
            found=block,
        )
    require_neutral(s, block)
    hub = _common(s, MODEL_TYPES[block])
    hub |= _deepseek(s) if block == "deepseek" else _grouped_query(s, block)
    notes = _routing_notes(s) if block == "deepseek" else ()
    return MaxTextConfig(hub, s.integer("param_scan_axis"), notes)


def _routing_notes(s: Settings) -> tuple[str, ...]:
    """Say where MaxText routes otherwise: it takes DeepSeek-V3's routing by the model's name alone.

    A file of ``configs/models`` states no name, for its own is the model's.
    """
    name = s.text("model_name")
    in_use = {"routed_bias": s.flag("routed_bias"), "n_routing_groups": s.integer("n_routing_groups") > 1}
    settings = [setting for setting, is_used in in_use.items() if is_used]
    if "model_name" not in s.stated or name.startswith(_ROUTED_NAMES) or not settings:
        return ()
    used, names = " and ".join(settings), " or ".join(_ROUTED_NAMES)
    return (
        f"MaxText itself routes otherwise by the model_name {name}: {used} as DeepSeek-V3 has them are for "
        f"names that begin with {names}; wvindex follows the configuration",
    )


def _common(s: Settings, model_type: str) -> dict[str, Any]:
    for name in _SIZES:
        if name not in s.stated:
            raise s.error(name, "a size", None)
    tied = s.flag("logits_via_embedding")
    divides = s.flag("normalize_embedding_logits")
    if tied and divides != (model_type == "gemma2"):  # whose embedding MaxText keeps multiplied
        wanted = str(not divides).lower()
        raise s.error(
            "normalize_embedding_logits", f"{wanted}: Hugging Face does not divide tied logits", divides
        )
    layers = s.size("base_num_decoder_layers")
    return {
        "model_type": model_type,
        "hidden_size": s.size("base_emb_dim"),
        "intermediate_size": s.size("base_mlp_dim"),
        "num_hidden_layers": 2 * layers if model_type == "gemma2" else layers,
        "num_attention_heads": s.size("base_num_query_heads"),
        "num_key_value_heads": s.size("base_num_kv_heads"),
        "vocab_size": s.size("vocab_size"),
        "rms_norm_eps": s.number("normalization_layer_epsilon"),
        "hidden_act": s.activation(),
        "tie_word_embeddings": tied,
        "rope_theta": s.number("rope_max_timescale"),
    }


def _grouped_query(s: Settings, block: str) -> dict[str, Any]:
    # No window, said: where the field is absent, transformers' Mistral has one of 4096.
    fields: dict[str, Any] = {"head_dim": s.size("head_dim"), "sliding_window": None}
    if block == "llama2" and not s.stated & {"model_name", "rope_type"}:
        raise s.error("model_name", "a model_name, or a rope_type: Llama 3.1's heads are interleaved", None)
    is_llama31 = any(s.text(name).startswith("llama3.1") for name in ("model_name", "rope_type"))
    if is_llama31 and block != "llama2":
        raise s.error("rope_type", "llama3.1 with the decoder_block llama2 alone", block)
    fields["rope_scaling"] = _llama31(s) if is_llama31 else _scaling(s)
    if block in ("qwen3_moe", "mixtral"):
        experts = "num_local_experts" if block == "mixtral" else "num_experts"
        width = "intermediate_size" if block == "mixtral" else "moe_intermediate_size"
        fields |= {
            experts: s.integer("num_experts"),
            "num_experts_per_tok": s.integer("num_experts_per_tok"),
            width: s.integer("base_moe_mlp_dim"),
        }
    if block == "qwen3_moe":
        fields["norm_topk_prob"] = True  # MaxText's softmax is over the chosen, whatever its setting says
    return fields | (_gemma2(s) if block == "gemma2" else {})


def _gemma2(s: Settings) -> dict[str, Any]:
    if s.integer("sliding_window_size") <= 0:
        raise s.error("sliding_window_size", "a window for every other layer", s.raw["sliding_window_size"])
    if s.number("normalization_layer_epsilon") != _GEMMA_EPSILON:
        found = s.raw["normalization_layer_epsilon"]
        raise s.error(
            "normalization_layer_epsilon", f"{_GEMMA_EPSILON}, as MaxText's Gemma 2 has built in", found
        )
    return {
        "sliding_window": s.integer("sliding_window_size"),
        "hidden_activation": s.activation(),
        "query_pre_attn_scalar": s.integer("head_dim"),
        "attn_logit_softcapping": s.number("attn_logits_soft_cap") or None,
        "final_logit_softcapping": s.number("final_logits_soft_cap") or None,
    }


def _llama31(s: Settings) -> dict[str, Any] | None:
    """Give the scaling that ``LLaMARotaryEmbedding`` has built in."""
    if s.number("rope_linear_scaling_factor") != 1:
        raise s.error("rope_linear_scaling_factor", "1 for Llama 3.1", s.raw["rope_linear_scaling_factor"])
    if not s.flag("rope_use_scale"):
        # Without scaling the heads would still be interleaved, which Hugging Face's form cannot say.
        raise s.error("rope_use_scale", "true for Llama 3.1", False)
    return {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _scaling(s: Settings) -> dict[str, Any] | None:
    kind, factor = s.text("rope_type"), s.number("rope_linear_scaling_factor")
    if kind != "default":
        raise s.error("rope_type", "default, or llama3.1 for llama2", kind)
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _deepseek(s: Settings) -> dict[str, Any]:
    routed = s.integer("num_experts") > 1
    score = s.text("routed_score_func") or ("" if routed else "softmax")
    if score not in ("softmax", "sigmoid"):
        raise s.error("routed_score_func", "softmax or sigmoid", score or "nothing, which is no function")
    sigmoid = score == "sigmoid"
    if s.flag("routed_bias") and not sigmoid:
        raise s.error("routed_bias", "false with softmax: Hugging Face's DeepSeek-V2 adds no bias", True)
    fields: dict[str, Any] = {
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "q_lora_rank": s.size("q_lora_rank", 0) or None,
        **{name: s.size(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")},
        "v_head_dim": s.size("v_head_dim"),
        "first_k_dense_replace": s.integer("first_num_dense_layers"),
        "num_nextn_predict_layers": s.integer("mtp_num_layers"),
        "rope_interleave": s.flag("rope_interleave"),
        "max_position_embeddings": s.integer("max_position_embeddings"),
        "rope_scaling": _yarn(s),
    }
    if routed:
        groups = s.integer("n_routing_groups")
        fields |= {
            "n_routed_experts": s.integer("num_experts"),
            "n_shared_experts": s.integer("shared_experts"),
            "num_experts_per_tok": s.integer("num_experts_per_tok"),
            "moe_intermediate_size": s.integer("base_moe_mlp_dim"),
            "routed_scaling_factor": s.number("routed_scaling_factor"),
            "scoring_func": score,
            "n_group": max(groups, 1),
            "topk_group": max(s.integer("topk_routing_group"), 1),
            "norm_topk_prob": sigmoid,  # whatever MaxText's setting says, which this block does not look at
            "topk_method": _topk_method(sigmoid=sigmoid, groups=groups),
        }
    return fields


def _topk_method(*, sigmoid: bool, groups: int) -> str:
    if sigmoid:
        return "noaux_tc"
    return "group_limited_greedy" if groups > 1 else "greedy"


def _yarn(s: Settings) -> dict[str, Any]:
    """Give YaRN's parameters. MaxText has one mscale, which the softmax scale alone knows, squared.

    By any other rope_type it rotates halves, and scales the softmax by YaRN's factor all the same.
    """
    kind = s.text("rope_type")
    if kind != "yarn" or s.flag("rope_attention_scaling"):
        raise s.error("rope_type", "yarn without rope_attention_scaling", kind)
    longer = s.integer("max_position_embeddings") > s.integer("original_max_position_embeddings")
    mscale = s.number("mscale") if longer else 0.0
    return {
        "type": "yarn",
        "factor": s.number("rope_factor"),
        "beta_fast": s.number("beta_fast"),
        "beta_slow": s.number("beta_slow"),
        "original_max_position_embeddings": s.integer("original_max_position_embeddings"),
        "mscale": mscale,
        "mscale_all_dim": mscale,
        "attention_factor": 1.0,
        "truncate": s.flag("rope_truncate"),
    }
