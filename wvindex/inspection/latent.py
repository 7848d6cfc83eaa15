"""Layers of latent attention as the dense arrays that absorption makes of them, worked out as they are read.

The formulas are those of `wvindex.transform.mla`. A store that keeps the factors so compares with one that
has absorbed them; nothing but a down-projection is held, and products come by tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Final

import numpy as np

from wvindex.arch.config import MLA
from wvindex.arch.keys import layer_key
from wvindex.formats.arrays import ArraySpec, RowScale
from wvindex.formats.encodings import F32
from wvindex.inspection.stored_rows import StoredRows, plain_rows
from wvindex.query.lazy import Tensor
from wvindex.transform.combine import AsVector, Cast, Concat, Reordered, Slice
from wvindex.transform.mla import key_index, q_order, row_scales, tail_order, value_index
from wvindex.transform.product import Factor, Floats, LatestFactor, ProductRows, TransposedRows
from wvindex.transform.rope import Order
from wvindex.transform.rows import Rows

LATENT: Final = "self_attn.latent_proj.weight"
"""What a layer has that was absorbed."""

DOWN: Final = "self_attn.kv_a_proj_with_mqa.weight"
"""What a layer has whose factors were kept."""

FACTORS: Final = tuple(
    f"self_attn.{module}"
    for module in (
        *("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm"),
        *("kv_b_proj", "k_b_proj", "v_b_proj"),
    )
)
"""Modules that the dense form says again, all together."""

KV_B: Final = "self_attn.kv_b_proj.weight"
SPLIT: Final = ("self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight")


@dataclass(frozen=True)
class Derived:
    """An array that is worked out of stored ones.

    Attributes
    ----------
    tensor : Tensor
        Reads them, and gives float32.
    sources : tuple of Tensor
    rank : int
        Products that a value sums; 0 where values only move.
    row_scale : RowScale or None
        What absorption would write.
    """

    tensor: Tensor
    sources: tuple[Tensor, ...]
    rank: int = 0
    row_scale: RowScale | None = None


class Latest:
    """Holds the down-projection that was decoded last, for whichever threads multiply by it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._latest = LatestFactor()

    def get(self, key: str, make: Callable[[], Factor]) -> Factor:
        """Give the factor under `key`, made now unless it was the last."""
        with self._lock:
            return self._latest.get(key, make)


