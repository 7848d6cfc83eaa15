"""Which family a checkpoint is of, and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wvindex.arch.agreement import require_agreement, require_vocabulary
from wvindex.arch.config import ModelConfig
from wvindex.arch.families import (
    deepseek_v2,
    deepseek_v3,
    deepseek_v32,
    gemma2,
    gemma3,
    glm4_moe_lite,
    glm_moe_dsa,
    gpt_oss,
    llama,
    longcat_flash,
    minicpm3,
    mistral4,
    mixtral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    youtu,
)
from wvindex.arch.family import Family, unknown_config
from wvindex.arch.fields import Fields
from wvindex.arch.gguf_metadata import FIELDS, hub_form, plain_metadata
from wvindex.arch.hub_defaults import hub_defaults
from wvindex.arch.validity import first_fault
from wvindex.errors import MetadataError
from wvindex.sources.base import Source

FAMILIES: Final[tuple[Family, ...]] = tuple(
    module.FAMILY
    for module in (
        llama,
        mixtral,
        qwen2,
        qwen3,
        qwen3_moe,
        gemma2,
        gemma3,
        phi3,
        deepseek_v2,
        deepseek_v3,
        deepseek_v32,
        glm4_moe_lite,
        glm_moe_dsa,
        longcat_flash,
        minicpm3,
        mistral4,
        youtu,
        gpt_oss,
    )
)
"""Every known family; the tenth-and-next is one file and one line here."""


def identify(source: Source) -> tuple[Family | None, ModelConfig]:
    """Find a checkpoint's family and read its configuration.

    Returns
    -------
    family : Family or None
        None where it is not known: the tensors then keep their names.
    config : ModelConfig

    Raises
    ------
    MetadataError
        If a known family's configuration lacks a field or contradicts itself or the tensors, or any
        configuration says what no model can have.
    """
    family, config = _identify_gguf(source) if source.format == "gguf" else _identify_hub(source)
    fault = first_fault(config)
    if fault is not None:
        raise MetadataError(
            "model configuration is not usable",
            file=source.path,
            field=fault.field,
            expected=fault.expected,
            found=fault.found,
        )
    return family, config


def is_known(model_type: str) -> bool:
    """Whether there is a family of this name, in Hugging Face's spelling or as a GGUF architecture."""
    return any(model_type in family.model_types or model_type == family.gguf_arch for family in FAMILIES)


def _identify_hub(source: Source) -> tuple[Family | None, ModelConfig]:
    fields = Fields(source.config(), source.path)
    text = fields.child("text_config")
    if text is not None:  # a multimodal checkpoint: its language model is described apart
        shared = {name: value for name, value in fields.raw.items() if name.endswith("_token_id")}
        fields = text.with_defaults(shared | {"model_type": fields.text("model_type", "unknown")})
    model_type = fields.text("model_type", "unknown")
    fields = fields.where_absent(hub_defaults(model_type, nested=text is not None))
    family = next((family for family in FAMILIES if model_type in family.model_types), None)
    if family is None:
        return None, unknown_config(fields)
    config = family.config(fields)
    require_agreement(source, fields, config)
    return family, config


def _identify_gguf(source: Source) -> tuple[Family | None, ModelConfig]:
    metadata = plain_metadata(source)
    arch = metadata.get("general.architecture")
    is_model = any(info.name == "token_embd.weight" for info in source.tensors())  # and no adapter
    family = next((f for f in FAMILIES if f.gguf_arch == arch and f.gguf_claims(metadata)), None)
    family = family if is_model else None
    if family is None:
        return None, unknown_config(Fields(_unknown_fields(metadata), source.path))
    hub = hub_form(source, metadata) | {"model_type": family.model_types[0]}
    if family.gguf_fields is not None:
        family.gguf_fields(hub, metadata)
    fields = Fields(hub, source.path)
    config = family.config(fields)
    require_agreement(source, fields, config)
    require_vocabulary(source, metadata.get("vocab_size"))
    return family, config


def _unknown_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Give the hub form of an architecture that is not known, as far as it goes."""
    arch = metadata.get("general.architecture")
    stated = {field: metadata[key] for key, fields in FIELDS.items() if key in metadata for field in fields}
    return stated | {
        "model_type": arch if isinstance(arch, str) else "unknown",
        "num_hidden_layers": metadata.get("block_count"),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
