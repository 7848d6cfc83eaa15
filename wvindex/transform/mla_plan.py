"""Which arrays a layer of latent attention becomes, and from which tensors: dense, kept, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from wvindex.arch.config import MLA, ModelConfig
from wvindex.arch.family import Family
from wvindex.arch.keys import layer_key
from wvindex.errors import DuplicateName, MetadataError, TensorLayoutError
from wvindex.formats.arrays import ArraySpec, Exactness, Heads, RowScale
from wvindex.formats.encodings import BF16, F16, F32, Encoding
from wvindex.sources.base import Source, TensorInfo
from wvindex.transform.assemble import Target, aliases, check_decodable, is_mtp, storage_for
from wvindex.transform.combine import AsVector, Cast, Concat, JoinedVectors, Reordered, tensor_rows
from wvindex.transform.mla import key_index, q_order, row_scales, tail_order, value_index
from wvindex.transform.pieces import Contribution, contribution_rows
from wvindex.transform.product import Factor, Floats, LatestFactor, ProductRows, TransposedRows
from wvindex.transform.rope import Order
from wvindex.transform.rows import Rows, decoded

_Q_A, _Q_B, _KV_A = "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa"
_Q_NORM, _KV_NORM = "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm"
_KV_B, _K_B, _V_B, _Q = "self_attn.kv_b_proj", "self_attn.k_b_proj", "self_attn.v_b_proj", "self_attn.q_proj"

FACTORS: Final = frozenset({_Q_A, _Q_B, _KV_A, _Q_NORM, _KV_NORM, _KV_B, _K_B, _V_B, _Q})
"""Modules of a layer that absorption replaces."""

LATENT: Final = "self_attn.latent_proj"
"""Module of [W_qa ; W_ca], which the row scales are worked out with."""

Planned = tuple[ArraySpec, Rows, int, Sequence[Contribution]]


@dataclass(frozen=True)
class MlaLayer:
    """One layer's factors and what is wanted of them.

    Attributes
    ----------
    source : Source
    layer : int
    targets : mapping of str to Target
        By role: ``self_attn.q_a_proj.weight``, ...
    config : ModelConfig
        With `mla`.
    family : Family or None
    storage : Encoding or None
        For what is kept; None keeps the source's.
    absorbed : Encoding
        For what is worked out.
    latest : LatestFactor
        Shared by all layers of a plan.
    """

    source: Source
    layer: int
    targets: Mapping[str, Target]
    config: ModelConfig
    family: Family | None
    storage: Encoding | None
    absorbed: Encoding
    latest: LatestFactor

    @cached_property
    def geometry(self) -> MLA:
        """Ranks and head dimensions."""
        if self.config.mla is None:
            raise MetadataError("latent attention without its geometry", file=self.source.path, field="mla")
        return self.config.mla

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.config.num_attention_heads or 0

    @property
    def query_rows(self) -> int:
        """Rows of Q: of all heads together."""
        return self.num_heads * (self.geometry.qk_nope_head_dim + self.geometry.qk_rope_head_dim)

    @property
    def is_split(self) -> bool:
        """Whether K's and V's factors are tensors of their own, as llama.cpp's newer files have them."""
        return f"{_K_B}.weight" in self.targets

    def find(self, role: str) -> Contribution | None:
        """Give the one tensor of a role, or None."""
        target = self.targets.get(role)
        if target is None:
            return None
        if len(target.contributions) > 1:
            info = target.contributions[1].info
            raise DuplicateName(f"two tensors claim {self.key(role)}", file=info.file, tensor=info.name)
        return target.contributions[0]

    def get(self, role: str, shape: tuple[int, ...], field: str) -> Contribution:
        """Give the one tensor of a role, of the shape that the geometry asks for.

        Raises
        ------
        MetadataError
            If it is missing or has another shape, naming `field`, which gives the first dimension.
        """
        found = self.find(role)
        if found is None:
            raise MetadataError(
                "a factor of latent attention is missing",
                file=self.source.path,
                tensor=self.key(role),
                field=field,
                expected=shape,
                found="nothing",
            )
        if placed_shape(found) != shape:
            raise MetadataError(
                "a factor of latent attention does not fit the configuration",
                file=found.info.file,
                tensor=found.info.name,
                field=field,
                expected=shape,
                found=placed_shape(found),
            )
        check_decodable(found.info.encoding, found.info)
        return found

    def get_if_any(self, role: str, shape: tuple[int, ...], field: str) -> Contribution | None:
        """Give the one tensor of a role, as `get`; None where there is none."""
        return self.get(role, shape, field) if role in self.targets else None

    def rows(
        self,
        contribution: Contribution,
        part: tuple[int, int] | None = None,
        order: Order | None = None,
    ) -> Rows:
        """Give rows of a factor, with the scales of FP8 codes; `part` counts from the factor's first row."""
        placed = contribution.placement.rows if contribution.placement else None
        if placed is not None:
            start, stop = part or (0, placed[1] - placed[0])
            part = (placed[0] + start, placed[0] + stop)
        if order is not None:
            return tensor_rows(self.source, contribution.info, part=part, order=order)
        return contribution_rows(self.source, contribution, part=part)

    def values(self, contribution: Contribution) -> Floats:
        """Decode a whole factor."""
        rows = self.rows(contribution)
        return decoded(rows, 0, rows.n_rows).reshape(placed_shape(contribution))

    def key(self, role: str) -> str:
        """Give the standard key of a role in this layer."""
        return layer_key(self.layer, role)


