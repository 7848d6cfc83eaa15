"""MaxText's settings of a model, as YAML: what its reader makes of them, turned round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.fields import Fields
from wvindex.arch.rope import rope_fields
from wvindex.errors import UnsupportedError, UsageError, WvindexError
from wvindex.exporting.described import described, require_same_model
from wvindex.exporting.held import Held
from wvindex.exporting.maxtext_leaves import SCAN_AXIS
from wvindex.exporting.rope_parameters import FULL
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.maxtext_config import MODEL_TYPES, parsed_config
from wvindex.sources.maxtext_settings import ACTIVATIONS

MAXTEXT_YML: Final = "maxtext.yml"

ROUTED_NAME: Final = "deepseek3-test"
"""A model_name that MaxText knows (``configs/types.py``), and by which it routes as DeepSeek-V3 does.

``layers/moe.py`` takes that routing (groups, weights without the bias) by the name alone, whatever the
settings say.
"""

MODEL_YML: Final = f"models/{ROUTED_NAME}.yml"
"""The named model's settings, which MaxText lays over `MAXTEXT_YML`; it looks beside that first
(``configs/pyconfig.py``), so this stands in the place of its own model of the name."""

_NOT_OF_THE_MODEL: Final = (
    "base_config",
    "model_name",
    "mtp_num_layers",
    "scan_layers",
    "param_scan_axis",
    "fused_mla_lora_proj",
)
"""Settings of the checkpoint: what a model's file says, a command line may not say otherwise."""

BLOCKS: Final[Mapping[str, str]] = {theirs: block for block, theirs in MODEL_TYPES.items()} | {
    "deepseek_v2": "deepseek",
    "kimi_k2": "deepseek",
}
"""MaxText's ``decoder_block`` by Hugging Face's ``model_type``."""

_LLAMA31: Final = "llama3.1"
_NO_WEIGHTS: Final = ("bos_token_id", "eos_token_ids")
"""What the YAML does not say, config.json beside it does, and no weight depends on."""


def block_of(stated: Mapping[str, Any], name: str) -> str:
    """Give the block of a configuration in Hugging Face's form.

    Raises
    ------
    UnsupportedError
        If MaxText has none that wvindex maps.
    """
    model_type = stated.get("model_type")
    block = BLOCKS.get(model_type) if isinstance(model_type, str) else None
    if block is None:
        raise UnsupportedError(
            "a model that wvindex does not map to MaxText's",
            file=name,
            field="model_type",
            expected=", ".join(BLOCKS),
            found=model_type,
        )
    return block


def is_interleaved(stated: Mapping[str, Any], name: str) -> bool:
    """Whether MaxText keeps heads interleaved: those of Llama 3.1."""
    rotary = _rotary(stated, name)
    return stated.get("model_type") == "llama" and _kind(rotary) == "llama3"


def settings_files(
    held: Held,
    stated: Mapping[str, Any],
    tensors: Sequence[OutTensor],
    *,
    scan_layers: bool,
    fused_mla_lora_proj: bool,
) -> dict[str, bytes]:
    """Give MaxText's settings, by files' names; they are read back before they are given.

    Raises
    ------
    UnsupportedError
        If MaxText has no such model, by the field that it cannot say.
    UsageError
        If PyYAML is not installed.
    """
    config, block = held.config, block_of(stated, held.name)
    _require_rows(held, tensors)
    settings = _common(config, block) | {"scan_layers": scan_layers, "param_scan_axis": SCAN_AXIS}
    rotary = _rotary(stated, held.name)
    if block == "deepseek":
        settings |= {"first_num_dense_layers": stated["first_k_dense_replace"]}
        settings |= _deepseek(config, rotary, held.name)
        if _routes_by_name(config):
            settings["model_name"] = ROUTED_NAME
        if fused_mla_lora_proj:  # older MaxTexts do not know the setting
            settings["fused_mla_lora_proj"] = True
    else:
        settings |= _grouped_query(config, block, rotary, tensors)
    data = _dumped(settings)
    try:
        hub = parsed_config(data, Path(held.name) / MAXTEXT_YML).hub
    except WvindexError as error:
        raise UnsupportedError(
            f"MaxText cannot say this of the model: {error}", file=held.name, field=error.field
        ) from error
    require_same_model(described(held.name, "maxtext", hub, tensors), config, besides=_NO_WEIGHTS)
    if "model_name" not in settings:
        return {MAXTEXT_YML: data}
    model = {name: value for name, value in settings.items() if name not in _NOT_OF_THE_MODEL}
    return {MAXTEXT_YML: data, MODEL_YML: _dumped(model)}


