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
from wvindex.sources.strict_json import parse_object
from wvindex.sources.strict_yaml import parse_mapping

_BASE: Final[Mapping[str, Any]] = {
    "decoder_block": "llama2",
    "model_name": "default",
    "global_parameter_scale": 1,
    "head_dim": 128,
    "mlp_activations": ["silu", "linear"],
    "vocab_size": 32000,
    "logits_via_embedding": False,
    "normalize_embedding_logits": True,
    "normalization_layer_epsilon": 1e-5,
    "param_scan_axis": 1,
    "mtp_num_layers": 0,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "norm_topk_prob": False,
    "first_num_dense_layers": 0,
    "shared_experts": 0,
    "routed_scaling_factor": 1.0,
    "routed_score_func": "",
    "n_routing_groups": -1,
    "topk_routing_group": -1,
    "sliding_window_size": 0,
    "attn_logits_soft_cap": 0.0,
    "final_logits_soft_cap": 0.0,
    "q_lora_rank": 0,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_type": "default",
    "rope_use_scale": True,
    "rope_linear_scaling_factor": 1.0,
    "rope_min_timescale": 1,
    "rope_max_timescale": 10000,
    "max_position_embeddings": 163840,
    "original_max_position_embeddings": 4096,
    "rope_factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "rope_interleave": True,
    "rope_truncate": True,
    "rope_attention_scaling": False,
    "use_indexer": False,
}
"""``base.yml``, as far as it says what a model computes; sizes have no default here."""

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

ACTIVATIONS: Final = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
"""Of ``mlp_activations``; JAX's gelu is the approximation by tanh."""


@dataclass(frozen=True)
class MaxTextConfig:
    """A model's configuration.

    Attributes
    ----------
    hub : mapping
        In the form of Hugging Face's config.json.
    scan_axis : int
        Where a scanned stack has its layers (``param_scan_axis``).
    """

    hub: Mapping[str, Any]
    scan_axis: int = 1


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
    return _converted(_Settings(document, path))


class _Settings:
    """Typed access to MaxText's settings, with its defaults."""

    def __init__(self, raw: Mapping[str, Any], file: Path) -> None:
        given = {name: value for name, value in raw.items() if value is not None}
        self._raw = {**_BASE, **given}
        self.stated = frozenset(given)
        self.file = file

    def integer(self, name: str) -> int:
        value = self.number(name)
        if value != int(value):
            raise self.error(name, "an integer", value)
        return int(value)

    def number(self, name: str) -> float:
        value = self._raw.get(name)
        if isinstance(value, str):  # YAML 1.1 takes 1e-6, without a point, for a string; MaxText does not
            try:
                value = float(value)
            except ValueError:
                raise self.error(name, "a number", value) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
            raise self.error(name, "a number", value)
        return value

    def flag(self, name: str) -> bool:
        value = self._raw.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def text(self, name: str) -> str:
        value = self._raw.get(name)
        if not isinstance(value, str):
            raise self.error(name, "a string", value)
        return value

    def activation(self) -> str:
        value = self._raw["mlp_activations"]
        gate = value[0] if isinstance(value, list) and len(value) == 2 and value[1] == "linear" else None
        if gate not in ACTIVATIONS:
            raise self.error("mlp_activations", f"[{' or '.join(ACTIVATIONS)}, linear]", value)
        return ACTIVATIONS[gate]

    def error(self, name: str, expected: str, found: object) -> MetadataError:
        return MetadataError(
            "MaxText's configuration is not usable",
            file=self.file,
            field=name,
            expected=expected,
            found="nothing" if found is None else found,
        )


def _converted(s: _Settings) -> MaxTextConfig:
    block = s.text("decoder_block")
    if block not in MODEL_TYPES or s.flag("use_indexer"):
        raise UnsupportedModel(
            "a MaxText model that wvindex does not map",
            file=s.file,
            field="decoder_block",
            expected=f"{', '.join(MODEL_TYPES)}, without an indexer",
            found=block,
        )
    if s.number("global_parameter_scale") != 1:
        raise s.error(
            "global_parameter_scale", "1, and sizes as they are", s.number("global_parameter_scale")
        )
    hub = _common(s, MODEL_TYPES[block])
    hub |= _deepseek(s) if block == "deepseek" else _grouped_query(s, block)
    return MaxTextConfig(hub, s.integer("param_scan_axis"))


