"""Where each source tensor belongs: its standard key, and which rows of that array it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Final, Literal

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.gguf_metadata import ROPE_TENSORS
from wvindex.arch.keys import (
    EXPERT_MODULES,
    FUSED_LATENT_NAMES,
    LATENT_DOWN,
    is_standard,
    layer_key,
    split_layer,
    standard_key,
)
from wvindex.errors import MetadataError
from wvindex.sources.base import TensorInfo

# Multimodal checkpoints put the language model under a prefix of its own; transformers 5 turned it round.
_PREFIXES: Final = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
# A base model saved without its head has no prefix.
_BARE: Final = ("layers.", "embed_tokens.", "norm.")
_EXPERT = re.compile(r"(mlp\.experts)\.(0|[1-9]\d{0,5})\.((?:gate|up|down)_proj\.(?:weight|bias))", re.ASCII)
_GGUF_EXPERT = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(0|[1-9]\d{0,5})\.(weight|bias)", re.ASCII)
_FUSED_EXPERTS: Final = "mlp.experts.gate_up_proj"
_STACKED_DOWN: Final = "mlp.experts.down_proj"


@dataclass(frozen=True)
class Placement:
    """Rows of one standard array that a source tensor (or a part of it) holds.

    Attributes
    ----------
    key : str
    expert : int or None
        Which matrix of a stack; None where the tensor holds them all, or there is no stack.
    rows : (int, int) or None
        The part of the source's matrix rows (of its values, for a vector) that belongs here; None for all.
    permuted_heads : int or None
        Heads whose rows llama.cpp interleaved for rotary embedding; None where the order is the standard one.
    subtract : float
        What the converter added to each value.
    """

    key: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    permuted_heads: int | None = None
    subtract: float = 0.0


@dataclass(frozen=True)
class Place:
    """What becomes of one source tensor: rows of arrays, a part of the configuration, or its own name."""

    placements: tuple[Placement, ...] = ()
    use: Literal["array", "config", "unmapped"] = "array"


_UNMAPPED: Final = Place(use="unmapped")


def place(info: TensorInfo, family: Family | None, config: ModelConfig, source_format: str) -> Place:
    """Find where a tensor belongs.

    Raises
    ------
    MetadataError
        If a fused tensor's rows are not the sum of its parts.
    """
    if family is None:
        return _UNMAPPED
    if source_format == "gguf":
        return _place_gguf(info, family, config)
    key = _hub_key(info, family)
    if key is None or (_is_fused_latent(key) and config.mla is None):
        return _UNMAPPED
    return Place(tuple(_parts(info, key, family, config)))


def _is_fused_latent(key: str) -> bool:
    module, _, kind = split_layer(key)[1].rpartition(".")
    return module in FUSED_LATENT_NAMES and kind in ("weight", "bias")


def _hub_key(info: TensorInfo, family: Family) -> str | None:
    name = info.hub_name
    for prefix, standard in _PREFIXES:
        if name.startswith(prefix):
            name = standard + name.removeprefix(prefix)
    if name.startswith(_BARE):
        name = f"model.{name}"
    layer, role = split_layer(name)
    if layer is None:
        return name if is_standard(name) else None
    for pattern, replacement in _renames(family.name, tuple(family.renames)):
        role = pattern.sub(replacement, role, count=1)
    if role in (_FUSED_EXPERTS, _STACKED_DOWN) and len(info.shape) == 3:
        return layer_key(layer, f"{role}.weight")
    module = role.rpartition(".")[0]
    key = layer_key(layer, role)
    known = is_standard(key) or _is_fused_latent(key) or module in family.splits or _EXPERT.fullmatch(role)
    return key if known else None


def is_part_of_a_weight(info: TensorInfo, family: Family, source_format: str) -> bool:
    """Whether an unmapped tensor is named after a module whose weight is mapped.

    Such are the scales, codes and adapters of quantizations and fine-tunings that are not known here:
    ``q_proj.weight_scale``, ``q_proj.SCB``, ``q_proj.lora_A.weight``, ``blk.0.attn_q.scale``. A weight that
    they belong to is not the model's by itself.
    """
    parts = info.hub_name.split(".")
    for end in range(1, len(parts)):
        weight = replace(info, name=".".join([*parts[:end], "weight"]), rendering=None)
        if source_format == "gguf":
            known = standard_key(weight.name, family.gguf_arch, tuple(family.splits)) is not None
        else:
            known = _hub_key(weight, family) is not None
        if known:
            return True
    return False


@cache
def _renames(family: str, renames: tuple[tuple[str, str], ...]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(rf"\A{pattern}", re.ASCII), replacement) for pattern, replacement in renames)


def _place_gguf(info: TensorInfo, family: Family, config: ModelConfig) -> Place:
    if info.name in ROPE_TENSORS:
        return Place(use="config")
    expert = _GGUF_EXPERT.fullmatch(info.name)
    name = f"{expert[1]}_exps.{expert[3]}" if expert else info.name
    key = standard_key(name, family.gguf_arch, tuple(family.splits))
    if key is None:
        return _UNMAPPED
    if expert:
        return Place((Placement(key, expert=int(expert[2])),))
    return Place(tuple(_parts(info, key, family, config, gguf=True)))


def _parts(
    info: TensorInfo, key: str, family: Family, config: ModelConfig, *, gguf: bool = False
) -> Iterator[Placement]:
    """Divide a tensor among the standard arrays that its rows belong to."""
    layer, role = split_layer(key)
    if layer is None:
        yield Placement(key, subtract=_offset(key, family, gguf))
        return
    expert = _EXPERT.fullmatch(role)
    if expert is not None:
        yield Placement(layer_key(layer, f"{expert[1]}.{expert[3]}"), expert=int(expert[2]))
        return
    module, _, kind = role.rpartition(".")
    targets = LATENT_DOWN if _is_fused_latent(key) else family.splits.get(module)
    if module in (_FUSED_EXPERTS, _STACKED_DOWN) and len(info.shape) == 3:
        _check_orientation(info, module, config)
    if module == _FUSED_EXPERTS:
        targets = EXPERT_MODULES[:2]
    if targets is None:
        permuted = _permuted_heads(module, family, config) if gguf else None
        yield Placement(key, permuted_heads=permuted, subtract=_offset(role, family, gguf))
        return
    for target, rows in zip(targets, _split_rows(info, targets, config), strict=True):
        yield Placement(layer_key(layer, f"{target}.{kind}"), rows=rows)


def _check_orientation(info: TensorInfo, module: str, config: ModelConfig) -> None:
    """Refuse stacked experts that lie transposed, [in, out], as some families' modules hold them."""
    inner = config.moe.moe_intermediate_size if config.moe else None
    expected = config.hidden_size if module == _FUSED_EXPERTS else inner
    if info.shape[-1] != expected:
        raise MetadataError(
            "stacked experts are not [experts, out, in] as the configuration has them",
            file=info.file,
            tensor=info.name,
            field="hidden_size" if module == _FUSED_EXPERTS else "moe_intermediate_size",
            expected=f"{expected} values a row",
            found=info.shape,
        )


