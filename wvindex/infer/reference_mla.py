"""Multi-head latent attention as its paper has it, with the norms between its factors.

The yardstick that absorption (`wvindex.transform.mla`) is measured with: DeepSeek-V2, arXiv:2405.04434,
section 2.1 and appendix C, and the rotary layout of DeepSeek's checkpoints. Nothing here is fast; the
forward pass never uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MLA, Rope
from wvindex.infer.weights import WeightDatabase

Array = NDArray[Any]

_ATTENTION = "model.layers.{}.self_attn.{}"
_FUSED = "fused_qkv_a_proj"
_DOWN = ("q_a_proj", "kv_a_proj_with_mqa")
_FACTORS = ("q_a_layernorm", "q_b_proj", "q_proj", "kv_a_layernorm", "kv_b_proj", "k_b_proj", "v_b_proj")


def reference_mla(
    x: Array,
    weights: Mapping[str, Array],
    mla: MLA,
    *,
    num_heads: int,
    rope: Rope,
    scale: float,
    q_offset: int = 0,
) -> Array:
    """Give causal latent attention over a sequence, up to `o_proj`.

    With c_q = norm(W_qa·x), c_kv and k_rope the two parts of W_kva·x::

        q[h] = W_qb[h] · c_q                      = [q_nope | q_rope]
        k[h] = [W_kb,k[h] · norm(c_kv) | k_rope]    k_rope the same for every head
        v[h] = W_kb,v[h] · norm(c_kv)
        out[h] = softmax(scale * [q_nope | R q_rope] · [k_nope | R k_rope]) · v[h]

    Parameters
    ----------
    x : (T, hidden_size)
        The layer's normed input. The result has its dtype; in float64 the whole is computed in float64.
    weights : mapping of str to array
        ``q_a_proj`` (q_lora_rank, hidden), ``q_a_layernorm`` (q_lora_rank,), ``q_b_proj``
        (heads * qk_head_dim, q_lora_rank), or in their place ``q_proj`` (heads * qk_head_dim, hidden);
        ``kv_a_proj_with_mqa`` (kv_lora_rank + rope, hidden), ``kv_a_layernorm`` (kv_lora_rank,);
        ``kv_b_proj`` (heads * (nope + v), kv_lora_rank), or in its place ``k_b_proj``
        (heads, kv_lora_rank, nope) and ``v_b_proj`` (heads, v, kv_lora_rank).
        Optional: ``q_a_proj.bias``, ``kv_a_proj_with_mqa.bias``. In place of ``q_a_proj`` and
        ``kv_a_proj_with_mqa``, ``fused_qkv_a_proj`` (q_lora_rank + kv_lora_rank + rope, hidden), one
        under the other, and its bias: one product, then cut.
    mla : MLA
    num_heads : int
    rope : Rope
        Its `rotary_dim` is `qk_rope_head_dim`.
    scale : float
        Multiplies q·k, every factor included.
    q_offset : int
        Position of the first token.

    Returns
    -------
    (T, num_heads * v_head_dim)
    """
    positions = q_offset + np.arange(len(x))
    c_q, c_kv = _down(x, weights, mla)
    q_nope, q_rope = _queries(x if c_q is None else c_q, weights, mla, num_heads)
    c_kv, k_rope = c_kv[:, : mla.kv_lora_rank], c_kv[:, mla.kv_lora_rank :]
    c_kv = _rms_norm(c_kv, weights["kv_a_layernorm"], mla.norm_eps) * mla.kv_lora_scale
    k_nope, v = _keys_and_values(c_kv, weights, mla, num_heads)
    q_rope = _rotate(q_rope, positions, rope, mla.interleaved_rope)
    k_rope = _rotate(k_rope[:, None, :], positions, rope, mla.interleaved_rope)[:, 0]
    out = np.empty((len(x), num_heads, mla.v_head_dim), x.dtype)
    for h in range(num_heads):
        scores = (q_nope[:, h] @ k_nope[:, h].T + q_rope[:, h] @ k_rope.T) * scale
        out[:, h] = _causal_softmax(scores) @ v[:, h]
    return out.reshape(len(x), num_heads * mla.v_head_dim)


def layer_factors(db: WeightDatabase, layer: int) -> dict[str, Array]:
    """Read a layer's factors as `reference_mla` takes them, fused or not, whichever a store holds.

    Parameters
    ----------
    db : WeightDatabase
        A store of the kept form, or a bare checkpoint.
    layer : int

    Returns
    -------
    dict of str to array
        float32.
    """
    down = (_FUSED,) if _ATTENTION.format(layer, f"{_FUSED}.weight") in db else _DOWN
    names = {f"{module}.weight": module for module in (*down, *_FACTORS)}
    names |= {f"{module}.bias": f"{module}.bias" for module in (*down, "q_proj")}
    keys = {short: _ATTENTION.format(layer, role) for role, short in names.items()}
    return {short: np.asarray(db[key].read(dtype=np.float32)) for short, key in keys.items() if key in db}


def _down(x: Array, weights: Mapping[str, Array], mla: MLA) -> tuple[Array | None, Array]:
    """Give c_q (T, q_lora_rank), None where there is no such rank, and [c_kv | k_rope]."""
    if _FUSED in weights:
        both = _project(x, weights, _FUSED)
        return both[:, : mla.q_lora_rank], both[:, mla.q_lora_rank :]
    c_q = None if mla.q_lora_rank is None else _project(x, weights, "q_a_proj")
    return c_q, _project(x, weights, "kv_a_proj_with_mqa")


def _queries(c: Array, weights: Mapping[str, Array], mla: MLA, num_heads: int) -> tuple[Array, Array]:
    """Give q_nope and q_rope, (T, heads, nope) and (T, heads, rope), from c_q, or from the input itself."""
    if mla.q_lora_rank is None:
        q = _project(c, weights, "q_proj")
    else:
        c = _rms_norm(c, weights["q_a_layernorm"], mla.norm_eps) * mla.q_lora_scale
        q = _project(c, weights, "q_b_proj")
    q = q.reshape(len(c), num_heads, mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    return q[..., : mla.qk_nope_head_dim], q[..., mla.qk_nope_head_dim :]


def _keys_and_values(
    c_kv: Array, weights: Mapping[str, Array], mla: MLA, num_heads: int
) -> tuple[Array, Array]:
    """Give k_nope and v, (T, heads, nope) and (T, heads, v), from the normed c_kv (T, kv_lora_rank)."""
    if "kv_b_proj" in weights:
        both = _project(c_kv, weights, "kv_b_proj").reshape(len(c_kv), num_heads, -1)
        return both[..., : mla.qk_nope_head_dim], both[..., mla.qk_nope_head_dim :]
    k_nope = np.einsum("tr,hrn->thn", c_kv, weights["k_b_proj"])
    v = np.einsum("tr,hvr->thv", c_kv, weights["v_b_proj"])
    return k_nope, v


def _project(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    y: Array = x @ weights[name].astype(x.dtype).T
    return y + weights[f"{name}.bias"].astype(x.dtype) if f"{name}.bias" in weights else y


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    normed: Array = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight.astype(x.dtype)
    return normed


def _rotate(x: Array, positions: Array, rope: Rope, interleaved: bool) -> Array:
    """Turn the pairs of (T, heads, rope) by their angles: (0, 1), (2, 3), ... where interleaved."""
    angles = np.outer(positions.astype(np.float32), np.array(rope.inv_freq, np.float32)).astype(np.float64)
    cos = (np.cos(angles) * rope.attention_factor).astype(x.dtype)[:, None, :]
    sin = (np.sin(angles) * rope.attention_factor).astype(x.dtype)[:, None, :]
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    # The order of the turned dimensions is free, as long as Q and K have the same.
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _causal_softmax(scores: Array) -> Array:
    """Give the softmax of (T, T) over the keys at or before each query."""
    scores = np.where(np.tri(len(scores), dtype=np.bool_), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalized: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normalized
