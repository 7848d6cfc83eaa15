"""LongCat-Flash's experts: beside the MLP, a layer later, and some of them without weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex
from tests.support.checkpoints import checkpoint, golden
from tests.support.fake_db import FakeDatabase
from tests.support.stores import Stores
from wvindex.errors import MetadataError, UnsupportedModel
from wvindex.infer import Model
from wvindex.query.database import Store

ROUTED, ZERO = 5, 3


@pytest.fixture
def db(stores: Stores) -> Any:
    with wvindex.open(stores.build(stores.safetensors("longcat_flash"))) as opened:
        yield opened


def in_memory(db: Store) -> FakeDatabase:
    arrays = {key: np.asarray(db[key]) for key in db}
    scales = {key: scale for key in db if (scale := db[key].row_scale) is not None}
    return FakeDatabase(db.config, arrays, scales)


def silu(x: NDArray[Any]) -> NDArray[Any]:
    activated: NDArray[Any] = x / (1 + np.exp(-x))
    return activated


def test_a_sublayer_is_a_layer_and_experts_stand_with_the_first(db: Store) -> None:
    assert db.config.num_hidden_layers == 2 * checkpoint("longcat_flash").config["num_layers"]
    routed = [layer for layer in range(4) if f"model.layers.{layer}.mlp.gate.weight" in db]
    dense = [layer for layer in range(4) if f"model.layers.{layer}.mlp.gate_proj.weight" in db]
    assert (routed, dense) == ([0, 2], [0, 1, 2, 3])
    name = "model.layers.1.self_attn.1.o_proj.weight"
    np.testing.assert_array_equal(
        np.asarray(db["model.layers.3.self_attn.o_proj.weight"]), checkpoint("longcat_flash").tensors[name]
    )
    assert db[name].key == "model.layers.3.self_attn.o_proj.weight"


def test_what_the_experts_give_is_added_after_the_next_layer(db: Store) -> None:
    """By the definition, in float64, from what the layers took in and gave."""
    ids, _ = golden("longcat_flash")
    seen = Model(db).forward(ids, capture=["layers.*"]).captured
    x = seen["layers.0.mlp.in"].astype(np.float64)
    experts, weights = seen["layers.0.mlp.router.experts"], seen["layers.0.mlp.router.weights"]
    assert experts.max() >= ROUTED
    assert (experts >= ROUTED).mean() > 0.1
    stacks = {
        part: np.asarray(db[f"model.layers.0.mlp.experts.{part}_proj.weight"]).astype(np.float64)
        for part in ("gate", "up", "down")
    }
    expected = np.zeros_like(x)
    for token, (chosen, scores) in enumerate(zip(experts, weights, strict=True)):
        for expert, score in zip(chosen.tolist(), scores, strict=True):
            y = x[token]
            if expert < ROUTED:
                gate, up = (stacks[part][expert] @ y for part in ("gate", "up"))
                y = stacks["down"][expert] @ (silu(gate) * up)
            expected[token] += float(score) * y
    without = seen["layers.0.residual"] + seen["layers.1.attn.out"] + seen["layers.1.mlp.out"]
    np.testing.assert_allclose(seen["layers.1.residual"] - without, expected, atol=2e-4)


def test_weights_are_the_softmax_without_the_bias_times_the_factor(db: Store) -> None:
    ids, _ = golden("longcat_flash")
    seen = Model(db).forward(ids, capture=["layers.2.mlp.router.*"]).captured
    logits = seen["layers.2.mlp.router.logits"].astype(np.float64)
    assert logits.shape == (80, ROUTED + ZERO)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bias = np.asarray(db["model.layers.2.mlp.gate.e_score_correction_bias"])
    chosen = np.argsort(-(scores + bias), axis=1)[:, :3]
    np.testing.assert_array_equal(np.sort(seen["layers.2.mlp.router.experts"]), np.sort(chosen))
    expected = 6.0 * np.take_along_axis(scores, seen["layers.2.mlp.router.experts"], axis=1)
    np.testing.assert_allclose(seen["layers.2.mlp.router.weights"], expected, rtol=1e-5)


def test_experts_of_the_last_layer_lead_nowhere(db: Store) -> None:
    odd = in_memory(db)
    odd.config = replace(db.config, num_hidden_layers=3, layer_types=db.config.layer_types[:3])
    with pytest.raises(UnsupportedModel, match="for the layer after it") as caught:
        Model(odd)
    assert caught.value.tensor == "model.layers.2.mlp.gate.weight"


def test_experts_without_weights_are_in_no_group(db: Store) -> None:
    odd = in_memory(db)
    assert db.config.moe is not None
    odd.config = replace(db.config, moe=replace(db.config.moe, topk_method="noaux_tc"))
    with pytest.raises(MetadataError) as caught:
        Model(odd)
    assert caught.value.field == "topk_method"


def test_a_router_for_the_routed_alone_is_refused(db: Store) -> None:
    odd = in_memory(db)
    odd.arrays["model.layers.0.mlp.gate.weight"] = np.zeros((ROUTED, 128), np.float32)
    with pytest.raises(MetadataError) as caught:
        Model(odd)
    assert caught.value.tensor == "model.layers.0.mlp.gate.weight"
    assert caught.value.expected == (ROUTED + ZERO, 128)
