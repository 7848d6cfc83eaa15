"""The source's own tensors made again from a store: every transform of a build undone, name by name.

The ledger says what there was. Where a build put each tensor is asked of `wvindex.arch.naming.place`, as the
build did; what it did on the way is turned round: rows of Q and K interleaved again, experts taken out of
their stacks, parts fused, 1 added to norms, K's and V's factors split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wvindex.arch.keys import EXPERT_MODULES, split_layer
from wvindex.arch.mxfp4 import CODES, EXPONENTS, MXFP4
from wvindex.arch.naming import Placement, place
from wvindex.errors import UnsupportedError, WvindexError
from wvindex.exporting.experts import PackedPart, SideBySide, Woven
from wvindex.exporting.held import Held
from wvindex.exporting.rows import (
    Bytes,
    OrderedRows,
    OrderedVector,
    ScaleRows,
    expert_rows,
    in_standard_order,
    joined,
    keys_of,
    plus_one,
    values_of,
)
from wvindex.exporting.tensors import OutTensor, contradiction, require_fitting
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.ledger import IN_CONFIG, SCALES, LedgerEntry
from wvindex.sources.base import TensorInfo
from wvindex.sources.gguf_kept import KeptGGUF
from wvindex.transform.combine import Concat
from wvindex.transform.experts import Turned
from wvindex.transform.mla import q_order
from wvindex.transform.rope import unpermuted_heads
from wvindex.transform.rows import Rows
from wvindex.transform.scales import SUFFIX

_KV_B, _K_B, _V_B = "self_attn.kv_b_proj", "self_attn.k_b_proj", "self_attn.v_b_proj"
_JOINED = "join_kv_b"
_TURNED = "rope_first"


@dataclass(frozen=True)
class Refused:
    """A tensor that cannot be exported, and why."""

    tensor: str
    error: WvindexError


def restored(held: Held) -> Iterator[OutTensor | Refused]:
    """Give every tensor of the source again, in its order.

    A tensor has the encoding that the store gives it: the source's, unless the build cast it. Scales of codes
    that the build decoded are left out.
    """
    restorer = _Restorer(held)
    for entry in held.ledger:
        try:
            tensor = restorer.tensor(entry)
        except WvindexError as error:
            yield Refused(entry.tensor, error)
            continue
        if tensor is not None:
            yield tensor


class _Restorer:
    """Makes one tensor after another."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._lines = {line.tensor: line for line in held.ledger}

    @cached_property
    def _kept(self) -> KeptGGUF | None:
        return self._held.gguf()

    def _packed_part(self, entry: LedgerEntry) -> Rows | None:
        """Give codes or exponents of experts in MXFP4; None for any other tensor."""
        family = self._held.family
        if family is None or not family.mxfp4_experts or self._held.source_format == "gguf":
            return None
        is_codes = entry.tensor.endswith(CODES) and entry.encoding == "U8"
        name = entry.tensor if is_codes else entry.tensor.removesuffix(EXPONENTS) + CODES
        line = self._lines.get(name)
        if line is None or not (is_codes or entry.reason == SCALES) or len(line.shape) != 4:
            return None
        *outer, blocks, _ = line.shape
        info = info_of(line)._replace(shape=(*outer, blocks * MXFP4.block_size), encoding=MXFP4)
        rows = _weights(self._held, info)
        if rows.encoding != MXFP4:
            raise UnsupportedError(
                "the store has these experts decoded, and nothing here packs them again",
                file=self._held.name,
                tensor=entry.tensor,
                expected=MXFP4.name,
                found=rows.encoding.name,
            )
        return PackedPart(rows, "codes" if is_codes else "exponents")

    def tensor(self, entry: LedgerEntry) -> OutTensor | None:
        """Give a tensor by its line in the ledger; None for scales whose codes are decoded."""
        owner = entry.tensor.removesuffix(SUFFIX) if entry.reason == SCALES else ""
        rows: Rows | None = self._packed_part(entry)
        if rows is not None:
            owner = ""
        elif entry.reason == IN_CONFIG:
            rows = self._kept_rows(entry)
        elif owner:
            rows = self._scales(entry, owner)
        else:
            rows = _weights(self._held, info_of(entry))
        if rows is None:
            return None
        return require_fitting(OutTensor(entry.tensor, entry.shape, rows, entry.file, owner), self._held.name)

    def _kept_rows(self, entry: LedgerEntry) -> Rows:
        tensor = self._kept.tensors.get(entry.tensor) if self._kept is not None else None
        if tensor is None:
            raise UnsupportedError(
                "this tensor became part of the configuration, and the store did not keep it: build it again",
                file=self._held.name,
                tensor=entry.tensor,
            )
        return Bytes(tensor.data, tensor.encoding, tensor.shape[-1])

    def _scales(self, entry: LedgerEntry, owner: str) -> Rows | None:
        line = self._lines.get(owner)
        if line is None:
            raise UnsupportedError("scales without their codes", file=self._held.name, tensor=entry.tensor)
        codes = _weights(self._held, info_of(line))
        return ScaleRows(codes, info_of(entry).encoding) if codes.encoding.scale_block else None


def info_of(entry: LedgerEntry, nbytes: int = 0) -> TensorInfo:
    """Give what the ledger says of a tensor, as its source said it.

    Raises
    ------
    UnsupportedError
        If its encoding is not known.
    """
    encoding = ENCODINGS.get(entry.encoding)
    if encoding is None:
        raise UnsupportedError("an encoding that is not known", tensor=entry.tensor, found=entry.encoding)
    return TensorInfo(entry.tensor, entry.shape, encoding, Path(entry.file), 0, nbytes)


