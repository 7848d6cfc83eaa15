"""Gated MLPs and mixtures of them, with the routing of Mixtral, Qwen3-MoE and DeepSeek-V2 and V3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MoE
from wvindex.errors import MetadataError

_SQRT_2_OVER_PI: Final = np.float32(math.sqrt(2 / math.pi))

Map = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Projection = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give ``1 / (1 + exp(-x))``, by an exponential that cannot overflow."""
    e: NDArray[np.float32] = np.exp(-np.abs(x))
    numerator: NDArray[np.float32] = np.where(x >= 0, np.float32(1), e)
    return numerator / (1 + e)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the softmax over the last axis."""
    e: NDArray[np.float32] = np.exp(x - x.max(axis=-1, keepdims=True))
    normalized: NDArray[np.float32] = e / e.sum(axis=-1, keepdims=True)
    return normalized


def silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give ``x * sigmoid(x)``, or ``x / (1 + exp(-x))`` (SiLU, or swish)."""
    with np.errstate(over="ignore"):  # an infinite exponential gives the 0 that is right
        e: NDArray[np.float32] = np.exp(-x)
    e += 1
    return np.divide(x, e, out=e)


def gelu_tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give GELU in its tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415)."""
    squashed: NDArray[np.float32] = np.tanh(_SQRT_2_OVER_PI * (x + np.float32(0.044715) * x * x * x))
    return np.float32(0.5) * x * (1 + squashed)


ACTIVATIONS: Final[dict[str, Map]] = {"silu": silu, "gelu_pytorch_tanh": gelu_tanh}
"""By Hugging Face's `hidden_act`. Exact GELU is not among them: NumPy has no error function."""


def gated_mlp(x: NDArray[np.float32], project: Projection, activation: Map) -> NDArray[np.float32]:
    """Give ``down(activation(gate(x)) * up(x))`` (GLU variants, arXiv:2002.05202).

    Parameters
    ----------
    x : (T, hidden_size) float32
    project : callable
        Applies the projection of a name, ``gate``, ``up`` or ``down``, to its second argument. It may
        fetch the weight at that moment, so that only one is in use at a time.
    activation : callable
        One of `ACTIVATIONS`.
    """
    hidden = activation(project("gate", x))
    hidden *= project("up", x)
    return project("down", hidden)


def clamped_swiglu(
    gate: NDArray[np.float32], up: NDArray[np.float32], limit: float, alpha: float
) -> NDArray[np.float32]:
    """Give ``(up + 1) * gate * sigmoid(alpha * gate)``, gate at most `limit`, up within it on both sides.

    So GPT-OSS's experts have it (OpenAI's ``gpt_oss/torch/model.py``).
    """
    bound = np.float32(limit)
    gate = np.minimum(gate, bound)
    up = np.clip(up, -bound, bound)
    return (up + 1) * gate * sigmoid(np.float32(alpha) * gate)


def expert_features(
    x: NDArray[np.float32], project: Projection, moe: MoE, activation: Map
) -> NDArray[np.float32]:
    """Give what an expert multiplies by its down projection: a gated or, where `moe` says so, clamped MLP's.

    Parameters are as in `gated_mlp`.
    """
    gate, up = project("gate", x), project("up", x)
    if moe.swiglu_limit is not None:
        return clamped_swiglu(gate, up, moe.swiglu_limit, moe.swiglu_alpha)
    hidden = activation(gate)
    hidden *= up
    return hidden