def notes_on(config: ModelConfig, *, fused_mla_lora_proj: bool) -> list[str]:
    """Say what MaxText computes otherwise, and what it must know."""
    notes = []
    if config.mla is not None and config.rms_norm_eps != config.mla.norm_eps:
        notes.append(
            f"MaxText's norms between the factors use {config.rms_norm_eps:g}, not {config.mla.norm_eps:g}"
        )
    if _routes_by_name(config):
        notes.append(
            f"model_name is {ROUTED_NAME}, by which MaxText routes as DeepSeek-V3 does; this model's own "
            f"sizes are in {MODEL_YML}, which is to stay beside {MAXTEXT_YML}"
        )
    if fused_mla_lora_proj:
        notes.append("only a MaxText that knows fused_mla_lora_proj takes this: others refuse the setting")
    return notes


def _routes_by_name(config: ModelConfig) -> bool:
    return config.mla is not None and config.moe is not None and config.moe.topk_method == "noaux_tc"


def _require_rows(held: Held, tensors: Sequence[OutTensor]) -> None:
    """Refuse an embedding of more rows than the vocabulary: MaxText's has as many as ``vocab_size``."""
    for tensor in tensors:
        is_vocabulary = tensor.name in ("model.embed_tokens.weight", "lm_head.weight")
        if is_vocabulary and tensor.shape[0] != held.config.vocab_size:
            raise UnsupportedError(
                "MaxText's vocab_size is the rows of its embedding",
                file=held.name,
                tensor=tensor.name,
                field="vocab_size",
                expected=held.config.vocab_size,
                found=tensor.shape[0],
            )


def _common(config: ModelConfig, block: str) -> dict[str, Any]:
    activation = next((ours for ours, theirs in ACTIVATIONS.items() if theirs == config.hidden_act), None)
    layers = config.num_hidden_layers or 0
    return {
        "base_config": "base.yml",  # MaxText's own, by its name: the rest stands over it
        "decoder_block": block,
        "base_emb_dim": config.hidden_size,
        "base_num_query_heads": config.num_attention_heads,
        "base_num_kv_heads": config.num_key_value_heads,
        "base_mlp_dim": config.intermediate_size,
        "base_num_decoder_layers": layers // 2 if block == "gemma2" else layers,
        "mlp_activations": [activation or config.hidden_act, "linear"],
        "vocab_size": config.vocab_size,
        "normalization_layer_epsilon": config.rms_norm_eps,
        "logits_via_embedding": config.tie_word_embeddings,
        "normalize_embedding_logits": block == "gemma2",
        "enable_dropout": False,
    }


def _grouped_query(
    config: ModelConfig, block: str, rotary: Fields, tensors: Sequence[OutTensor]
) -> dict[str, Any]:
    kind = _kind(rotary)
    settings: dict[str, Any] = {
        "head_dim": config.head_dim,
        "rope_max_timescale": _whole(rotary, "rope_theta", 10000),
        "rope_type": _LLAMA31 if kind == "llama3" else "default",
    }
    if kind == "linear":
        settings["rope_linear_scaling_factor"] = rotary.number("factor", 1.0)
    if config.moe is not None:
        settings |= {
            "num_experts": config.moe.n_routed_experts,
            "num_experts_per_tok": config.moe.num_experts_per_tok,
            "base_moe_mlp_dim": config.moe.moe_intermediate_size,
        }
        if block == "qwen3_moe":
            settings["norm_topk_prob"] = config.moe.norm_topk_prob
    if block == "qwen2":
        settings["attention_bias"] = any(one.name.endswith("self_attn.q_proj.bias") for one in tensors)
    if block in ("qwen3", "qwen3_moe"):
        settings["use_qk_norm"] = True
    if block == "gemma2":  # the only block here of which some layers have a window
        settings |= {
            "sliding_window_size": config.sliding_window or 0,
            "attn_logits_soft_cap": config.attn_logit_softcapping or 0.0,
            "final_logits_soft_cap": config.final_logit_softcapping or 0.0,
            "use_post_attn_norm": True,
            "use_post_ffw_norm": True,
        }
    return settings


