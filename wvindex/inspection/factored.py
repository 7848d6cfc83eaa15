"""Heads of latent attention that is kept as factors: Gram matrices of the dense projections they stand for.

With g a norm's weights, a head's dense queries are ``W_Q = W_qb diag(g_q) W_qa``, its keys
``[W_kb diag(g_kv) W_ca ; W_kr]`` and its values ``W_vb diag(g_kv) W_ca`` (`wvindex.transform.mla`, but for
the factor of each token). Their Gram matrices follow from that of the down-projection, ``L (W W^T) L^T``: a
head's dense rows are never made. Rows of queries and keys are in the factors' order, the same for both, which
leaves every norm of a product as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MLA
from wvindex.inspection.scan import read_floats, widened
from wvindex.query.database import Store
from wvindex.query.layers import Layer
from wvindex.query.lazy import Tensor

Grams = NDArray[np.float64]

_COLUMNS: Final = 1024
"""Columns of a down-projection that are widened to float64 at once."""


@dataclass(frozen=True)
class Factors:
    """The factors of one layer's queries, keys and values, whose shapes are the geometry's.

    Attributes
    ----------
    geometry : MLA
    heads : int
    q : tuple of Tensor
        ``q_a_proj``, ``q_a_layernorm``, ``q_b_proj``; or ``q_proj`` alone.
    kv_a, kv_norm : Tensor
        ``kv_a_proj_with_mqa`` and ``kv_a_layernorm``.
    kv_b : tuple of Tensor
        ``kv_b_proj``; or ``k_b_proj`` (heads, kv_lora_rank, nope) and ``v_b_proj`` (heads, v, kv_lora_rank).
    """

    geometry: MLA
    heads: int
    q: tuple[Tensor, ...]
    kv_a: Tensor
    kv_norm: Tensor
    kv_b: tuple[Tensor, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*self.q, self.kv_a, self.kv_norm, *self.kv_b]


def find_factors(db: Store, layer: Layer) -> Factors | None:
    """Give a layer's factors; None where one is missing, or does not fit the configuration."""
    g, heads, hidden = db.config.mla, db.config.num_attention_heads, db.config.hidden_size
    if g is None or not heads or not hidden:
        return None
    nope, rope, rank = g.qk_nope_head_dim, g.qk_rope_head_dim, g.kv_lora_rank
    rows = heads * (nope + rope)
    shapes: dict[str, tuple[int, ...]] = {"q_proj": (rows, hidden)}
    if g.q_lora_rank is not None:
        shapes = {
            "q_a_proj": (g.q_lora_rank, hidden),
            "q_a_layernorm": (g.q_lora_rank,),
            "q_b_proj": (rows, g.q_lora_rank),
        }
    q = _fitting(layer, shapes)
    kv = _fitting(layer, {"kv_a_proj_with_mqa": (rank + rope, hidden), "kv_a_layernorm": (rank,)})
    kv_b = _fitting(layer, {"kv_b_proj": (heads * (nope + g.v_head_dim), rank)}) or _fitting(
        layer, {"k_b_proj": (heads, rank, nope), "v_b_proj": (heads, g.v_head_dim, rank)}
    )
    if not q or not kv or not kv_b:
        return None
    kv_a, kv_norm = kv
    return Factors(g, heads, q, kv_a, kv_norm, kv_b)


def _fitting(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, ...] | None:
    """Give a layer's tensors of these names, where all are there and of these shapes."""
    try:
        found = [layer[f"self_attn.{name}.weight"] for name in shapes]
    except KeyError:
        return None
    ok = [t.shape for t in found] == list(shapes.values()) and all(t.size for t in found)
    return tuple(found) if ok else None


def factor_grams(factors: Factors) -> dict[str, Grams]:
    """Give the Gram matrices ``W W^T`` of each head's dense ``q``, ``k`` and ``v``, in float64.

    Returns
    -------
    dict of str to array of float64
        ``q`` and ``k``: (heads, nope + rope, nope + rope); ``v``: (heads, v_head_dim, v_head_dim).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        keys, values = _key_and_value_grams(factors)
        return {"q": _query_grams(factors), "k": keys, "v": values}


def _query_grams(factors: Factors) -> Grams:
    *down, up = factors.q
    width = len(up) // factors.heads
    if not down:
        return np.stack([_gram(_rows(up, width, head)) for head in range(factors.heads)])
    latent, weights = _down_gram(down[0]), _values(down[1])
    return np.stack([_through(_rows(up, width, h) * weights, latent) for h in range(factors.heads)])


def _key_and_value_grams(factors: Factors) -> tuple[Grams, Grams]:
    nope, rank = factors.geometry.qk_nope_head_dim, factors.geometry.kv_lora_rank
    latent, weights = _down_gram(factors.kv_a), _values(factors.kv_norm)
    left = np.zeros((nope + factors.geometry.qk_rope_head_dim, len(latent)))
    left[nope:, rank:] = np.eye(factors.geometry.qk_rope_head_dim)  # rotary rows are the down-projection's
    keys, values = [], []
    for head in range(factors.heads):
        key, value = _up(factors, head)
        left[:nope, :rank] = key * weights
        keys.append(_through(left, latent))
        values.append(_through(value * weights, latent[:rank, :rank]))
    return np.stack(keys), np.stack(values)


def _up(factors: Factors, head: int) -> tuple[Grams, Grams]:
    """Give a head's up-projections of keys (nope, kv_lora_rank) and of values (v, kv_lora_rank)."""
    if len(factors.kv_b) == 2:
        key, value = (_values(tensor.expert(head)) for tensor in factors.kv_b)
        return key.T, value
    nope = factors.geometry.qk_nope_head_dim
    both = _rows(factors.kv_b[0], nope + factors.geometry.v_head_dim, head)
    return both[:nope], both[nope:]


def _through(left: Grams, gram: Grams) -> Grams:
    product: Grams = left @ gram @ left.T
    return product


def _down_gram(tensor: Tensor) -> Grams:
    """Give ``W W^T`` of a down-projection, a few columns after another."""
    values = read_floats(tensor)
    blocks = (values[:, i : i + _COLUMNS] for i in range(0, values.shape[1], _COLUMNS))
    return sum((_gram(widened(block)) for block in blocks), np.zeros((len(values), len(values))))


def _gram(values: Grams) -> Grams:
    product: Grams = values @ values.T
    return product


def _rows(tensor: Tensor, width: int, head: int) -> Grams:
    return widened(read_floats(tensor, (head * width, (head + 1) * width)))


def _values(tensor: Tensor) -> Grams:
    return widened(read_floats(tensor))
