"""Routers choose what transformers' routers choose; mixtures sum what was chosen and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wvindex.arch.config import MoE
from wvindex.errors import MetadataError
from wvindex.infer.mlp import ACTIVATIONS, clamped_swiglu, gated_mlp, mixture, route, sigmoid, softmax

GOLDEN = Path(__file__).parents[1] / "golden" / "routers.npz"
PLAIN = MoE(n_routed_experts=16, num_experts_per_tok=3, moe_intermediate_size=1)
V2 = replace(PLAIN, norm_topk_prob=False, routed_scaling_factor=2.5)
V3 = replace(V2, scoring_func="sigmoid", topk_method="noaux_tc", n_group=4, topk_group=2, norm_topk_prob=True)
ROUTERS = {
    "mixtral": PLAIN,
    "qwen3_moe": PLAIN,
    "qwen3_moe_raw": replace(PLAIN, norm_topk_prob=False),
    "deepseek_v2_greedy": V2,
    "deepseek_v2_groups": replace(V2, topk_method="group_limited_greedy", n_group=4, topk_group=2),
    "deepseek_v3": V3,
    "deepseek_v3_raw": replace(V3, norm_topk_prob=False),
}
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((30, 16)).astype(np.float32) * 2


def dense(indices: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[Any]:
    rows = np.zeros((len(indices), 16))
    np.put_along_axis(rows, indices, weights, axis=1)
    return rows


@pytest.mark.parametrize("name", ROUTERS)
def test_routing_equals_transformers(name: str) -> None:
    golden = np.load(GOLDEN)
    bias = golden["bias"] if name.startswith("deepseek_v3") else None
    ours = dense(*route(golden["logits"], ROUTERS[name], bias))
    np.testing.assert_array_equal(ours != 0, golden[name] != 0)
    np.testing.assert_allclose(ours, golden[name], rtol=2e-6)


def test_the_bias_moves_the_choice_and_not_the_weights() -> None:
    bias = np.zeros(16, np.float32)
    bias[5] = 10
    indices, weights = route(LOGITS, replace(V3, norm_topk_prob=False, routed_scaling_factor=1.0), bias)
    assert (indices[:, 0] == 5).all()
    np.testing.assert_allclose(weights[:, 0], 1 / (1 + np.exp(-LOGITS[:, 5].astype(np.float64))), rtol=1e-6)


def test_v3_groups_are_scored_by_their_best_two_experts() -> None:
    """Token by token, in float64, from the DeepSeek-V3 report (arXiv:2412.19437, section 2.1.2)."""
    bias = RNG.standard_normal(16).astype(np.float32) * 0.2
    indices, weights = route(LOGITS, V3, bias)
    for t, logits in enumerate(LOGITS.astype(np.float64)):
        score = 1 / (1 + np.exp(-logits))
        biased = score + bias
        sums = [sum(sorted(biased[4 * g : 4 * g + 4])[-2:]) for g in range(4)]
        groups = sorted(range(4), key=lambda g: -sums[g])[:2]
        chosen = sorted((e for e in range(16) if e // 4 in groups), key=lambda e: -biased[e])[:3]
        assert indices[t].tolist() == chosen
        np.testing.assert_allclose(weights[t], 2.5 * score[chosen] / score[chosen].sum(), rtol=1e-5)


def test_choices_come_best_first_and_equal_scores_by_index() -> None:
    indices, weights = route(np.zeros((2, 16), np.float32), PLAIN)
    assert indices.tolist() == [[0, 1, 2]] * 2
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


def test_masked_groups_are_out_even_where_all_biased_scores_are_negative() -> None:
    bias = np.full(16, -5, np.float32)
    indices, _ = route(LOGITS, V3, bias)
    assert all(len({e // 4 for e in row}) <= 2 for row in indices.tolist())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_group": 3}, "n_group"),
        ({"topk_group": 5}, "topk_group"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(MetadataError) as raised:
        route(LOGITS, replace(V3, **changes))
    assert raised.value.field == field


def test_a_mixture_is_the_weighted_sum_of_the_chosen_experts() -> None:
    x = RNG.standard_normal((30, 6)).astype(np.float32)
    matrices = RNG.standard_normal((16, 6, 6)).astype(np.float32)
    indices, weights = route(LOGITS, PLAIN)
    expected = np.zeros((30, 6))
    for t in range(30):
        for e, w in zip(indices[t], weights[t], strict=True):
            expected[t] += w * (matrices[e].astype(np.float64) @ x[t])
    ours = mixture(x, indices, weights, lambda e, tokens: tokens @ matrices[e].T)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_an_expert_that_no_token_chose_is_not_called() -> None:
    called: list[int] = []

    def expert(e: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        called.append(e)
        return x

    mixture(np.ones((2, 4), np.float32), np.array([[7, 2], [2, 9]]), np.ones((2, 2), np.float32), expert)
    assert called == [2, 7, 9]


def test_activations_equal_their_formulas() -> None:
    x = np.linspace(-200, 200, 4001, dtype=np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        silu = wide / (1 + np.exp(-wide))
    gelu = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(ACTIVATIONS["silu"](x), silu, rtol=2e-6, atol=1e-36)
    np.testing.assert_allclose(ACTIVATIONS["gelu_pytorch_tanh"](x), gelu, rtol=1e-5, atol=1e-6)
    assert all(f(x).dtype == np.float32 for f in ACTIVATIONS.values())


def test_scores_do_not_overflow() -> None:
    x = np.array([[-1e30, -200, 0, 200, 1e30]], np.float32)
    np.testing.assert_allclose(sigmoid(x), [[0, 0, 0.5, 1, 1]], atol=1e-30)
    np.testing.assert_allclose(softmax(x), [[0, 0, 0, 0, 1]])


def test_a_gated_mlp_multiplies_the_activated_gate_with_up() -> None:
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    maps = {name: RNG.standard_normal((6, 6)).astype(np.float32) for name in ("gate", "up", "down")}
    ours = gated_mlp(x, lambda name, values: values @ maps[name].T, ACTIVATIONS["silu"])
    gate = x.astype(np.float64) @ maps["gate"].T
    expected = (gate / (1 + np.exp(-gate)) * (x @ maps["up"].T)) @ maps["down"].T
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_clamped_swiglu_is_its_formula_on_both_sides_of_the_limit() -> None:
    """In float64: gate is clamped from above alone, up on both sides, before a 1 is added to it."""
    gate, up = (RNG.standard_normal((40, 8)).astype(np.float32) * 8 for _ in range(2))
    found = clamped_swiglu(gate, up, 7.0, 1.702)
    assert found.dtype == np.float32
    for (i, j), value in np.ndenumerate(found):
        g, u = min(float(gate[i, j]), 7.0), max(-7.0, min(float(up[i, j]), 7.0))
        assert value == pytest.approx((u + 1) * g / (1 + math.exp(-1.702 * g)), rel=2e-5, abs=1e-6)
    assert {np.sign(gate[np.abs(gate) > 7]).min(), np.sign(up[np.abs(up) > 7]).max()} == {-1, 1}


def test_experts_without_weights_are_chosen_like_others() -> None:
    moe = replace(PLAIN, n_routed_experts=13, n_zero_experts=3, norm_topk_prob=False)
    indices, weights = route(LOGITS, moe)
    assert (indices >= 13).any()
    np.testing.assert_allclose(weights, np.take_along_axis(softmax(LOGITS), indices, axis=1))
