"""Where each source tensor belongs: its standard key, and which rows of that array it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.gguf_metadata import ROPE_TENSORS
from wvindex.arch.keys import (
    EXPERT_MODULES,
    FUSED_LATENT_NAMES,
    IN_A_LAYER,
    LATENT_DOWN,
    STANDARD_ROLES,
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
_MOST_ROLES: Final = 1 << 14
"""Roles that are remembered: those of a layer of a thousand experts, each with its scales, and more."""
_FUSED_EXPERTS: Final = "mlp.experts.gate_up_proj"
_STACKED_DOWN: Final = "mlp.experts.down_proj"


class Placement(NamedTuple):
    """Rows of one standard array that a source tensor (or a part of it) holds.

    Attributes
    ----------
    key : str
    expert : int or None
        Which matrix of a stack; None where the tensor holds them all, or there is no stack.
    rows : (int, int) or None
        The part of the source's matrix rows (of its values, for a vector) that belongs here; None for all.
        Of biases that are stacked, the part of each expert's values.
    step : int
        Of these rows every `step`-th.
    transposed : bool
        Whether the source's matrices lie [in, out], and `rows` are their columns.
    permuted_heads : int or None
        Heads whose rows llama.cpp interleaved for rotary embedding; None where the order is the standard one.
    subtract : float
        What the converter added to each value.
    """

    key: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    step: int = 1
    transposed: bool = False
    permuted_heads: int | None = None
    subtract: float = 0.0


class Place(NamedTuple):
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
    layer, found = _hub_role(info.hub_name, len(info.shape) == 3, family)
    if found is None or (found.is_fused_latent and config.mla is None):
        return _UNMAPPED
    role, expert, _, _ = found
    if layer is not None and expert is not None:
        return Place((Placement(layer_key(layer, role), expert),))
    return Place(tuple(_parts(info, layer, found, family, config)))


class _Role(NamedTuple):
    """What a tensor is in its layer, or outside of any, as standard keys have it.

    Attributes
    ----------
    role : str
        The stack's, of one expert.
    expert : int or None
    is_fused_latent : bool
        Whether it is both down-projections of latent attention.
    sublayer : int
        The layer that it is in, counted from the first that the source's layer stands for.
    """

    role: str
    expert: int | None = None
    is_fused_latent: bool = False
    sublayer: int = 0


def _hub_role(name: str, is_stack: bool, family: Family) -> tuple[int | None, _Role | None]:
    """Give the layer and the role of a Hugging Face name; no role where no rule maps it."""
    if not name.startswith(IN_A_LAYER):
        name = _without_prefix(name)
    layer, role = split_layer(name)
    if layer is None:
        return None, _Role(name) if is_standard(name) else None
    found = _layer_role(role, is_stack, family)
    return layer * family.sublayers + (found.sublayer if found else 0), found


def _without_prefix(name: str) -> str:
    for prefix, standard in _PREFIXES:
        if name.startswith(prefix):
            name = standard + name.removeprefix(prefix)
    return f"model.{name}" if name.startswith(_BARE) else name


@lru_cache(maxsize=_MOST_ROLES)
def _layer_role(role: str, is_stack: bool, family: Family) -> _Role | None:
    """Find a role once, not in every layer: a layer of 256 experts has some 1,600 of them."""
    role, sublayer = _renamed(role, family)
    if role in (_FUSED_EXPERTS, _STACKED_DOWN) and is_stack:
        return _Role(f"{role}.weight", sublayer=sublayer)
    expert = _EXPERT.fullmatch(role)
    if expert is not None:
        return _Role(f"{expert[1]}.{expert[3]}", int(expert[2]), sublayer=sublayer)
    module, _, kind = role.rpartition(".")
    is_fused_latent = module in FUSED_LATENT_NAMES and kind in ("weight", "bias")
    known = role in STANDARD_ROLES or is_fused_latent or module in family.splits
    return _Role(role, None, is_fused_latent, sublayer) if known else None


def _renamed(role: str, family: Family) -> tuple[str, int]:
    """Give the standard name of a role, and which of the layers that its layer stands for it is in."""
    sublayer = 0
    for pattern, replacement in _renames(family):
        match = pattern.match(role)
        if match is not None:
            role = match.expand(replacement) + role[match.end() :]
            sublayer += int(match.groupdict().get("sublayer") or 0)
    return role, sublayer


def is_part_of_a_weight(info: TensorInfo, family: Family, source_format: str) -> bool:
    """Whether an unmapped tensor is named after a module whose weight is mapped.

    Such are the scales, codes and adapters of quantizations and fine-tunings that are not known here:
    ``q_proj.weight_scale``, ``q_proj.SCB``, ``q_proj.lora_A.weight``, ``blk.0.attn_q.scale``. A weight that
    they belong to is not the model's by itself.
    """
    parts = info.hub_name.split(".")
    for end in range(1, len(parts)):
        weight = ".".join([*parts[:end], "weight"])
        if source_format == "gguf":
            known = standard_key(weight, family.gguf_arch, _fused(family)) is not None
        else:
            known = _hub_role(weight, len(info.shape) == 3, family)[1] is not None
        if known:
            return True
    return False


@cache
def _renames(family: Family) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(rf"\A{pattern}", re.ASCII), replacement) for pattern, replacement in family.renames
    )


@cache
def _fused(family: Family) -> tuple[str, ...]:
    """Give the modules that hold several projections; any of llama.cpp's files may have such experts."""
    return tuple(dict.fromkeys((*family.splits, _FUSED_EXPERTS)))


