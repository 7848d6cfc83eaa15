"""Queries are multiplied by what Llama 4's formula gives for their position."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import golden
from tests.support.stores import Stores
from wvindex.infer import Model
from wvindex.infer.layout import Dimensions
from wvindex.infer.temperature import query_temperature


@pytest.fixture
def dims(stores: Stores) -> Dimensions:
    with wvindex.open(stores.build(stores.safetensors("mistral4"))) as db:
        return Model(db).dimensions


def test_the_factor_grows_by_steps(dims: Dimensions) -> None:
    dims = replace(dims, attn_temperature_scale=0.4, attn_temperature_length=32)
    factors = query_temperature(dims, 30, 70)
    assert factors is not None
    expected = [1 + 0.4 * math.log(1 + position // 32) for position in range(30, 100)]
    np.testing.assert_allclose(factors[:, 0], expected, rtol=1e-7)
    assert factors.shape == (70, 1)
    assert factors.dtype == np.float32


@pytest.mark.parametrize("off", [{"attn_temperature_scale": 0.0}, {"attn_temperature_length": None}])
def test_models_without_it_have_none(dims: Dimensions, off: dict[str, Any]) -> None:
    assert query_temperature(replace(dims, **off), 0, 4) is None


def test_it_matters_from_the_first_step_on(stores: Stores) -> None:
    """So the reference logits of 80 tokens prove it: without it they are others, from position 32."""
    ids, expected = golden("mistral4")
    with wvindex.open(stores.build(stores.safetensors("mistral4"))) as db:
        model = Model(db)
        flat = replace(model.dimensions, attn_temperature_scale=0.0)
        for layer in model.layers:
            layer.dims = flat
        model.dimensions = flat
        difference = np.abs(model.forward(ids).logits - expected).max(axis=-1)
    assert difference[:32].max() < 1e-3
    assert difference[40:].min() > 1e-2
