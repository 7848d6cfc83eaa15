"""Tensors under GGUF's names, from a store of another format, as llama.cpp's converter has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from wvindex.arch.family import Family
from wvindex.arch.keys import EXPERT_MODULES, fused_gguf_name, gguf_name, layer_key, split_layer
from wvindex.arch.naming import place
from wvindex.converting.stored_rows import StoredRows
from wvindex.errors import UnsupportedError, WvindexError
from wvindex.exporting.held import Held
from wvindex.exporting.narrowed import Narrowed
from wvindex.exporting.restore import Refused
from wvindex.exporting.rope_parameters import rope_tensors
from wvindex.exporting.rows import (
    Bytes,
    OrderedRows,
    OrderedVector,
    in_standard_order,
    joined,
    keys_of,
    plus_one,
    values_of,
)
from wvindex.exporting.tensors import OutTensor, contradiction, require_fitting
from wvindex.formats.encodings import F32, FLOAT_ENCODINGS, Encoding
from wvindex.sources.base import TensorInfo
from wvindex.transform.combine import Cast
from wvindex.transform.mla import q_order
from wvindex.transform.rope import unpermuted_heads
from wvindex.transform.rows import Rows

_KV_B: Final = "self_attn.kv_b_proj"
_MADE: Final = {"absorb_mla", "join_latent"}
_TURNED: Final = "rope_first"
_ROUTER: Final = "mlp.gate"


def gguf_tensors(held: Held, storage: Encoding | None) -> Iterator[OutTensor | Refused]:
    """Give every tensor under the name that llama.cpp knows it by.

    Vectors, biases and routers are widened to float32, which llama.cpp asks of them. Each name is read back,
    as a build would, before it is given.
    """
    family = held.family
    if family is None:
        yield Refused(
            "general.architecture",
            UnsupportedError(
                "GGUF has no names for an architecture that is not known",
                file=held.name,
                field="model_type",
                found=held.config.model_type,
            ),
        )
        return
    if not family.gguf_arch:
        reason = "llama.cpp has no architecture for this family, so GGUF has no names for its tensors"
        yield Refused(
            "general.architecture",
            UnsupportedError(reason, file=held.name, field="model_type", found=held.config.model_type),
        )
        return
    for rows in held.arrays.values():
        if _MADE & set(rows.spec.transforms):
            continue
        try:
            yield from _named(held, family, _decodable(rows, storage))
        except WvindexError as error:
            yield Refused(rows.spec.key, error)
    for name, values in rope_tensors(held).items():
        data = np.asarray(values, np.float32)
        yield OutTensor(name, data.shape, Bytes(data.tobytes(), F32, data.size))


def _decodable(rows: StoredRows, storage: Encoding | None) -> StoredRows:
    """Give codes with scales as the values that they mean, where values are asked for.

    Raises
    ------
    UnsupportedError
        If they are not: GGUF has no such type, and rows cannot move apart from their scales.
    """
    if rows.encoding.scale_block is None:
        return rows
    if storage is None:
        raise UnsupportedError(
            "GGUF has no such type; give a dtype",
            tensor=rows.spec.key,
            expected="float32, float16 or bfloat16",
            found=f"{rows.encoding.name} with scales",
        )
    return StoredRows(replace(rows.spec, encoding=storage), Narrowed(rows, storage, rows.spec.key))


def _named(held: Held, family: Family, rows: StoredRows) -> Iterator[OutTensor]:
    key, shape = rows.spec.key, rows.spec.shape
    layer, role = split_layer(key)
    module, _, kind = role.rpartition(".")
    is_fused = layer is not None and module not in EXPERT_MODULES
    fused = next((name for name, parts in family.splits.items() if is_fused and module in parts), None)
    if fused is not None and layer is not None:
        if module == family.splits[fused][0]:
            yield _fused(held, family, layer, fused, kind)
    elif module == _KV_B and layer is not None and splits_factors(family):
        yield from _factors(held, family, layer, rows)
    else:
        name = gguf_name(key, family.gguf_arch) if rows.spec.mapped else None
        if name is None:
            raise UnsupportedError("GGUF has no name for this tensor", tensor=key, found=family.gguf_arch)
        yield _checked(held, family, name, shape, _as_gguf_has_it(held, family, rows), (key,))


def splits_factors(family: Family) -> bool:
    """Whether llama.cpp wants K's and V's factors of latent attention as tensors of their own."""
    return gguf_name("model.layers.0.self_attn.k_b_proj.weight", family.gguf_arch) is not None


def _fused(held: Held, family: Family, layer: int, module: str, kind: str) -> OutTensor:
    keys = [layer_key(layer, f"{part}.{kind}") for part in family.splits[module]]
    found = [held.arrays[key] for key in keys if key in held.arrays]
    name = fused_gguf_name(layer_key(layer, f"{module}.{kind}"), family.gguf_arch)
    if name is None or len(found) != len(keys) or len({part.encoding for part in found}) > 1:
        raise UnsupportedError(
            "the parts of a fused projection are not all there in one encoding; give a dtype",
            tensor=keys[0],
            expected=", ".join(keys),
            found=", ".join(f"{part.spec.key} ({part.encoding.name})" for part in found),
        )
    shape = (sum(part.spec.shape[0] for part in found), *found[0].spec.shape[1:])
    return _checked(
        held, family, name, shape, _widened(joined(found, vectors=len(shape) < 2), shape), tuple(keys)
    )


def _factors(held: Held, family: Family, layer: int, rows: StoredRows) -> Iterator[OutTensor]:
    """Give K's and V's factors, K's transposed."""
    mla, heads = held.config.mla, held.config.num_attention_heads or 0
    if mla is None:
        raise UnsupportedError("factors of latent attention without its geometry", tensor=rows.spec.key)
    nope, width, rank = mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank
    if rows.n_rows != heads * (nope + width):
        raise contradiction(rows.spec.key, held.name, f"{heads} heads of {nope + width} rows", rows.n_rows)
    for letter, part, shape in (
        ("k", keys_of(rows, heads, nope, nope + width), (heads, rank, nope)),
        ("v", values_of(rows, heads, nope, nope + width), (heads, width, rank)),
    ):
        key = layer_key(layer, f"self_attn.{letter}_b_proj.weight")
        name = gguf_name(key, family.gguf_arch) or key
        yield _checked(held, family, name, shape, part, (key,))