def placed_shape(contribution: Contribution) -> tuple[int, ...]:
    """Give the shape of what a contribution is of its array: of a fused tensor, one half's."""
    shape = contribution.info.shape
    placed = contribution.placement.rows if contribution.placement else None
    return shape if placed is None else (placed[1] - placed[0], *shape[1:])


def stitched_layer(context: MlaLayer) -> dict[str, Target]:
    """Give the arrays of the kept form.

    Factors stay as they are. K's and V's, where the source has split them, become one ``kv_b_proj`` again
    if their values are plain (or are to be); packed blocks run along the transposed rows, so they stay
    split, as ``k_b_proj`` and ``v_b_proj``.
    """
    targets = {context.key(role): target for role, target in context.targets.items()}
    if not context.is_split:
        return targets
    key_part, value_part = _split_factors(context)
    encodings = (key_part.info.encoding, value_part.info.encoding)
    if context.storage is None and not all(encoding.is_plain for encoding in encodings):
        return targets
    for role in (f"{_K_B}.weight", f"{_V_B}.weight"):
        del targets[context.key(role)]
    same = encodings[0] == encodings[1] and encodings[0] in (F32, F16, BF16)
    encoding = encodings[0] if same else F32
    g, heads = context.geometry, context.num_heads
    parts: list[Rows] = []
    for head in range(heads):
        key_rows = tensor_rows(context.source, key_part.info, matrix=head)
        value_rows = tensor_rows(context.source, value_part.info, matrix=head)
        parts += [Cast(TransposedRows(key_rows), encoding)]
        parts += [value_rows if value_rows.encoding == encoding else Cast(value_rows, encoding)]
    shape = (heads * (g.qk_nope_head_dim + g.v_head_dim), g.kv_lora_rank)
    exactness: Exactness = "reordered" if same else "cast"
    made = (Concat(parts, stacked=False), shape, exactness, "join_kv_b")
    targets[context.key(f"{_KV_B}.weight")] = Target([key_part, value_part], made=made)
    return targets


def absorb_layer(context: MlaLayer) -> Iterator[Planned]:
    """Give the arrays of the dense form, with their rows, the memory that each holds, and what it used.

    Raises
    ------
    MetadataError
        If a factor is missing, has another shape than the geometry says, or has a bias that goes nowhere.
    """
    _check_biases(context)
    scales = row_scales(context.geometry, context.key(f"{LATENT}.weight"))
    yield from _queries(context, scales.get("q"))
    yield from _keys_and_values(context, scales)
    yield from _latent(context)


def unabsorbed(context: MlaLayer, dense: Sequence[Planned]) -> dict[str, Target]:
    """Give what the dense form did not use, by key: a joined ``kv_b_proj`` beside its split parts."""
    used = {contribution.info.name for *_, taken in dense for contribution in taken}
    return {
        context.key(role): target
        for role, target in context.targets.items()
        if not used.issuperset(contribution.info.name for contribution in target.contributions)
    }


def _check_biases(context: MlaLayer) -> None:
    down = _Q if context.geometry.q_lora_rank is None else _Q_A
    for role, target in context.targets.items():
        if role.endswith(".bias") and role not in {f"{down}.bias", f"{_KV_A}.bias"}:
            info = target.contributions[0].info
            raise MetadataError(
                "a bias of latent attention that absorption does not know",
                file=info.file,
                tensor=info.name,
                expected=f"biases of {down} and {_KV_A} alone",
                found=context.key(role),
            )


