"""A config.json for a model that came from GGUF or from MaxText."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wvindex.arch.config import MLA
from wvindex.arch.gguf_metadata import hub_form, plain_metadata
from wvindex.arch.mxfp4 import CODES
from wvindex.errors import UnsupportedError
from wvindex.exporting.described import as_found, described, require_same_model
from wvindex.exporting.held import Held
from wvindex.exporting.indexer import indexer_sizes
from wvindex.exporting.rope_parameters import FULL, llama3_scaling
from wvindex.exporting.tensors import OutTensor

MAXTEXT: Final = "maxtext"

ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
    "minicpm3": "MiniCPM3ForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
}
"""What transformers calls the models of each family."""

PACKED: Final = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
"""What config.json says of experts in MXFP4, as GPT-OSS's own does."""


def hub_config(held: Held, tensors: Sequence[OutTensor]) -> dict[str, Any]:
    """Give a configuration that means the same model; it is read back before it is given.

    Raises
    ------
    UnsupportedError
        If the family is not known, or config.json cannot say what GGUF's metadata do.
    """
    if held.source_format == MAXTEXT:
        return _stated(held, tensors)
    family = held.family
    if family is None or family.name not in ARCHITECTURES:
        raise UnsupportedError(
            "there is no config.json for an architecture that is not known",
            file=held.name,
            field="general.architecture",
            expected=", ".join(ARCHITECTURES),
            found=held.config.model_type,
        )
    source = as_found(held)
    metadata = plain_metadata(source)
    hub = hub_form(source, metadata) | {"model_type": family.model_types[0]}
    if family.gguf_fields is not None:
        family.gguf_fields(hub, metadata)
    names = {tensor.name for tensor in tensors}
    hub["rope_scaling"] = _scaling(held, hub.get("rope_scaling") or {})
    if held.config.mla is not None:
        _say_latent(held, held.config.mla, hub)
    if held.config.index_topk is not None:
        _say_indexer(held, hub)
    if any(name.endswith(CODES) for name in names):
        hub["quantization_config"] = PACKED
    hub["attention_bias"] = any(name.endswith("self_attn.q_proj.bias") for name in names)
    hub["mlp_bias"] = any(name.endswith("mlp.up_proj.bias") for name in names)
    if held.config.hidden_act is not None:
        hub["hidden_act"] = held.config.hidden_act
    config = {"architectures": [ARCHITECTURES[family.name]], **hub}
    require_same_model(described(held.name, "safetensors", config, tensors), held.config)
    return config


def _say_latent(held: Held, mla: MLA, hub: dict[str, Any]) -> None:
    """Say latent attention as transformers does: a KV head for every query head, no field of our own."""
    hub["num_key_value_heads"] = held.config.num_key_value_heads
    for name in ("attn_temperature_scale", "attn_temperature_length"):
        hub.pop(name, None)
    if held.config.attn_temperature_scale:  # Mistral 4 has this with its rotary parameters, and those apart
        hub["rope_parameters"] = {
            **(hub.pop("rope_scaling") or {}),
            "rope_theta": hub.pop("rope_theta"),
            "partial_rotary_factor": mla.qk_rope_head_dim / (mla.qk_nope_head_dim + mla.qk_rope_head_dim),
            "llama_4_scaling_beta": held.config.attn_temperature_scale,
        }


def _say_indexer(held: Held, hub: dict[str, Any]) -> None:
    """Give the indexer's sizes and the layers that have one, as its tensors are."""
    sizes = indexer_sizes(held)
    hub |= {"index_n_heads": sizes.heads, "index_head_dim": sizes.head_dim}
    if held.family is not None and held.family.name == "glm_moe_dsa":
        layers = range(held.config.num_hidden_layers or 0)
        hub["indexer_types"] = ["full" if layer in sizes.layers else "shared" for layer in layers]


def _stated(held: Held, tensors: Sequence[OutTensor]) -> dict[str, Any]:
    """Give a MaxText checkpoint's configuration, in Hugging Face's form; nothing there is quantized."""
    config = {name: value for name, value in held.source_config.items() if name != "quantization_config"}
    if held.family is not None and held.family.name in ARCHITECTURES:
        config = {"architectures": [ARCHITECTURES[held.family.name]], **config}
    require_same_model(described(held.name, "safetensors", config, tensors), held.config)
    return config


def _scaling(held: Held, stated: dict[str, Any]) -> dict[str, Any] | None:
    """Give ``rope_scaling``; what the converter worked out to factors becomes a formula again."""
    kind = stated.get("rope_type", "default")
    if kind == "default":
        return None
    if kind == "frequency_factors":
        found = held.config.rope[FULL]
        return llama3_scaling(found, held.config.head_dim or found.rotary_dim)
    return stated
