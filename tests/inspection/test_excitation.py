"""Features of experts that only some families have: clamped and biased ones, none, and ones beside an MLP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.stores import Stores
from wvindex.inspection.excitation import Excited, excited
from wvindex.inspection.feature_norms import feed_forward

TOKENS = list(range(40, 60))
ALL = 10_000


def found_in(name: str, stores: Stores) -> list[Excited]:
    with wv.open(stores.build(stores.safetensors(name))) as db:
        return list(excited(db, TOKENS, [0], ALL))


def normed(weights: dict[str, NDArray[np.float32]], norm: str, eps: float) -> NDArray[Any]:
    x = weights["model.embed_tokens.weight"][TOKENS].astype(np.float64)
    scaled: NDArray[Any] = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * weights[norm]
    return scaled


def test_gpt_oss_s_are_clamped_and_biased(stores: Stores) -> None:
    weights = checkpoint("gpt_oss").decoded()
    x = normed(weights, "model.layers.0.post_attention_layernorm.weight", 1e-5)
    stem = "model.layers.0.mlp.experts.gate_up_proj"
    for one in found_in("gpt_oss", stores):
        both = x[one.position] @ weights[stem][one.expert] + weights[f"{stem}_bias"][one.expert]
        gate, up = min(both[2 * one.feature], 7.0), np.clip(both[2 * one.feature + 1], -7, 7)
        expected = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
        assert one.activation == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_row_of_zeros_does_not_silence_what_a_one_is_added_to(stores: Stores) -> None:
    with wv.open(stores.build(stores.safetensors("gpt_oss"))) as db:
        block = feed_forward(db, 0, "mlp.experts")
        assert block is not None
        assert block.has_bias >= {"up"}


def test_longcat_s_stand_beside_an_mlp_and_some_have_no_features(stores: Stores) -> None:
    found = found_in("longcat_flash", stores)
    assert {one.part for one in found} == {"mlp", "mlp.experts"}
    assert {one.expert for one in found if one.part == "mlp.experts"} == set(range(5))
    weights = checkpoint("longcat_flash").decoded()
    x = normed(weights, "model.layers.0.post_attention_layernorm.0.weight", 1e-5)
    for part, stem in (("mlp", "mlps.0"), ("mlp.experts", "mlp.experts.{}")):
        for one in [one for one in found if one.part == part][:500]:
            name = f"model.layers.0.{stem.format(one.expert)}"
            gate, up = (
                x[one.position] @ weights[f"{name}.{p}_proj.weight"][one.feature] for p in ("gate", "up")
            )
            assert one.activation == pytest.approx(gate / (1 + np.exp(-gate)) * up, rel=1e-4, abs=1e-4)
