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
products and is scaled alike.

Heads are laid out [rope | nope], and rotary rows go from DeepSeek's interleaved pairs to half-split, in Q and
K alike, which leaves every score as it was; the shared rotary key is repeated for each head. The result is an
ordinary partial-rotary attention with as many key heads as query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wvindex.arch.config import MLA
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
    """Absorb one layer held in memory. The formulas stand in this module's docstring.

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
    """
    order = q_order(geometry, num_heads)
    k_index, v_index = key_index(geometry, num_heads), value_index(geometry, num_heads)
    rank = geometry.kv_lora_rank
    turned = kv_a[rank:][tail_order(geometry)]

    def product(left: Floats, gamma: Floats, index: Order, right: Floats, tail: Floats) -> Floats:
        rows = ProductRows(
            ArrayRows(left), index, lambda: gamma, lambda: Factor(right, tail), width=right.shape[1]
        )
        return decoded(rows, 0, rows.n_rows)

    def bias(left: Floats, gamma: Floats, index: Order, vector: Floats, tail: Floats) -> Floats:
        return product(left, gamma, index, vector[:, None], tail[:, None]).ravel()

    none = np.empty((0, q_b.shape[1]), np.float32)
    q, q_bias = q_b[order], None
    if q_a is not None and q_a_norm is not None:
        q = product(q_b, q_a_norm, order, q_a, none)
        q_bias = bias(q_b, q_a_norm, order, q_a_bias, none[:, 0]) if q_a_bias is not None else None
    k_bias = v_bias = None
    if kv_a_bias is not None:
        turned_bias = kv_a_bias[rank:][tail_order(geometry)]
        k_bias = bias(kv_b, kv_a_norm, k_index, kv_a_bias[:rank], turned_bias)
        v_bias = bias(kv_b, kv_a_norm, v_index, kv_a_bias[:rank], turned_bias)
    return Absorbed(
        q=q,
        k=product(kv_b, kv_a_norm, k_index, kv_a[:rank], turned),
        v=product(kv_b, kv_a_norm, v_index, kv_a[:rank], turned),
        latent=np.concatenate([q_a, kv_a[:rank]]) if q_a is not None else kv_a[:rank],
        q_bias=q_bias,
        k_bias=k_bias,
        v_bias=v_bias,
        latent_bias=_latent_bias(q_a, q_a_bias, kv_a_bias, rank),
        scales=row_scales(geometry, "latent"),
    )


def _latent_bias(
    q_a: Floats | None, q_a_bias: Floats | None, kv_a_bias: Floats | None, rank: int
) -> Floats | None:
    if q_a_bias is None and kv_a_bias is None:
        return None
    parts = [] if q_a is None else [q_a_bias if q_a_bias is not None else np.zeros(len(q_a), np.float32)]
    parts.append(kv_a_bias[:rank] if kv_a_bias is not None else np.zeros(rank, np.float32))
    return np.concatenate(parts)


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