def _common(s: _Settings, model_type: str) -> dict[str, Any]:
    for name in _SIZES:
        if name not in s.stated:
            raise s.error(name, "a size", None)
    tied = s.flag("logits_via_embedding")
    if tied and s.flag("normalize_embedding_logits") and model_type != "gemma2":
        raise s.error(
            "normalize_embedding_logits", "false: Hugging Face's models do not divide tied logits", True
        )
    layers = s.integer("base_num_decoder_layers")
    return {
        "model_type": model_type,
        "hidden_size": s.integer("base_emb_dim"),
        "intermediate_size": s.integer("base_mlp_dim"),
        "num_hidden_layers": 2 * layers if model_type == "gemma2" else layers,
        "num_attention_heads": s.integer("base_num_query_heads"),
        "num_key_value_heads": s.integer("base_num_kv_heads"),
        "vocab_size": s.integer("vocab_size"),
        "rms_norm_eps": s.number("normalization_layer_epsilon"),
        "hidden_act": s.activation(),
        "tie_word_embeddings": tied,
        "rope_theta": s.number("rope_max_timescale"),
    }


def _grouped_query(s: _Settings, block: str) -> dict[str, Any]:
    window = s.integer("sliding_window_size")
    fields: dict[str, Any] = {"head_dim": s.integer("head_dim"), "sliding_window": window or None}
    if block == "llama2" and not s.stated & {"model_name", "rope_type"}:
        raise s.error("model_name", "a model_name, or a rope_type: Llama 3.1's heads are interleaved", None)
    is_llama31 = any(s.text(name).startswith("llama3.1") for name in ("model_name", "rope_type"))
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
        fields["norm_topk_prob"] = s.flag("norm_topk_prob")
    if block == "gemma2":
        fields |= {
            "hidden_activation": s.activation(),
            "query_pre_attn_scalar": s.integer("head_dim"),
            "attn_logit_softcapping": s.number("attn_logits_soft_cap") or None,
            "final_logit_softcapping": s.number("final_logits_soft_cap") or None,
        }
    return fields


def _llama31(s: _Settings) -> dict[str, Any] | None:
    """Give the scaling that ``LLaMARotaryEmbedding`` has built in."""
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


def _scaling(s: _Settings) -> dict[str, Any] | None:
    kind, factor = s.text("rope_type"), s.number("rope_linear_scaling_factor")
    if kind != "default" or s.number("rope_min_timescale") != 1:
        raise s.error("rope_type", "default or llama3.1 for this decoder_block, rope_min_timescale 1", kind)
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _deepseek(s: _Settings) -> dict[str, Any]:
    score = s.text("routed_score_func") or "softmax"
    if score not in ("softmax", "sigmoid"):
        raise s.error("routed_score_func", "softmax or sigmoid", score)
    sigmoid = score == "sigmoid"
    fields: dict[str, Any] = {
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "q_lora_rank": s.integer("q_lora_rank") or None,
        **{name: s.integer(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")},
        "v_head_dim": s.integer("v_head_dim"),
        "first_k_dense_replace": s.integer("first_num_dense_layers"),
        "num_nextn_predict_layers": s.integer("mtp_num_layers"),
        "rope_interleave": s.flag("rope_interleave"),
        "max_position_embeddings": s.integer("max_position_embeddings"),
        "rope_scaling": _yarn(s),
    }
    if s.integer("num_experts") > 1:
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
            "norm_topk_prob": sigmoid or s.flag("norm_topk_prob"),
            "topk_method": _topk_method(sigmoid=sigmoid, groups=groups),
        }
    return fields


def _topk_method(*, sigmoid: bool, groups: int) -> str:
    if sigmoid:
        return "noaux_tc"
    return "group_limited_greedy" if groups > 1 else "greedy"


def _yarn(s: _Settings) -> dict[str, Any] | None:
    """Give YaRN's parameters. MaxText has one mscale, which the softmax scale alone knows, squared."""
    kind = s.text("rope_type")
    if kind == "default":
        return None
    if kind != "yarn" or s.flag("rope_attention_scaling"):
        raise s.error("rope_type", "default, or yarn without rope_attention_scaling", kind)
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