def _as_gguf_has_it(held: Held, family: Family, rows: StoredRows) -> Rows:
    """Give rows as the converter leaves them: Q and K interleaved for some, 1 added to norms for others."""
    key, shape = rows.spec.key, rows.spec.shape
    role = split_layer(key)[1]
    module = role.rpartition(".")[0]
    order = None
    heads = {
        "self_attn.q_proj": held.config.num_attention_heads,
        "self_attn.k_proj": held.config.num_key_value_heads,
    }.get(module)
    if family.gguf_permuted and heads:
        if shape[0] % (2 * heads):
            raise contradiction(key, held.name, f"rows of {heads} heads", shape[0])
        order = unpermuted_heads(shape[0], heads)
    elif _TURNED in rows.spec.transforms and held.config.mla is not None:
        order = q_order(held.config.mla, held.config.num_attention_heads or 0)
    result: Rows = rows
    if order is not None:
        back = in_standard_order(order)
        result = OrderedRows(rows, back) if len(shape) > 1 else OrderedVector(rows, back)
    result = _widened(result, shape, wanted=module == _ROUTER or role.endswith(".bias"))
    return plus_one(result) if family.gguf_norm_offset and role.endswith("norm.weight") else result


def _widened(rows: Rows, shape: tuple[int, ...], *, wanted: bool = False) -> Rows:
    is_float = rows.encoding.name in FLOAT_ENCODINGS and rows.encoding.name not in ("F32", "F64")
    return Cast(rows, F32) if is_float and (wanted or len(shape) < 2) else rows


def _checked(
    held: Held, family: Family, name: str, shape: tuple[int, ...], rows: Rows, keys: tuple[str, ...]
) -> OutTensor:
    """Give a tensor, whose name must lead back to `keys`."""
    placed = place(TensorInfo(name, shape, rows.encoding, Path(), 0, 0), family, held.config, "gguf")
    if tuple(placement.key for placement in placed.placements) != keys:
        raise UnsupportedError(
            "GGUF's name for this tensor means another", tensor=keys[0], expected=keys[0], found=name
        )
    return require_fitting(OutTensor(name, shape, rows), held.name)
