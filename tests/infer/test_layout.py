"""A model that cannot be run is refused before a weight is read, with what is missing or wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_models import MODELS, ROPE, tiny_model
from wvindex.errors import MetadataError, UnsupportedModel
from wvindex.formats.arrays import RowScale
from wvindex.infer import Model


def test_a_good_model_is_checked_without_reading_a_weight() -> None:
    for name in MODELS:
        db = tiny_model(name)
        Model(db)
        assert not db.reads


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_needed_but_the_optional_ones(name: str) -> None:
    optional = (".bias", "sinks", "q_norm", "k_norm", "pre_feedforward", "other", "e_score_correction_bias")
    for key in tiny_model(name).arrays:
        if any(part in key for part in optional) or key.endswith("1.post_feedforward_layernorm.weight"):
            continue
        db = tiny_model(name)
        del db.arrays[key]
        with pytest.raises(UnsupportedModel, match=r"is missing") as raised:
            Model(db)
        assert raised.value.tensor == key


@pytest.mark.parametrize("name", MODELS)
def test_every_shape_is_checked(name: str) -> None:
    for key, array in tiny_model(name).arrays.items():
        if "other.bias" in key:
            continue
        db = tiny_model(name)
        db.arrays[key] = np.concatenate([array, array[..., :1]], axis=-1)
        with pytest.raises(MetadataError, match=r"contradicts") as raised:
            Model(db)
        assert raised.value.tensor == key


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"family": None}, "model_type"),
        ({"attention_form": "factored"}, "attention_form"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"head_dim": None, "rms_norm_eps": None}, "head_dim, rms_norm_eps"),
        ({"attention_scale": None}, "attention_scale"),
        ({"rope": {}}, "rope.full_attention"),
        ({"layer_types": ("sliding_attention",) * 3, "rope": {"sliding_attention": ROPE}}, "sliding_window"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    db = tiny_model("llama")
    db.config = replace(db.config, **changes)
    with pytest.raises(UnsupportedModel) as raised:
        Model(db)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layer_types": ("full_attention",) * 2}, "layer_types"),
        ({"rope": {"full_attention": replace(ROPE, rotary_dim=10)}}, "rope.full_attention.rotary_dim"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes: dict[str, Any], field: str) -> None:
    db = tiny_model("llama")
    db.config = replace(db.config, **changes)
    with pytest.raises(MetadataError) as raised:
        Model(db)
    assert raised.value.field == field


def test_what_the_configuration_says_cannot_be_run_is_repeated() -> None:
    db = tiny_model("llama")
    db.config = replace(db.config, refuses_to_run=("rope_type 'dynamic'",))
    with pytest.raises(UnsupportedModel, match=r"rope_type 'dynamic'"):
        Model(db)


def test_factors_are_refused_with_the_way_out() -> None:
    db = tiny_model("llama")
    db.config = replace(db.config, attention_form="factored")
    with pytest.raises(
        UnsupportedModel, match=r"factored projections; build a dense one with `wvindex build`"
    ):
        Model(db)


@pytest.mark.parametrize(
    ("rows", "head_slice", "field"),
    [
        ((0, 15), (0, 8), "row_scale.rows"),
        ((6, 6), (0, 8), "row_scale.rows"),
        ((0, 6), (0, 9), "row_scale.head_slice"),
        ((0, 6), (-1, 4), "row_scale.head_slice"),
    ],
)
def test_a_factor_that_does_not_fit_is_refused(
    rows: tuple[int, int], head_slice: tuple[int, int], field: str
) -> None:
    db = tiny_model("asymmetric")
    attn = "model.layers.1.self_attn"
    scale = RowScale(weight=f"{attn}.other.weight", rows=rows, eps=1e-6, head_slice=head_slice)
    db.row_scales[f"{attn}.q_proj.weight"] = scale
    with pytest.raises(MetadataError) as raised:
        Model(db)
    assert raised.value.field == field


def test_a_tied_head_is_not_looked_for() -> None:
    db = tiny_model("llama")
    del db.arrays["lm_head.weight"]
    with pytest.raises(UnsupportedModel, match=r"lm_head"):
        Model(db)
    db.config = replace(db.config, tie_word_embeddings=True)
    assert Model(db).forward([1, 2]).logits.shape == (2, 50)