def _offset(role: str, family: Family, gguf: bool) -> float:
    return family.gguf_norm_offset if gguf and role.endswith("norm.weight") else 0.0


def _permuted_heads(module: str, family: Family, config: ModelConfig) -> int | None:
    if not family.gguf_permuted:
        return None
    heads = {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }
    return heads.get(module)


def _split_rows(info: TensorInfo, targets: tuple[str, ...], config: ModelConfig) -> list[tuple[int, int]]:
    total = info.shape[-2] if len(info.shape) > 1 else math.prod(info.shape)
    if targets == LATENT_DOWN:
        sizes = _latent_sizes(info, config)
    elif len(targets) == 2:
        moe = config.moe if targets[0] in EXPERT_MODULES else None
        sizes = [(moe.moe_intermediate_size if moe else config.intermediate_size) or 0] * 2
    else:
        heads, kv_heads = config.num_attention_heads or 0, config.num_key_value_heads or 0
        sizes = [n * (config.head_dim or 0) for n in (heads, kv_heads, kv_heads)]
    if sum(sizes) != total:
        raise MetadataError(
            "a fused tensor's rows are not the sum of its parts",
            file=info.file,
            tensor=info.name,
            expected=f"{' + '.join(map(str, sizes))} rows",
            found=total,
        )
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return list(pairwise(starts))


def _latent_sizes(info: TensorInfo, config: ModelConfig) -> list[int]:
    """Give the rows of each down-projection of latent attention."""
    mla = config.mla
    if mla is None or mla.q_lora_rank is None:
        raise MetadataError(
            "a fused down-projection, in a model whose queries have none",
            file=info.file,
            tensor=info.name,
            field="q_lora_rank",
            expected="its rows",
            found="nothing",
        )
    return [mla.q_lora_rank, mla.kv_lora_rank + mla.qk_rope_head_dim]
