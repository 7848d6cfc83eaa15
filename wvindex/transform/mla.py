r"""Exact absorption of Multi-head Latent Attention into dense Q, K and V.

DeepSeek-V2 (arXiv:2405.04434, section 2.1) computes, for a layer's normed input x (hidden_size wide),

    c_q  = W_qa x                     q = W_qb (norm(c_q)  * g_q)
    c_kv = W_ca x,  k_r = W_kr x      k_nope, v = W_kb (norm(c_kv) * g_kv)

where W_ca and W_kr are the first kv_lora_rank and the last qk_rope_head_dim rows of W_kva, g are the norms'
weights, and norm(c) = c / sqrt(mean(c ** 2) + eps). That norm is why a static product W_qb W_qa is wrong,
with the weights folded in or not: it divides by a number that depends on the token. But it divides the
*whole* latent vector by *one* number, and everything else is linear, so

    q = s_q * (W_qb diag(g_q) W_qa) x,        s_q  = 1 / sqrt(mean((W_qa x) ** 2) + eps)
    k_nope, v = s_kv * (W_kb diag(g_kv) W_ca) x,   s_kv = 1 / sqrt(mean((W_ca x) ** 2) + eps)

is exact. Absorption stores the dense products

    W_Q = W_qb diag(g_q) W_qa,   W_K,nope = W_kb,k diag(g_kv) W_ca,   W_V = W_kb,v diag(g_kv) W_ca

and, so that the two scalars of a token can be worked out again, the matrix latent = [W_qa ; W_ca]. What a
scalar multiplies is a `RowScale` of each array: all of Q and V, and of K only the nope part, for the rotary
part never went through the norm. A bias of the down-projections (c_q = W_qa x + b) goes through the same
products and is scaled alike. Where a family multiplies the norms' output (`MLA.q_lora_scale`,
`kv_lora_scale`), the number goes into g.

Heads are laid out [rope | nope], and rotary rows go from DeepSeek's interleaved pairs to half-split, in Q and
K alike, which leaves every score as it was; the shared rotary key is repeated for each head. The result is an
ordinary partial-rotary attention with as many key heads as query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wvindex.arch.config import MLA
from wvindex.errors import MetadataError
from wvindex.formats.arrays import RowScale
from wvindex.transform.product import ArrayRows, Factor, Floats, ProductRows
from wvindex.transform.rope import Order, half_split, in_each_head, rope_first
from wvindex.transform.rows import decoded


@dataclass(frozen=True)
class Absorbed:
    """What absorption gives; biases are None where the down-projections have none.

    Attributes
    ----------
    q, k : array of float32, shape (num_heads * head_dim, hidden_size)
        head_dim = qk_rope_head_dim + qk_nope_head_dim, laid out [rope | nope] in each head.
    v : array of float32, shape (num_heads * v_head_dim, hidden_size)
    latent : array of float32, shape (q_lora_rank + kv_lora_rank, hidden_size)
        [W_qa ; W_ca], or W_ca alone where there is no q_lora_rank.
    q_bias, k_bias, v_bias, latent_bias : array of float32 or None
    scales : mapping of str to RowScale
        For ``q`` (absent without q_lora_rank), ``k`` and ``v``; `weight` is ``latent``.
    """

    q: Floats
    k: Floats
    v: Floats
    latent: Floats
    q_bias: Floats | None
    k_bias: Floats | None
    v_bias: Floats | None
    latent_bias: Floats | None
    scales: dict[str, RowScale]


def absorb(
    q_a: Floats | None,
    q_a_norm: Floats | None,
    q_b: Floats,
    kv_a: Floats,
    kv_a_norm: Floats,
    kv_b: Floats,
    geometry: MLA,
    *,
    num_heads: int,
    q_a_bias: Floats | None = None,
    kv_a_bias: Floats | None = None,
) -> Absorbed:
    """Absorb one layer held in memory, in float32. The formulas stand in this module's docstring.

    Parameters
    ----------
    q_a : array, shape (q_lora_rank, hidden_size), or None
        None without q_lora_rank; `q_b` is then the whole query projection.
    q_a_norm : array, shape (q_lora_rank,), or None
    q_b : array, shape (num_heads * (qk_nope_head_dim + qk_rope_head_dim), q_lora_rank or hidden_size)
    kv_a : array, shape (kv_lora_rank + qk_rope_head_dim, hidden_size)
    kv_a_norm : array, shape (kv_lora_rank,)
    kv_b : array, shape (num_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank)
    geometry : MLA
    num_heads : int
    q_a_bias : array, shape (q_lora_rank,), optional
    kv_a_bias : array, shape (kv_lora_rank + qk_rope_head_dim,), optional

    Returns
    -------
    Absorbed

    Raises
    ------
    MetadataError
        If an array is missing, or has another shape than the geometry says; `field` names it.
    """
    g, hidden = geometry, np.shape(kv_a)[-1] if np.ndim(kv_a) else 0
    rank, kv_rows = g.kv_lora_rank, g.kv_lora_rank + g.qk_rope_head_dim
    kv_a, kv_a_norm = _float32("kv_a", kv_a, kv_rows, hidden), _float32("kv_a_norm", kv_a_norm, rank)
    kv_b = _float32("kv_b", kv_b, num_heads * (g.qk_nope_head_dim + g.v_head_dim), rank)
    kv_a_bias = _float32("kv_a_bias", kv_a_bias, kv_rows) if kv_a_bias is not None else None
    turned, kv_gamma = tail_order(g), kv_a_norm * np.float32(g.kv_lora_scale)
    parts = {}
    for letter, index in (("k", key_index(g, num_heads)), ("v", value_index(g, num_heads))):
        parts[letter] = _product(kv_b, kv_gamma, index, kv_a[:rank], kv_a[rank:][turned])
        if kv_a_bias is not None:
            column = kv_a_bias[:, None]
            bias = _product(kv_b, kv_gamma, index, column[:rank], column[rank:][turned])
            parts[f"{letter}_bias"] = bias.ravel()
    q, q_bias, q_a = _absorbed_queries(q_a, q_a_norm, q_b, q_a_bias, g, num_heads, hidden)
    return Absorbed(
        q=q,
        k=parts["k"],
        v=parts["v"],
        latent=np.concatenate([q_a, kv_a[:rank]]) if q_a is not None else kv_a[:rank],
        q_bias=q_bias,
        k_bias=parts.get("k_bias"),
        v_bias=parts.get("v_bias"),
        latent_bias=_latent_bias(q_a, q_a_bias, kv_a_bias, rank),
        scales=row_scales(g, "latent"),
    )


def _absorbed_queries(
    q_a: Floats | None,
    q_a_norm: Floats | None,
    q_b: Floats,
    q_a_bias: Floats | None,
    geometry: MLA,
    num_heads: int,
    hidden: int,
) -> tuple[Floats, Floats | None, Floats | None]:
    """Give the dense Q, its bias, and W_qa, the last two None where there are none."""
    order, rank = q_order(geometry, num_heads), geometry.q_lora_rank
    q_b = _float32("q_b", q_b, order.size, hidden if rank is None else rank)
    if rank is None:
        for name, array in (("q_a", q_a), ("q_a_norm", q_a_norm), ("q_a_bias", q_a_bias)):
            if array is not None:
                raise _does_not_fit(name, "nothing, for there is no q_lora_rank", array.shape)
        return q_b[order], None, None
    q_a = _float32("q_a", q_a, rank, hidden)
    gamma = _float32("q_a_norm", q_a_norm, rank) * np.float32(geometry.q_lora_scale)
    q = _product(q_b, gamma, order, q_a, np.empty((0, hidden), np.float32))
    if q_a_bias is None:
        return q, None, q_a
    column = _float32("q_a_bias", q_a_bias, rank)[:, None]
    return q, _product(q_b, gamma, order, column, column[:0]).ravel(), q_a


def _product(left: Floats, gamma: Floats, index: Order, right: Floats, tail: Floats) -> Floats:
    factor = Factor(right, tail)
    rows = ProductRows(ArrayRows(left), index, lambda: gamma, lambda: factor, width=right.shape[1])
    return decoded(rows, 0, rows.n_rows)


def _float32(name: str, array: Floats | None, *shape: int) -> Floats:
    if array is None or np.shape(array) != shape:
        raise _does_not_fit(name, shape, "nothing" if array is None else np.shape(array))
    return np.asarray(array, np.float32)


def _does_not_fit(name: str, expected: object, found: object) -> MetadataError:
    return MetadataError(
        "an array of latent attention does not fit the geometry", field=name, expected=expected, found=found
    )


def _latent_bias(
    q_a: Floats | None, q_a_bias: Floats | None, kv_a_bias: Floats | None, rank: int
) -> Floats | None:
    if q_a_bias is None and kv_a_bias is None:
        return None
    parts = [] if q_a is None else [q_a_bias if q_a_bias is not None else np.zeros(len(q_a), np.float32)]
    parts.append(kv_a_bias[:rank] if kv_a_bias is not None else np.zeros(rank, np.float32))
    return np.concatenate(parts, dtype=np.float32)


def row_scales(geometry: MLA, latent: str) -> dict[str, RowScale]:
    """Give the row scales of ``q``, ``k`` and ``v``; `latent` is the key of [W_qa ; W_ca]."""
    rope, nope = geometry.qk_rope_head_dim, geometry.qk_nope_head_dim
    first = geometry.q_lora_rank or 0
    kv_rows, eps = (first, first + geometry.kv_lora_rank), geometry.norm_eps

    def scale(rows: tuple[int, int], head_slice: tuple[int, int]) -> RowScale:
        return RowScale(weight=latent, rows=rows, eps=eps, head_slice=head_slice)

    scales = {"k": scale(kv_rows, (rope, rope + nope)), "v": scale(kv_rows, (0, geometry.v_head_dim))}
    return {"q": scale((0, first), (0, rope + nope))} | scales if first else scales


def q_order(geometry: MLA, num_heads: int) -> Order:
    """Give, for each dense Q row, the row of W_qb (or of W_q) that it comes from."""
    nope, rope = geometry.qk_nope_head_dim, geometry.qk_rope_head_dim
    return rope_first(num_heads, nope, rope, interleaved=geometry.interleaved_rope)


def tail_order(geometry: MLA) -> Order:
    """Give, for each half-split rotary key row, the row of W_kr that it comes from."""
    rope = geometry.qk_rope_head_dim
    return half_split(rope) if geometry.interleaved_rope else np.arange(rope, dtype=np.int64)


def key_index(geometry: MLA, num_heads: int, *, head_rows: int | None = None) -> Order:
    """Give, for each dense K row, its row of W_kb, or ~i for row i of the half-split rotary rows.

    `head_rows` is how many rows of the left factor a head has: nope + v in W_kb, nope alone where
    the file has split it.
    """
    nope, rope = geometry.qk_nope_head_dim, geometry.qk_rope_head_dim
    stride = head_rows if head_rows is not None else nope + geometry.v_head_dim
    products = in_each_head(np.arange(nope, dtype=np.int64), num_heads, stride).reshape(num_heads, nope)
    tails = np.broadcast_to(~np.arange(rope, dtype=np.int64), (num_heads, rope))
    return np.concatenate([tails, products], axis=1).ravel()  # (num_heads, rope + nope), flattened


def value_index(geometry: MLA, num_heads: int) -> Order:
    """Give, for each dense V row, its row of W_kb."""
    nope, v = geometry.qk_nope_head_dim, geometry.v_head_dim
    return in_each_head(nope + np.arange(v, dtype=np.int64), num_heads, nope + v)
