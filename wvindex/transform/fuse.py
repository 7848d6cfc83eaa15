"""The down-projections of latent attention as one matrix: rows q_lora_rank | kv_lora_rank | qk_rope_head_dim.

MaxText calls this form ``fused_mla_lora_proj`` (AI-Hypercomputer/maxtext, pull request 3424), SGLang's
parameter is ``fused_qkv_a_proj_with_mqa``, vLLM's ``fused_qkv_a_proj``. Rows move whole, so packed blocks and
FP8 codes stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import FUSED_LATENT, LATENT_DOWN, layer_key, split_layer
from wvindex.errors import TensorLayoutError, UnsupportedError, WvindexError
from wvindex.formats.arrays import ArraySpec, Exactness, Part
from wvindex.formats.encodings import Encoding
from wvindex.transform.assemble import Target, assemble
from wvindex.transform.combine import Concat, JoinedVectors
from wvindex.transform.latent_widths import Norm, require_stated
from wvindex.transform.mla_plan import MlaLayer, Planned, placed_shape
from wvindex.transform.pieces import Contribution
from wvindex.transform.rows import Rows

FUSE: Final = "fuse_qkv_a"
"""Name of the transform."""

_SPLIT: Final = "split"

_NORMS: Final = ("self_attn.q_a_layernorm.weight", "self_attn.kv_a_layernorm.weight")


def no_fused_form(config: ModelConfig) -> WvindexError | None:
    """Give why a model has no fused down-projection; None where it may have one."""
    if config.mla is None:
        return UnsupportedError(
            "only latent attention has down-projections to fuse",
            field="fused_mla_lora_proj",
            expected="a model with kv_lora_rank",
            found=config.model_type,
        )
    if config.mla.q_lora_rank is None:
        return UnsupportedError(
            "this model's queries have no down-projection to fuse",
            field="q_lora_rank",
            expected="a rank",
            found="nothing",
        )
    return None


def widths_of(config: ModelConfig) -> tuple[int, int, int]:
    """Give q_lora_rank, kv_lora_rank and qk_rope_head_dim.

    Raises
    ------
    UnsupportedError
        If the model has no fused form.
    """
    if (refused := no_fused_form(config)) is not None:
        raise refused
    mla = config.mla
    return (mla.q_lora_rank or 0, mla.kv_lora_rank, mla.qk_rope_head_dim) if mla else (0, 0, 0)


def require_divided(context: MlaLayer) -> None:
    """Hold the ranks against the norms where a source's down-projection is divided by them.

    Raises
    ------
    MetadataError
        Naming both tensors, if a norm has another width than the configuration's rank.
    """
    query = context.find(f"{LATENT_DOWN[0]}.weight")
    if query is None or query.placement is None or query.placement.rows is None:
        return
    found = [context.find(role) for role in _NORMS]
    q_norm, kv_norm = (Norm(one.info.name, placed_shape(one)[0]) if one else None for one in found)
    require_stated(query.info.name, (q_norm, kv_norm), widths_of(context.config), query.info.file)


def fused_layer(context: MlaLayer, kept: dict[str, Target]) -> Iterator[Planned]:
    """Give a layer's fused down-projection and its bias, and take their halves out of `kept`.

    Parameters
    ----------
    context : MlaLayer
    kept : dict of str to Target
        The layer's arrays of the kept form, by key.

    Raises
    ------
    MetadataError
        If a half is missing, or has another shape than the configuration says.
    TensorLayoutError
        If one half has a bias and the other has none.
    UnsupportedError
        If the halves are encoded differently, or the first ends within a block of FP8 scales.
    """
    widths = widths_of(context.config)
    rows = (widths[0], widths[1] + widths[2])
    hidden = context.config.hidden_size or 0
    for kind, inner in (("weight", (hidden,)), ("bias", ())):
        roles = [f"{module}.{kind}" for module in LATENT_DOWN]
        if kind == "bias" and not any(role in context.targets for role in roles):
            continue
        _require_both(context, roles)
        fields = ("q_lora_rank", "kv_lora_rank")
        halves = [
            context.get(role, (n, *inner), field) for role, n, field in zip(roles, rows, fields, strict=True)
        ]
        for role in roles:
            del kept[context.key(role)]
        spec, joined = _fused(context, f"{FUSED_LATENT}.{kind}", roles, halves, widths)
        yield spec, joined, 0, halves


def _require_both(context: MlaLayer, roles: Sequence[str]) -> None:
    """Refuse a bias of one half alone; a weight that is missing is named by `MlaLayer.get`."""
    found = [role for role in roles if role in context.targets]
    if len(found) == 1 and found[0].endswith(".bias"):
        info = context.targets[found[0]].contributions[0].info
        raise TensorLayoutError(
            "one down-projection has a bias and the other has none",
            file=info.file,
            tensor=info.name,
            expected=" and ".join(context.key(role) for role in roles),
            found=context.key(found[0]),
        )


def _fused(
    context: MlaLayer,
    role: str,
    roles: Sequence[str],
    halves: Sequence[Contribution],
    widths: Sequence[int],
) -> tuple[ArraySpec, Rows]:
    made = [
        assemble(context.source, context.key(name), Target([half]), *_how(context))
        for name, half in zip(roles, halves, strict=True)
    ]
    specs = [spec for spec, _ in made]
    if halves[0].info is not halves[1].info:
        require_fusible(specs)
        return fused_spec(specs, widths), fused_rows(
            [rows for _, rows in made], vectors=len(specs[0].shape) == 1
        )
    # Fused in the source already: copied whole, also where the first half ends within a scale block.
    whole = Target([Contribution(halves[0].info, None, halves[0].scales)])
    spec, rows = assemble(context.source, context.key(role), whole, *_how(context))
    exactness: Exactness = "cast" if spec.exactness == "cast" else "reordered"
    specs = [
        replace(half, encoding=spec.encoding, exactness=exactness, transforms=(_SPLIT, *spec.transforms))
        for half in specs
    ]
    return fused_spec(specs, widths), rows


def _how(context: MlaLayer) -> tuple[ModelConfig, Family | None, Encoding | None]:
    return context.config, context.family, context.storage


def require_fusible(halves: Sequence[ArraySpec]) -> None:
    """Refuse halves whose bytes cannot stand one under another.

    Raises
    ------
    UnsupportedError
        Naming both, if they are encoded differently or the first ends within a block of FP8 scales.
    """
    first, second = halves
    if first.encoding != second.encoding:
        raise UnsupportedError(
            "the two down-projections are encoded differently, so they are no rows of one matrix",
            tensor=f"{_origin(first)} and {_origin(second)}",
            expected="one encoding; dtype='float32' casts both",
            found=f"{_encoding(first)} and {_encoding(second)}",
        )
    block = first.encoding.scale_block
    if block is not None and first.matrix_rows % block[0]:
        raise UnsupportedError(
            "the query's down-projection ends within a block of FP8 scales, so the other's would not line up",
            tensor=f"{_origin(first)} and {_origin(second)}",
            field="q_lora_rank",
            expected=f"a multiple of {block[0]}; dtype='float32' decodes both",
            found=first.matrix_rows,
        )


def _origin(spec: ArraySpec) -> str:
    return ", ".join(spec.sources) or spec.key


def _encoding(spec: ArraySpec) -> str:
    block = spec.encoding.scale_block
    return spec.encoding.name + (f" with a scale for {block[0]}x{block[1]}" if block else "")


def fused_spec(halves: Sequence[ArraySpec], widths: Sequence[int]) -> ArraySpec:
    """Give what the fused array of two halves is; `wvindex.formats.arrays.part_spec` gives each back.

    Parameters
    ----------
    halves : sequence of ArraySpec
        Of ``q_a_proj`` and ``kv_a_proj_with_mqa`` of one layer: their weights, or their biases.
    widths : sequence of int
        q_lora_rank, kv_lora_rank, qk_rope_head_dim.
    """
    first, second = halves
    layer, role = split_layer(first.key)
    kind = role.rpartition(".")[2]
    key = layer_key(layer or 0, f"{FUSED_LATENT}.{kind}")
    whole = first.sources == second.sources
    later = [name for half in halves for name in half.transforms if name != _SPLIT]
    exactness: Exactness = "bit" if whole else "reordered"
    n, total = first.shape[0], first.shape[0] + second.shape[0]
    return replace(
        first,
        key=key,
        shape=(total, *first.shape[1:]),
        exactness="cast" if "cast" in {half.exactness for half in halves} else exactness,
        sources=tuple(dict.fromkeys((*first.sources, *second.sources))),
        transforms=(*(() if whole else (FUSE,)), *dict.fromkeys(later)),
        aliases=tuple(name for name in first.sources if whole and name != key),
        parts=(_part(first, (0, n)), _part(second, (n, total))),
        widths=tuple(widths),
    )


def _part(spec: ArraySpec, rows: tuple[int, int]) -> Part:
    return Part(
        key=spec.key,
        rows=rows,
        exactness=spec.exactness,
        sources=spec.sources,
        transforms=spec.transforms,
        aliases=spec.aliases,
    )


def fused_rows(halves: Sequence[Rows], *, vectors: bool) -> Rows:
    """Give the rows of both halves, one under another; of biases (`vectors`), their values."""
    return JoinedVectors(tuple(halves)) if vectors else Concat(halves, stacked=False)