def _queries(context: MlaLayer, scale: RowScale | None) -> Iterator[Planned]:
    g, heads, hidden = context.geometry, context.num_heads, context.config.hidden_size or 0
    if g.q_lora_rank is None:
        yield from _reordered_queries(context)
        return
    q_a = context.get(f"{_Q_A}.weight", (g.q_lora_rank, hidden), "q_lora_rank")
    norm = context.get(f"{_Q_NORM}.weight", (g.q_lora_rank,), "q_lora_rank")
    q_b = context.get(f"{_Q_B}.weight", (context.query_rows, g.q_lora_rank), "qk_nope_head_dim")
    used = (q_a, norm, q_b)
    bias = context.get_if_any(f"{_Q_A}.bias", (g.q_lora_rank,), "q_lora_rank")
    order = q_order(g, heads)

    def factor() -> Factor:
        return Factor(context.values(q_a), np.empty((0, hidden), np.float32))

    product = _Product(context, "q", context.rows(q_b), norm, factor, hidden, g.q_lora_rank)
    yield product.planned(order, f"{_Q}.weight", scale, used)
    if bias is not None:
        yield product.bias(order, f"{_Q}.bias", (*used, bias), lambda: context.values(bias), None)


def _reordered_queries(context: MlaLayer) -> Iterator[Planned]:
    """Without q_lora_rank, Q is W_q with its rows moved: packed rows move whole."""
    field = "q_lora_rank" if f"{_Q_A}.weight" in context.targets else "qk_nope_head_dim"
    weight = context.get(f"{_Q}.weight", (context.query_rows, context.config.hidden_size or 0), field)
    bias = context.get_if_any(f"{_Q}.bias", (context.query_rows,), "qk_nope_head_dim")
    order = q_order(context.geometry, context.num_heads)
    for contribution in (weight, bias) if bias is not None else (weight,):
        info = contribution.info
        rows: Rows
        exactness: Exactness
        if contribution.scales is not None:  # scale blocks do not move with single rows
            values = Cast(context.rows(contribution), context.absorbed)
            rows, exactness = Reordered(values, order), "cast"
        else:
            rows, exactness = context.rows(contribution, order=order), "reordered"
            wanted = storage_for({rows.encoding}, len(info.shape), context.storage)
            if wanted is not None:
                rows, exactness = Cast(rows, wanted), "cast"
        kind = "bias" if contribution is bias else "weight"
        spec = _spec(context, f"{_Q}.{kind}", info.shape, rows.encoding, (contribution,), exactness=exactness)
        yield spec, rows, 0, (contribution,)


def _keys_and_values(context: MlaLayer, scales: Mapping[str, RowScale]) -> Iterator[Planned]:
    g, hidden = context.geometry, context.config.hidden_size or 0
    rank, rope = g.kv_lora_rank, g.qk_rope_head_dim
    kv_a = context.get(f"{_KV_A}.weight", (rank + rope, hidden), "kv_lora_rank")
    norm = context.get(f"{_KV_NORM}.weight", (rank,), "kv_lora_rank")
    bias = context.get_if_any(f"{_KV_A}.bias", (rank + rope,), "kv_lora_rank")
    turned = tail_order(g)

    def factor() -> Factor:
        values = context.values(kv_a)
        return Factor(values[:rank], values[rank:][turned])

    for letter, left, index, used in _left_factors(context, kv_a, norm):
        product = _Product(context, "kv", left, norm, factor, hidden, rank + rope)
        module = f"self_attn.{letter}_proj"
        yield product.planned(index, f"{module}.weight", scales[letter], used)
        if bias is not None:
            yield product.bias(
                index,
                f"{module}.bias",
                (*used, bias),
                lambda: context.values(bias)[:rank],
                lambda: context.values(bias)[rank:][turned],
            )


def _left_factors(
    context: MlaLayer, kv_a: Contribution, norm: Contribution
) -> Iterator[tuple[str, Rows, Order, Sequence[Contribution]]]:
    """Give, for K and V, the left factor, where each row comes from, and the tensors used."""
    g, heads = context.geometry, context.num_heads
    if context.is_split:
        key_part, value_part = _split_factors(context)
        keys = TransposedRows(context.rows(key_part))
        values = context.rows(value_part)
        yield "k", keys, key_index(g, heads, head_rows=g.qk_nope_head_dim), (kv_a, norm, key_part)
        yield "v", values, np.arange(heads * g.v_head_dim, dtype=np.int64), (kv_a, norm, value_part)
        return
    rows = heads * (g.qk_nope_head_dim + g.v_head_dim)
    kv_b = context.get(f"{_KV_B}.weight", (rows, g.kv_lora_rank), "v_head_dim")
    yield "k", context.rows(kv_b), key_index(g, heads), (kv_a, norm, kv_b)
    yield "v", context.rows(kv_b), value_index(g, heads), (kv_a, norm, kv_b)


def _split_factors(context: MlaLayer) -> tuple[Contribution, Contribution]:
    g, heads = context.geometry, context.num_heads
    keys = context.get(f"{_K_B}.weight", (heads, g.kv_lora_rank, g.qk_nope_head_dim), "qk_nope_head_dim")
    values = context.get(f"{_V_B}.weight", (heads, g.v_head_dim, g.kv_lora_rank), "v_head_dim")
    return keys, values


