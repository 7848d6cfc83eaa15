"""Stacks of experts as some families have them on the hub, gate and up in one tensor.

GPT-OSS weaves and turns them, or packs them in two tensors; Mistral 4 has each expert's up under its gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from wvindex.arch.family import Family
from wvindex.arch.keys import EXPERT_MODULES, layer_key
from wvindex.arch.mxfp4 import BLOCK_CODES, CODES, EXPONENTS, MXFP4
from wvindex.arch.naming import place
from wvindex.converting.stored_rows import StoredRows
from wvindex.errors import UnsupportedError
from wvindex.exporting.experts import PackedPart, SideBySide, Woven
from wvindex.exporting.held import Held
from wvindex.exporting.narrowed import Narrowed
from wvindex.exporting.rows import expert_rows
from wvindex.exporting.tensors import OutTensor, require_fitting
from wvindex.formats.encodings import Encoding
from wvindex.sources.base import TensorInfo
from wvindex.transform.combine import Concat
from wvindex.transform.experts import Turned
from wvindex.transform.rows import Rows

_FUSED: Final = {EXPERT_MODULES[0]: EXPERT_MODULES[:2], EXPERT_MODULES[2]: EXPERT_MODULES[2:]}
"""By the stack that a tensor begins with: those that it holds; up comes with gate."""

_NAMES: Final = {EXPERT_MODULES[0]: "mlp.experts.gate_up_proj", EXPERT_MODULES[2]: "mlp.experts.down_proj"}


def stacked(
    held: Held, family: Family, layer: int, module: str, kind: str, storage: Encoding | None
) -> Iterator[OutTensor]:
    """Give the tensors that begin with a stack, each of which must lead back to the stacks that it holds."""
    if module not in _FUSED:
        return
    keys = [layer_key(layer, f"{part}.{kind}") for part in _FUSED[module]]
    parts = [held.arrays[key] for key in keys if key in held.arrays]
    if len(parts) != len(keys) or len({(one.encoding, one.spec.shape) for one in parts}) > 1:
        raise UnsupportedError(
            "the stacks of gate and up are not both there in one encoding and shape; give a dtype",
            tensor=keys[0],
            expected=", ".join(keys),
            found=", ".join(f"{part.spec.key} ({part.encoding.name})" for part in parts),
        )
    name = layer_key(layer, _NAMES[module])
    if kind == "bias":
        tensors = [_biases(f"{name}_bias", parts)]
    elif parts[0].encoding == MXFP4 and storage is None:
        tensors = _packed(name, parts)
    else:
        tensors = [_whole(family, name, parts, storage)]
    seen = TensorInfo(*_as_seen(tensors[0], parts), Path(), 0, 0)
    placed = place(seen, family, held.config, "safetensors")
    if [one.key for one in placed.placements] != keys:
        raise UnsupportedError(
            "this family's checkpoints have no such name that is known",
            tensor=keys[0],
            expected=", ".join(keys),
            found=f"{seen.name}, which means {placed.use}",
        )
    yield from (require_fitting(tensor, held.name) for tensor in tensors)


def _as_seen(tensor: OutTensor, parts: Sequence[StoredRows]) -> tuple[str, tuple[int, ...], Encoding]:
    """Give what a reader takes a tensor for: of packed codes, the matrices that they mean."""
    if not tensor.name.endswith(CODES):
        return tensor.name, tensor.shape, tensor.encoding
    experts, rows, columns = parts[0].spec.shape
    return tensor.name, (experts, len(parts) * rows, columns), MXFP4


def _biases(name: str, parts: Sequence[StoredRows]) -> OutTensor:
    experts, width = parts[0].spec.shape
    step = len(parts)
    columns = tuple(range(number, step * width, step) for number in range(step))
    return OutTensor(name, (experts, step * width), SideBySide(tuple(parts), columns))


def _packed(name: str, parts: Sequence[StoredRows]) -> list[OutTensor]:
    experts, rows, columns = parts[0].spec.shape
    whole, blocks = _woven(parts), columns // MXFP4.block_size
    outer = (experts, len(parts) * rows, blocks)
    return [
        OutTensor(f"{name}{CODES}", (*outer, BLOCK_CODES), PackedPart(whole, "codes")),
        OutTensor(f"{name}{EXPONENTS}", outer, PackedPart(whole, "exponents")),
    ]


def _whole(family: Family, name: str, parts: Sequence[StoredRows], storage: Encoding | None) -> OutTensor:
    experts, rows, columns = parts[0].spec.shape
    plain = [_plain(part, storage) for part in parts]
    height = len(parts) * rows
    if family.interleaved:
        return OutTensor(name, (experts, columns, height), Turned(_woven(plain)))
    matrices = [expert_rows(part, expert) for expert in range(experts) for part in plain]
    stack = plain[0] if len(plain) == 1 else Concat(matrices, stacked=False)
    return OutTensor(name, (experts, height, columns), stack)


def _woven(parts: Sequence[Rows]) -> Rows:
    return Woven(tuple(parts)) if len(parts) > 1 else parts[0]


def _plain(rows: StoredRows, storage: Encoding | None) -> Rows:
    """Give rows that can be turned, decoded where a dtype is given."""
    if rows.encoding.is_plain:
        return rows
    if storage is None:
        raise UnsupportedError(
            "safetensors has no packed types; give a dtype",
            tensor=rows.spec.key,
            expected="bfloat16, float16 or float32",
            found=rows.encoding.name,
        )
    return Narrowed(rows, storage, rows.spec.key)
