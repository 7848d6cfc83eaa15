"""Tensors under Hugging Face's names, from a store of a GGUF file: unstacked, fused, joined by family."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wvindex.arch.family import Family
from wvindex.arch.keys import EXPERT_MODULES, layer_key, split_layer
from wvindex.arch.naming import Placement, place
from wvindex.converting.stored_rows import StoredRows
from wvindex.errors import UnsupportedError, WvindexError
from wvindex.exporting.held import Held
from wvindex.exporting.hub_stacks import stacked
from wvindex.exporting.restore import Refused
from wvindex.exporting.rows import OrderedRows, OrderedVector, Section, expert_rows, in_standard_order, joined
from wvindex.exporting.tensors import OutTensor, contradiction, packed_refusal, require_fitting
from wvindex.formats.encodings import F32, Encoding
from wvindex.sources.base import TensorInfo
from wvindex.transform.combine import Cast, Concat
from wvindex.transform.mla import q_order
from wvindex.transform.product import TransposedRows
from wvindex.transform.rows import Rows

_K_B, _V_B, _KV_B = "self_attn.k_b_proj", "self_attn.v_b_proj", "self_attn.kv_b_proj"
_MADE: Final = {"absorb_mla", "join_latent"}
_TURNED: Final = "rope_first"


def hub_tensors(held: Held, storage: Encoding | None) -> Iterator[OutTensor | Refused]:
    """Give every tensor under the name that the hub's checkpoints of its family have.

    Each name is read back, as a build would, before it is given: one that leads elsewhere is refused.
    """
    family = held.family
    if family is None:
        yield from (OutTensor(rows.spec.key, rows.spec.shape, rows) for rows in held.arrays.values())
        return
    for rows in held.arrays.values():
        if _MADE & set(rows.spec.transforms):
            continue
        try:
            yield from _named(held, family, rows, storage)
        except WvindexError as error:
            yield Refused(rows.spec.key, error)


def _named(held: Held, family: Family, rows: StoredRows, storage: Encoding | None) -> Iterator[OutTensor]:
    key, shape = rows.spec.key, rows.spec.shape
    layer, role = split_layer(key)
    module, _, kind = role.rpartition(".")
    if layer is None or not rows.spec.mapped:
        yield OutTensor(key, shape, rows)
        return
    fused = next((name for name, parts in family.splits.items() if module in parts), None)
    if module in EXPERT_MODULES and family.stacked_experts:
        yield from stacked(held, family, layer, module, kind, storage)
    elif module in EXPERT_MODULES:
        for expert in range(shape[0]):
            name = f"mlp.experts.{expert}.{module.rpartition('.')[2]}.{kind}"
            part = expert_rows(rows, expert) if len(shape) > 2 else Section(rows, expert, expert + 1)
            yield _checked(held, family, layer, name, shape[1:], part, Placement(key, expert=expert))
    elif fused is not None:
        if module == family.splits[fused][0]:
            yield _fused(held, family, layer, fused, kind)
    elif module == _K_B:
        whole = _joined_factors(held, layer, storage)
        role = split_layer(whole.name)[1]
        yield _checked(held, family, layer, role, whole.shape, whole.rows, Placement(whole.name))
    elif module != _V_B:
        yield _checked(held, family, layer, role, shape, _in_order(held, rows), Placement(key))


def standard_tensors(held: Held, storage: Encoding | None) -> Iterator[OutTensor | Refused]:
    """Give every array under its standard key, experts in stacks, in Hugging Face's order of rows.

    Of latent attention the factors are given, K's and V's in one; no dense arrays.
    """
    for rows in held.arrays.values():
        key, shape = rows.spec.key, rows.spec.shape
        layer, role = split_layer(key)
        module = role.rpartition(".")[0]
        is_factor = layer is not None and all(
            layer_key(layer, f"{name}.weight") in held.arrays for name in (_K_B, _V_B)
        )
        if _MADE & set(rows.spec.transforms) or (is_factor and module == _V_B):
            continue
        try:
            if is_factor and module == _K_B and layer is not None:
                yield _joined_factors(held, layer, storage)
            else:
                yield OutTensor(key, shape, _in_order(held, rows))
        except WvindexError as error:
            yield Refused(key, error)


def _in_order(held: Held, rows: StoredRows) -> Rows:
    if _TURNED not in rows.spec.transforms or held.config.mla is None:
        return rows
    back = in_standard_order(q_order(held.config.mla, held.config.num_attention_heads or 0))
    return OrderedRows(rows, back) if len(rows.spec.shape) > 1 else OrderedVector(rows, back)


def _fused(held: Held, family: Family, layer: int, module: str, kind: str) -> OutTensor:
    parts = [held.arrays.get(layer_key(layer, f"{part}.{kind}")) for part in family.splits[module]]
    found = [part for part in parts if part is not None]
    name = layer_key(layer, f"{module}.{kind}")
    if len(found) != len(parts) or len({part.encoding for part in found}) > 1:
        raise UnsupportedError(
            "the parts of a fused projection are not all there in one encoding; give a dtype",
            tensor=name,
            expected=", ".join(family.splits[module]),
            found=", ".join(f"{part.spec.key} ({part.encoding.name})" for part in found),
        )
    shape = (sum(part.spec.shape[0] for part in found), *found[0].spec.shape[1:])
    return OutTensor(name, shape, joined(found, vectors=len(shape) < 2))


def _joined_factors(held: Held, layer: int, storage: Encoding | None) -> OutTensor:
    """Join K's and V's factors, whose packed blocks run along other rows: they are decoded."""
    keys, values = (held.arrays[layer_key(layer, f"{name}.weight")] for name in (_K_B, _V_B))
    mla, heads = held.config.mla, held.config.num_attention_heads or 0
    nope, width, rank = (mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank) if mla else (0, 0, 0)
    if (keys.spec.shape, values.spec.shape) != ((heads, rank, nope), (heads, width, rank)):
        found = f"{keys.spec.shape} and {values.spec.shape}"
        raise contradiction(keys.spec.key, held.name, f"{heads} heads of {nope} and {width} rows", found)
    if storage is None and not (keys.encoding.is_plain and values.encoding.is_plain):
        raise packed_refusal(keys.spec.key, keys.encoding)
    turned = TransposedRows(keys)
    parts: list[Rows] = []
    for head in range(heads):
        parts.append(Section(turned, head * nope, (head + 1) * nope))
        parts.append(Cast(Section(values, head * width, (head + 1) * width), F32))
    key = layer_key(layer, f"{_KV_B}.weight")
    shape = (heads * (nope + width), rank)
    rows = Concat(parts, stacked=False)
    return require_fitting(OutTensor(key, shape, rows), held.name)


def _checked(
    held: Held, family: Family, layer: int, role: str, shape: tuple[int, ...], rows: Rows, home: Placement
) -> OutTensor:
    """Give a tensor under the family's name for a role, which must lead back to `home`."""
    for pattern, replacement in family.hub_names:
        role = re.sub(rf"\A{pattern}", replacement, role, count=1, flags=re.ASCII)
    name = layer_key(layer, role)
    info = TensorInfo(name, shape, rows.encoding, Path(), 0, 0)
    placed = place(info, family, held.config, "safetensors")
    if placed.placements != (home,):
        raise UnsupportedError(
            "this family's checkpoints have no such name that is known",
            tensor=home.key,
            expected=home.key,
            found=f"{name}, which means {placed.use}",
        )
    return require_fitting(OutTensor(name, shape, rows), held.name)