@dataclass(frozen=True)
class _Product:
    """What the arrays of one product share."""

    context: MlaLayer
    name: str
    left: Rows
    norm: Contribution
    factor: Callable[[], Factor]
    hidden: int
    factor_rows: int

    def gamma(self) -> Floats:
        """Give the norm's weight, times what the family multiplies the norm's output by."""
        g = self.context.geometry
        return self.context.values(self.norm) * np.float32(
            g.q_lora_scale if self.name == "q" else g.kv_lora_scale
        )

    def planned(
        self, index: Order, role: str, scale: RowScale | None, used: Sequence[Contribution]
    ) -> Planned:
        """Plan the matrix."""
        context = self.context
        fixed = 4 * self.hidden * self.factor_rows
        rows = ProductRows(
            self.left,
            index,
            self.gamma,
            lambda: context.latest.get((context.layer, self.name), self.factor),
            self.hidden,
            context.absorbed,
            fixed,
        )
        spec = _spec(context, role, (index.size, self.hidden), context.absorbed, used, scale=scale)
        return spec, rows, fixed, used

    def bias(
        self,
        index: Order,
        role: str,
        used: Sequence[Contribution],
        right: Callable[[], Floats],
        tail: Callable[[], Floats] | None,
    ) -> Planned:
        """Plan the bias, always float32: the product with the down-projection's bias as its one column."""

        def factor() -> Factor:
            tails = tail() if tail is not None else np.empty(0, np.float32)
            return Factor(right()[:, None], tails[:, None])

        column = ProductRows(self.left, index, self.gamma, factor, 1)
        spec = _spec(self.context, role, (index.size,), F32, used)
        return spec, AsVector(column), 0, used


def _latent(context: MlaLayer) -> Iterator[Planned]:
    """Give [W_qa ; W_ca], in the source's own encoding where both have the same, and its bias."""
    g, rank = context.geometry, context.geometry.kv_lora_rank
    for kind in ("weight", "bias"):
        found = [context.find(f"{_Q_A}.{kind}")] if g.q_lora_rank else []
        found.append(context.find(f"{_KV_A}.{kind}"))
        used = [contribution for contribution in found if contribution is not None]
        if not used:
            continue
        if len(used) != len(found):
            raise TensorLayoutError(
                "one down-projection has a bias and the other has none",
                file=used[0].info.file,
                tensor=used[0].info.name,
            )
        parts = [context.rows(contribution) for contribution in used[:-1]]
        parts.append(context.rows(used[-1], part=(0, rank)))
        rows, exactness = _joined(parts, kind, {c.info.encoding.name for c in used}, context)
        shape = ((g.q_lora_rank or 0) + rank, *used[-1].info.shape[1:])
        yield (
            _spec(context, f"{LATENT}.{kind}", shape, rows.encoding, used, exactness=exactness),
            rows,
            0,
            used,
        )


def _joined(parts: list[Rows], kind: str, found: set[str], context: MlaLayer) -> tuple[Rows, Exactness]:
    encodings = {rows.encoding for rows in parts}
    block = next(iter(encodings)).scale_block
    if block is not None and any(rows.n_rows % block[0] for rows in parts[:-1]):
        encodings = encodings | {F32}  # scale blocks would not line up
    wanted = storage_for(encodings, 1 if kind == "bias" else 2, context.storage)
    if wanted is not None:
        parts = [Cast(rows, wanted) for rows in parts]
    decoded_already = not {rows.encoding.name for rows in parts} <= found
    exactness: Exactness = "cast" if wanted is not None or decoded_already else "reordered"
    if kind == "bias":
        return JoinedVectors(tuple(parts)), exactness
    return (Concat(parts, stacked=False) if len(parts) > 1 else parts[0]), exactness


def _spec(
    context: MlaLayer,
    role: str,
    shape: tuple[int, ...],
    encoding: Encoding,
    used: Sequence[Contribution],
    *,
    scale: RowScale | None = None,
    exactness: Exactness = "derived",
) -> ArraySpec:
    names: dict[str, TensorInfo] = {contribution.info.name: contribution.info for contribution in used}
    key = context.key(role)
    module = role.rpartition(".")[0]
    transform = {LATENT: "join_latent"}.get(module, "absorb_mla" if exactness == "derived" else "rope_first")
    return ArraySpec(
        key=key,
        shape=shape,
        encoding=encoding,
        exactness=exactness,
        sources=tuple(names),
        transforms=(transform,),
        aliases=aliases(key, tuple(names), context.family, whole=False),
        heads=Heads(axis=0, count=context.num_heads) if module != LATENT else None,
        row_scale=scale,
        mtp=is_mtp(context.layer, context.config),
    )