class LatentLayer:
    """One layer's factors.

    Parameters
    ----------
    layer : int
    tensors : mapping of str to Tensor
        By key; of any layers.
    geometry : MLA
    num_heads : int
    latest : Latest
        Shared by all layers.
    """

    def __init__(
        self, layer: int, tensors: Mapping[str, Tensor], geometry: MLA, num_heads: int, latest: Latest
    ) -> None:
        self._layer = layer
        self._tensors = tensors
        self._geometry = geometry
        self._heads = num_heads
        self._latest = latest

    def dense(self) -> dict[str, Derived]:
        """Give the arrays of the dense form, by key; none where factors are missing, or do not fit."""
        if not self._is_whole():
            return {}
        scales = row_scales(self._geometry, layer_key(self._layer, LATENT))
        found = dict(self._queries(scales.get("q")))
        found |= dict(self._keys_and_values(scales))
        found |= dict(self._latent())
        return found

    def joined(self) -> Derived | None:
        """Give K's and V's factors, where they stand apart, as one ``kv_b_proj``; None where they don't."""
        keys, values = (self._get(role) for role in SPLIT)
        if keys is None or values is None or not self._splits_fit(keys, values):
            return None
        g = self._geometry
        key_rows, value_rows = self._split_rows(keys, values)
        parts: list[Rows] = []
        for head in range(self._heads):
            parts.append(Slice(key_rows, head * g.qk_nope_head_dim, (head + 1) * g.qk_nope_head_dim))
            parts.append(Slice(value_rows, head * g.v_head_dim, (head + 1) * g.v_head_dim))
        return self._derived(KV_B, Concat(parts, stacked=False), (keys, values))

    def _queries(self, scale: RowScale | None) -> Iterator[tuple[str, Derived]]:
        order, rank = q_order(self._geometry, self._heads), self._geometry.q_lora_rank
        if rank is None:
            for kind in ("weight", "bias"):
                tensor = self._get(f"self_attn.q_proj.{kind}")
                if tensor is not None:
                    rows: Rows = Reordered(plain_rows(tensor), order)
                    yield self._named(f"self_attn.q_proj.{kind}", rows, (tensor,))
            return
        down, norm, up = (self._need(f"self_attn.q_{n}.weight") for n in ("a_proj", "a_layernorm", "b_proj"))
        product = _Product(self._latest, StoredRows(up.pieces()), order, norm)
        used = (down, norm, up)
        yield self._named("self_attn.q_proj.weight", product.of(down, rank), used, rank, scale)
        bias = self._get("self_attn.q_a_proj.bias")
        if bias is not None:
            yield self._named("self_attn.q_proj.bias", product.of(bias, rank), (*used, bias), rank)

    def _keys_and_values(self, scales: Mapping[str, RowScale]) -> Iterator[tuple[str, Derived]]:
        rank, turned = self._geometry.kv_lora_rank, tail_order(self._geometry)
        down, norm = self._need(DOWN), self._need("self_attn.kv_a_layernorm.weight")
        bias = self._get(DOWN.replace(".weight", ".bias"))
        for letter, left, index, ups in self._ups():
            product = _Product(self._latest, left, index, norm, turned)
            used, role = (down, norm, *ups), f"self_attn.{letter}_proj"
            yield self._named(f"{role}.weight", product.of(down, rank), used, rank, scales[letter])
            if bias is not None:
                yield self._named(f"{role}.bias", product.of(bias, rank), (*used, bias), rank)

    def _ups(self) -> Iterator[tuple[str, Rows, Order, tuple[Tensor, ...]]]:
        g, heads = self._geometry, self._heads
        joined = self._get(KV_B)
        if joined is not None:
            yield "k", StoredRows(joined.pieces()), key_index(g, heads), (joined,)
            yield "v", StoredRows(joined.pieces()), value_index(g, heads), (joined,)
            return
        keys, values = (self._need(role) for role in SPLIT)
        key_rows, value_rows = self._split_rows(keys, values)
        yield "k", key_rows, key_index(g, heads, head_rows=g.qk_nope_head_dim), (keys,)
        yield "v", value_rows, np.arange(heads * g.v_head_dim, dtype=np.int64), (values,)

    def _split_rows(self, keys: Tensor, values: Tensor) -> tuple[Rows, Rows]:
        return TransposedRows(StoredRows(keys.pieces())), Cast(StoredRows(values.pieces()), F32)

    def _latent(self) -> Iterator[tuple[str, Derived]]:
        rank, has_q = self._geometry.kv_lora_rank, self._geometry.q_lora_rank is not None
        for kind in ("weight", "bias"):
            down = self._get(DOWN.replace(".weight", f".{kind}"))
            query = self._get(f"self_attn.q_a_proj.{kind}") if has_q else None
            if down is None or (has_q and query is None):
                continue
            parts: list[Rows] = [] if query is None else [plain_rows(query)]
            parts.append(Slice(plain_rows(down), 0, rank))
            used = (down,) if query is None else (query, down)
            yield self._named(LATENT.replace(".weight", f".{kind}"), Concat(parts, stacked=False), used)

    def _is_whole(self) -> bool:
        """Whether every factor is there, and of the shape that the geometry says."""
        g, down = self._geometry, self._get(DOWN)
        if down is None or down.ndim != 2:
            return False
        hidden, heads = down.shape[1], self._heads
        rows = heads * (g.qk_nope_head_dim + g.qk_rope_head_dim)
        wanted = {
            DOWN: (g.kv_lora_rank + g.qk_rope_head_dim, hidden),
            "self_attn.kv_a_layernorm.weight": (g.kv_lora_rank,),
        }
        if g.q_lora_rank is None:
            wanted["self_attn.q_proj.weight"] = (rows, hidden)
        else:
            wanted["self_attn.q_a_proj.weight"] = (g.q_lora_rank, hidden)
            wanted["self_attn.q_a_layernorm.weight"] = (g.q_lora_rank,)
            wanted["self_attn.q_b_proj.weight"] = (rows, g.q_lora_rank)
        if self._get(KV_B) is not None:
            wanted[KV_B] = (heads * (g.qk_nope_head_dim + g.v_head_dim), g.kv_lora_rank)
        elif not self._splits_fit(*(self._get(role) for role in SPLIT)):
            return False
        found = {role: self._get(role) for role in wanted}
        return all(tensor is not None and tensor.shape == wanted[role] for role, tensor in found.items())

    def _splits_fit(self, keys: Tensor | None, values: Tensor | None) -> bool:
        g = self._geometry
        shapes = (
            (self._heads, g.kv_lora_rank, g.qk_nope_head_dim),
            (self._heads, g.v_head_dim, g.kv_lora_rank),
        )
        return all(t is not None and t.shape == s for t, s in zip((keys, values), shapes, strict=True))

    def _get(self, role: str) -> Tensor | None:
        return self._tensors.get(layer_key(self._layer, role))

    def _need(self, role: str) -> Tensor:
        return self._tensors[layer_key(self._layer, role)]

    def _named(
        self, role: str, rows: Rows, used: tuple[Tensor, ...], rank: int = 0, scale: RowScale | None = None
    ) -> tuple[str, Derived]:
        return layer_key(self._layer, role), self._derived(role, rows, used, rank, scale)

    def _derived(
        self, role: str, rows: Rows, used: tuple[Tensor, ...], rank: int = 0, scale: RowScale | None = None
    ) -> Derived:
        is_bias = role.endswith(".bias")
        spec = ArraySpec(
            key=layer_key(self._layer, role),
            shape=(rows.n_rows,) if is_bias else (rows.n_rows, rows.row_values),
            encoding=F32,
            exactness="derived",
            sources=tuple(tensor.key for tensor in used),
        )
        return Derived(Tensor(spec, AsVector(rows) if is_bias else rows), used, rank, scale)


@dataclass(frozen=True)
class _Product:
    """What the arrays of one up-projection share."""

    latest: Latest
    left: Rows
    index: Order
    norm: Tensor
    turned: Order | None = None

    def of(self, right: Tensor, rank: int) -> ProductRows:
        """Give the rows of its product with a down-projection, or with the bias of one as the one column."""

        def factor() -> Factor:
            values = _values(right).reshape(right.shape[0], -1)
            tail = values[rank:] if self.turned is None else values[rank:][self.turned]
            return Factor(values[:rank], tail)

        return ProductRows(
            self.left,
            self.index,
            cache(lambda: _values(self.norm)),
            lambda: self.latest.get(right.key, factor),
            width=math.prod(right.shape[1:]),
        )


def _values(tensor: Tensor) -> Floats:
    values: Floats = tensor.read(dtype=np.float32)
    return values
