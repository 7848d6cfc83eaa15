"""GGUF metadata turned into the hub's form of a configuration, so that one reader serves both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from wvindex.arch.family import HubForm
from wvindex.errors import MetadataError
from wvindex.formats.encodings import F32
from wvindex.limits import MAX_ROTARY_DIM
from wvindex.sources.base import Source

# GGUF keys without the architecture's prefix, as gguf.constants.Keys spells them, and the fields of
# config.json that say the same. Families differ in what they call the number of experts.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "rope.freq_base": ("rope_theta",),
    "vocab_size": ("vocab_size",),
    "nextn_predict_layers": ("num_nextn_predict_layers",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
}

ROPE_SCALING: Final[Mapping[str, str]] = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}

ROPE_TENSORS: Final[Mapping[str, str]] = {
    "rope_freqs.weight": "frequency_factors",
    "rope_factors_short.weight": "short_factor",
    "rope_factors_long.weight": "long_factor",
}
"""Tensors that hold rotary parameters: they become part of the configuration."""


def plain_metadata(source: Source) -> dict[str, Any]:
    """Give GGUF metadata without the architecture's prefix, and what only the tensors tell.

    Floats are float32 in the file; each becomes the shortest decimal that rounds to it, so that an
    epsilon of 1e-6 is the number that config.json has.
    """
    raw = source.config()
    prefix = f"{raw.get('general.architecture')}."
    metadata = {key.removeprefix(prefix): _shortest(value) for key, value in raw.items()}
    names = {info.name for info in source.tensors()}
    metadata["has_correction_bias"] = any(name.endswith(".exp_probs_b.bias") for name in names)
    metadata["has_output"] = "output.weight" in names
    return metadata


def hub_form(source: Source, metadata: Mapping[str, Any]) -> HubForm:
    """Give the configuration that config.json would hold, without what only a family knows."""
    hub: HubForm = {}
    for key, fields in FIELDS.items():
        if key in metadata:
            hub |= dict.fromkeys(fields, _uniform(metadata[key], key, source.path))
    hub["num_hidden_layers"] = _layers(metadata, source.path)
    hub["tie_word_embeddings"] = not metadata["has_output"]
    hub["bos_token_id"] = metadata.get("tokenizer.ggml.bos_token_id")
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    hub["eos_token_id"] = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    for info in source.tensors():
        if info.name == "token_embd.weight" and info.shape:
            hub["vocab_size"] = info.shape[0]
    _add_rope(hub, source, metadata)
    return {name: value for name, value in hub.items() if value is not None}


def _add_rope(hub: HubForm, source: Source, metadata: Mapping[str, Any]) -> None:
    scaling: dict[str, Any] = {
        name: metadata[key] for key, name in ROPE_SCALING.items() if metadata.get(key) is not None
    }
    tensors = rope_tensors(source)
    if "frequency_factors" in tensors:
        scaling["rope_type"] = "frequency_factors"
    elif "short_factor" in tensors:
        scaling["rope_type"] = "longrope"
    else:
        scaling["rope_type"] = _scaling_type(scaling, metadata)
    if scaling["rope_type"] in ("longrope", "yarn") and "context_length" in metadata:
        # as llama.cpp takes it where the file does not say
        scaling.setdefault("original_max_position_embeddings", metadata["context_length"])
    hub["rope_scaling"] = scaling | tensors
    rotary, width = metadata.get("rope.dimension_count"), hub.get("head_dim")
    if isinstance(hub.get("hidden_size"), int) and isinstance(hub.get("num_attention_heads"), int):
        width = width or hub["hidden_size"] // max(hub["num_attention_heads"], 1)
    if isinstance(rotary, int) and isinstance(width, int) and width:
        hub["partial_rotary_factor"] = rotary / width


def _scaling_type(scaling: dict[str, Any], metadata: Mapping[str, Any]) -> Any:
    """Give the kind of scaling, as llama.cpp has it: a factor alone is linear, under either name."""
    if not scaling.get("factor") and metadata.get("rope.scale_linear"):
        scaling["factor"] = metadata["rope.scale_linear"]
    kind = metadata.get("rope.scaling.type", "linear")
    return "default" if kind == "none" or (kind == "linear" and not scaling.get("factor")) else kind


def rope_tensors(source: Source) -> dict[str, list[float]]:
    """Read the rotary parameters that GGUF stores as small F32 tensors."""
    found = {}
    for info in source.tensors():
        field = ROPE_TENSORS.get(info.name)
        if field is None:
            continue
        if info.encoding != F32 or len(info.shape) != 1 or info.shape[0] > MAX_ROTARY_DIM:
            raise MetadataError(
                "rotary factors are not a short vector of float32",
                file=info.file,
                tensor=info.name,
                expected=f"F32, one dimension, at most {MAX_ROTARY_DIM}",
                found=f"{info.encoding.name}, {info.shape}",
            )
        values = np.frombuffer(source.read(info, 0, info.nbytes), dtype="<f4")
        found[field] = [float(value) for value in values]
    return found


def _layers(metadata: Mapping[str, Any], file: Path) -> int:
    blocks, extra = metadata.get("block_count"), metadata.get("nextn_predict_layers", 0)
    if not isinstance(blocks, int) or not isinstance(extra, int) or extra > blocks:
        raise MetadataError(
            "the number of layers is missing or impossible",
            file=file,
            field="block_count",
            expected="an integer, at least nextn_predict_layers",
            found="nothing" if blocks is None else blocks,
        )
    return blocks - extra


def _uniform(value: Any, key: str, file: Path) -> Any:
    """Give a scalar; some keys may hold one value a layer, which the known families never vary."""
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise MetadataError(
            "a value that differs from layer to layer is not known for this family",
            file=file,
            field=key,
            expected="one value for all layers",
            found=value,
        )
    return value[0]


def _shortest(value: Any) -> Any:
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            single = np.float32(value)
        return float(str(single)) if float(single) == value else value
    return [_shortest(item) for item in value] if isinstance(value, list) else value