def route(
    logits: NDArray[np.float32], moe: MoE, bias: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choose experts for each token, and weigh them.

    Scores are the softmax or sigmoid of the logits. The choice is by score plus `bias`, among the best
    `topk_group` of `n_group` groups; the weights are the scores without the bias. So do transformers'
    Mixtral, Qwen3-MoE (softmax, no groups), DeepSeek-V2 (``group_limited_greedy``: a group counts by its
    best expert) and DeepSeek-V3 (``noaux_tc``: by the sum of its best two, bias included).

    Parameters
    ----------
    logits : (T, n_routed_experts + n_zero_experts) float32
    moe : MoE
    bias : (n_routed_experts + n_zero_experts,) float32, optional
        `e_score_correction_bias`.

    Returns
    -------
    indices : (T, num_experts_per_tok) int64
        Best first; of equal scores the lower index. From `n_routed_experts` on they name experts without
        weights.
    weights : (T, num_experts_per_tok) float32
        Normalized to a sum of 1 if `norm_topk_prob`, then times `routed_scaling_factor`.

    Raises
    ------
    MetadataError
        If the numbers of experts and groups contradict each other.
    """
    check_routing(moe)
    scores = sigmoid(logits) if moe.scoring_func == "sigmoid" else softmax(logits)
    choice = scores if bias is None else scores + bias
    if moe.topk_method != "greedy":
        choice = np.where(_in_best_groups(choice, moe), choice, -np.inf)
    indices = _top(choice, moe.num_experts_per_tok)
    weights: NDArray[np.float32] = np.take_along_axis(scores, indices, axis=1)
    if moe.norm_topk_prob:
        weights = weights / (weights.sum(axis=1, keepdims=True) + np.float32(1e-20))
    return indices, weights * np.float32(moe.routed_scaling_factor)


def mixture(
    x: NDArray[np.float32],
    indices: NDArray[np.int64],
    weights: NDArray[np.float32],
    expert: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Sum the chosen experts' outputs with their weights; an expert that no token chose is not called.

    Parameters
    ----------
    x : (T, hidden_size) float32
    indices, weights : (T, num_experts_per_tok)
    expert : callable
        Gives expert e's output for its tokens, (n, hidden_size).

    Returns
    -------
    (T, hidden_size) float32
    """
    out = np.zeros_like(x)
    for e in np.unique(indices).tolist():
        tokens, slots = np.nonzero(indices == e)  # a token names an expert once, so `tokens` has no repeats
        out[tokens] += expert(e, x[tokens]) * weights[tokens, slots, None]
    return out


def check_routing(moe: MoE) -> None:
    """Refuse numbers of experts and groups that cannot go together."""
    if moe.n_zero_experts and moe.topk_method != "greedy":
        raise MetadataError(
            "experts without weights are in no group",
            field="topk_method",
            expected="greedy",
            found=moe.topk_method,
        )
    if moe.n_group < 1 or moe.n_routed_experts % moe.n_group:
        raise MetadataError(
            "experts do not divide into groups",
            field="n_group",
            expected=f"a divisor of {moe.n_routed_experts} experts",
            found=moe.n_group,
        )
    if not 1 <= moe.topk_group <= moe.n_group:
        raise MetadataError(
            "more groups are chosen than there are",
            field="topk_group",
            expected=f"1 to {moe.n_group}",
            found=moe.topk_group,
        )
    grouped = moe.topk_method != "greedy"
    everything = moe.n_routed_experts + moe.n_zero_experts
    candidates = moe.n_routed_experts // moe.n_group * moe.topk_group if grouped else everything
    if not 1 <= moe.num_experts_per_tok <= candidates:
        raise MetadataError(
            "more experts are chosen than there are to choose from",
            field="num_experts_per_tok",
            expected=f"1 to {candidates}",
            found=moe.num_experts_per_tok,
        )


def _in_best_groups(choice: NDArray[np.float32], moe: MoE) -> NDArray[np.bool_]:
    """Mark the experts, (T, n_routed_experts), of the `topk_group` groups that score best."""
    grouped = choice.reshape(len(choice), moe.n_group, -1)
    counted = min(2 if moe.topk_method == "noaux_tc" else 1, grouped.shape[2])
    group_scores = np.sort(grouped, axis=2)[:, :, -counted:].sum(axis=2)
    best = np.zeros(group_scores.shape, np.bool_)
    np.put_along_axis(best, _top(group_scores, moe.topk_group), True, axis=1)
    return np.repeat(best, grouped.shape[2], axis=1)


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