def _deepseek(config: ModelConfig, rotary: Fields, name: str) -> dict[str, Any]:
    mla = config.mla
    if mla is None:
        return {}
    settings: dict[str, Any] = {
        "attention_type": "mla",
        "q_lora_rank": mla.q_lora_rank or 0,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_nope_head_dim": mla.qk_nope_head_dim,
        "qk_rope_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
        "mtp_num_layers": config.num_nextn_predict_layers,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_max_timescale": _whole(rotary, "rope_theta", 10000),
        "rope_interleave": mla.interleaved_rope,
    }
    return settings | _yarn(rotary, config.max_position_embeddings) | _routing(config, name)


def _yarn(rotary: Fields, length: int | None) -> dict[str, Any]:
    """Give YaRN's settings; unscaled is a factor of 1, for by any other rope_type MaxText rotates halves."""
    if _kind(rotary) == "default":
        return {"rope_type": "yarn", "rope_factor": 1, "original_max_position_embeddings": length}
    return {
        "rope_type": _kind(rotary),
        "rope_factor": _whole(rotary, "factor", 1),
        "original_max_position_embeddings": rotary.integer("original_max_position_embeddings", 4096),
        "beta_fast": _whole(rotary, "beta_fast", 32),
        "beta_slow": _whole(rotary, "beta_slow", 1),
        "mscale": rotary.number("mscale_all_dim", 0.0),
        "rope_truncate": bool(rotary.raw.get("truncate", True)),
        "rope_attention_scaling": False,
    }


def _routing(config: ModelConfig, name: str) -> dict[str, Any]:
    moe = config.moe
    if moe is None:
        return {}
    grouped = moe.n_group > 1 and moe.topk_method != "greedy"
    if grouped and moe.topk_method != "noaux_tc":
        raise UnsupportedError(
            "MaxText has no groups of experts as DeepSeek-V2 chooses them, each by its best expert",
            file=name,
            field="n_group",
            expected=1,
            found=moe.n_group,
        )
    return {
        "base_moe_mlp_dim": moe.moe_intermediate_size,
        "num_experts": moe.n_routed_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "shared_experts": moe.n_shared_experts,
        "routed_scaling_factor": moe.routed_scaling_factor,
        "routed_score_func": moe.scoring_func,
        "routed_bias": moe.topk_method == "noaux_tc",
        "norm_topk_prob": moe.norm_topk_prob,
        "n_routing_groups": moe.n_group if grouped else -1,
        "topk_routing_group": moe.topk_group if grouped else -1,
    }


def _rotary(stated: Mapping[str, Any], name: str) -> Fields:
    return rope_fields(Fields(stated, Path(name)), FULL)


def _whole(rotary: Fields, name: str, default: int) -> int:
    """Give a number that MaxText's settings have as an integer (``configs/types.py``)."""
    value = rotary.number(name, default)
    if value != int(value):
        raise UnsupportedError(
            "MaxText has integers alone for this",
            file=rotary.file,
            field=name,
            expected="an integer",
            found=value,
        )
    return int(value)


def _kind(rotary: Fields) -> str:
    return rotary.text("rope_type")


def _dumped(settings: Mapping[str, Any]) -> bytes:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            "MaxText configurations are written by PyYAML",
            expected="pip install 'wvindex[maxtext]'",
            found="no module named yaml",
        ) from error
    text: str = yaml.safe_dump(dict(settings), sort_keys=False)
    return text.encode()