def _weights(held: Held, info: TensorInfo) -> Rows:
    """Give the rows of one of the source's tensors."""
    placed = place(info, held.family, held.config, held.source_format)
    if placed.use == "unmapped":
        return _array(held, info.name, info.name)
    placements = placed.placements
    if any(one.transposed or one.step > 1 for one in placements) or (
        len(placements) > 1 and (len(info.shape) == 3 or _is_stack(placements[0]))
    ):
        return _stacks(held, placements, info)
    parts = [_placed(held, placement, info) for placement in placements]
    _require_one_encoding(parts, info)
    return joined(parts, vectors=len(info.shape) < 2)


def _is_stack(placement: Placement) -> bool:
    """Whether a placement is in biases of experts, an expert a row."""
    module = split_layer(placement.key)[1].rpartition(".")[0]
    return module in EXPERT_MODULES and placement.key.endswith(".bias")


def _stacks(held: Held, placements: Sequence[Placement], info: TensorInfo) -> Rows:
    """Give stacks of experts as one tensor: one under another, woven, turned, or side by side."""
    stacks = [_array(held, placement.key, info.name) for placement in placements]
    _require_one_encoding(stacks, info)
    first = placements[0]
    if _is_stack(first) and first.rows is not None:
        columns = tuple(range(*one.rows, one.step) for one in placements if one.rows is not None)
        if [len(one) for one in columns] != [stack.row_values for stack in stacks]:
            raise contradiction(info.name, held.name, [len(one) for one in columns], info.shape)
        return SideBySide(tuple(stacks), columns)
    whole: Rows
    if first.step > 1:
        if len({stack.n_rows for stack in stacks}) > 1 or len(stacks) != first.step:
            raise contradiction(info.name, held.name, f"{first.step} stacks of one size", len(stacks))
        whole = Woven(tuple(stacks))
    elif len(stacks) > 1:
        parts = [_expert(held, stack, expert, info) for expert in range(info.shape[0]) for stack in stacks]
        whole = Concat(parts, stacked=False)
    else:
        whole = stacks[0]
    if not first.transposed:
        return whole
    if not whole.encoding.is_plain:
        raise UnsupportedError(
            "packed rows cannot be turned; give a dtype", tensor=info.name, found=whole.encoding.name
        )
    return Turned(whole)


def _expert(held: Held, stack: Rows, expert: int, info: TensorInfo) -> Rows:
    """Give one matrix of a stack."""
    if (expert + 1) * stack.matrix_rows > stack.n_rows:
        raise contradiction(info.name, held.name, f"a stack of more than {expert}", stack.n_rows)
    return expert_rows(stack, expert)


def _require_one_encoding(parts: list[Rows], info: TensorInfo) -> None:
    encodings = {part.encoding.name: part for part in parts}
    if len({part.encoding for part in parts}) > 1:
        raise UnsupportedError(
            "the parts of this tensor are stored in different encodings; give a dtype",
            tensor=info.name,
            expected=info.encoding.name,
            found=", ".join(encodings),
        )


def _placed(held: Held, placement: Placement, info: TensorInfo) -> Rows:
    """Give what an array holds of a tensor, as the tensor had it."""
    split = _split_factor(held, placement.key)
    if split is not None:
        return split
    rows = _array(held, placement.key, info.name)
    if placement.expert is not None:
        return _expert(held, rows, placement.expert, info)
    order = None
    n_rows = rows.row_values if len(info.shape) < 2 else rows.n_rows
    if placement.permuted_heads:
        if n_rows % (2 * placement.permuted_heads):
            raise contradiction(info.name, held.name, f"rows of {placement.permuted_heads} heads", n_rows)
        order = unpermuted_heads(n_rows, placement.permuted_heads)
    elif _TURNED in held.arrays[placement.key].spec.transforms and held.config.mla is not None:
        order = q_order(held.config.mla, held.config.num_attention_heads or 0)
    if order is not None:
        if order.size != n_rows:
            raise contradiction(info.name, held.name, f"{order.size} rows", n_rows)
        back = in_standard_order(order)
        return OrderedVector(rows, back) if len(info.shape) < 2 else OrderedRows(rows, back)
    return plus_one(rows) if placement.subtract else rows


def _split_factor(held: Held, key: str) -> Rows | None:
    """Give K's or V's factor of latent attention, where the store has joined the two."""
    layer, role = split_layer(key)
    module, mla = role.rpartition(".")[0], held.config.mla
    whole = held.arrays.get(f"{key[: len(key) - len(role)]}{_KV_B}.weight")
    if layer is None or module not in (_K_B, _V_B) or key in held.arrays or whole is None or mla is None:
        return None
    if _JOINED not in whole.spec.transforms:
        return None
    heads, nope = held.config.num_attention_heads or 0, mla.qk_nope_head_dim
    width = nope + mla.v_head_dim
    if whole.n_rows != heads * width:
        raise contradiction(whole.spec.key, held.name, f"{heads} heads of {width} rows", whole.n_rows)
    return (keys_of if module == _K_B else values_of)(whole, heads, nope, width)


def _array(held: Held, key: str, tensor: str) -> Rows:
    rows = held.arrays.get(key)
    if rows is not None and not (held.config.mla is not None and _is_product(held, key)):
        return rows
    if held.config.mla is not None:
        raise UnsupportedError(
            "the store holds the absorbed form alone, from which factors of latent attention cannot be made "
            "again: build with mla='keep' or 'both'",
            file=held.name,
            tensor=tensor,
            expected=key,
            found="dense projections" if rows is None else "a product of factors",
        )
    raise UnsupportedError(
        "the store does not hold this tensor", file=held.name, tensor=tensor, expected=key, found="nothing"
    )


def _is_product(held: Held, key: str) -> bool:
    return "absorb_mla" in held.arrays[key].spec.transforms