def _place_gguf(info: TensorInfo, family: Family, config: ModelConfig) -> Place:
    if info.name in ROPE_TENSORS:
        return Place(use="config")
    expert = _GGUF_EXPERT.fullmatch(info.name)
    name = f"{expert[1]}_exps.{expert[3]}" if expert else info.name
    key = standard_key(name, family.gguf_arch, _fused(family))
    if key is None:
        return _UNMAPPED
    if expert:
        return Place((Placement(key, expert=int(expert[2])),))
    layer, role = split_layer(key)
    return Place(tuple(_parts(info, layer, _Role(role), family, config, gguf=True)))


def _parts(
    info: TensorInfo,
    layer: int | None,
    found: _Role,
    family: Family,
    config: ModelConfig,
    *,
    gguf: bool = False,
) -> Iterator[Placement]:
    """Divide a tensor among the standard arrays that its rows belong to."""
    role = found.role
    if layer is None:
        yield Placement(role, subtract=_offset(role, family, gguf))
        return
    module, _, kind = role.rpartition(".")
    targets = LATENT_DOWN if found.is_fused_latent else family.splits.get(module)
    is_stack = module in (_FUSED_EXPERTS, _STACKED_DOWN) and len(info.shape) == 3
    transposed = is_stack and not gguf and family.transposed_experts and info.encoding.is_plain
    if is_stack:
        _check_orientation(info, module, config, transposed=transposed)
    if module == _FUSED_EXPERTS:
        targets = EXPERT_MODULES[:2]
    if targets is None:
        permuted = _permuted_heads(module, family, config) if gguf else None
        yield Placement(
            layer_key(layer, role),
            permuted_heads=permuted,
            subtract=_offset(role, family, gguf),
            transposed=transposed,
        )
        return
    values_apart = transposed or (module == _FUSED_EXPERTS and kind == "bias" and len(info.shape) == 2)
    split = _split_rows(info, targets, config, axis=-1 if values_apart else -2)
    step = len(targets) if family.interleaved and not gguf else 1
    if step > 1:
        split = [(first, split[-1][1]) for first in range(step)]
    for target, rows in zip(targets, split, strict=True):
        yield Placement(layer_key(layer, f"{target}.{kind}"), rows=rows, step=step, transposed=transposed)


def _check_orientation(info: TensorInfo, module: str, config: ModelConfig, *, transposed: bool) -> None:
    """Refuse stacked experts that lie the other way than their family's do."""
    inner = config.moe.moe_intermediate_size if config.moe else None
    expected = config.hidden_size if module == _FUSED_EXPERTS else inner
    if info.shape[-2 if transposed else -1] != expected:
        form = "[experts, in, out]" if transposed else "[experts, out, in]"
        raise MetadataError(
            f"stacked experts are not {form} as the configuration has them",
            file=info.file,
            tensor=info.name,
            field="hidden_size" if module == _FUSED_EXPERTS else "moe_intermediate_size",
            expected=f"{expected} values a {'column' if transposed else 'row'}",
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


def _split_rows(
    info: TensorInfo, targets: tuple[str, ...], config: ModelConfig, *, axis: int
) -> list[tuple[int, int]]:
    total = info.shape[axis] if len(info.shape) > 1 else math.prod(info.shape)
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
