"""WV3xx: norms, routers and rotary embedding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import wvindex as wv
from tests.support.planted import one_finding, planted, put
from tests.support.stores import Stores

NORM = "model.layers.1.input_layernorm.weight"
GATE = "model.layers.2.mlp.gate.weight"


def test_norms_beyond_all_measure(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {NORM: put(9, -20000)}), "WV301")
    assert (found.tensor, found.column, found.count) == (NORM, 9, 1)
    assert found.value == pytest.approx(-20000, rel=0.01)


def test_norms_most_of_which_are_not_positive(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {NORM: put(slice(0, 65), 0)}), "WV301")
    assert (found.column, found.count, found.value) == (0, 65, 0)


def test_some_negative_weights_are_information(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {NORM: put([4, 8], -0.01)}), "WV302")
    assert (found.severity, found.tensor, found.indices) == ("info", NORM, (4, 8))


def test_gemma_stores_one_less_than_it_multiplies_by(tmp_path: Path) -> None:
    low = planted(tmp_path / "low", "gemma2", {NORM: put(..., -0.9)})
    zero = planted(tmp_path / "zero", "gemma2", {NORM: put(..., -1)})
    assert wv.check(low).findings == ()
    assert one_finding(zero, "WV301").value == 0


@pytest.mark.parametrize("part", ["weight", "e_score_correction_bias"])
def test_routers(part: str, tmp_path: Path) -> None:
    key = GATE.replace("weight", part)
    index = (3, 5) if part == "weight" else 3
    found = one_finding(planted(tmp_path, "deepseek_v3", {key: put(index, np.nan)}), "WV303")
    assert (found.severity, found.tensor, found.layer, found.count) == ("error", key, 2, 1)
    assert (found.row, found.column) == ((3, 5) if part == "weight" else (None, 3))


def test_context_beyond_the_slowest_dimension(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "mistral", config={"rope_theta": 100.0}), "WV304")
    expected = 2 * np.pi * 100.0 ** (30 / 32)  # heads of 32: the last pair has exponent 30/32
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert "2048 tokens" in found.message


def test_a_scaling_reaches_further(tmp_path: Path) -> None:
    scaling = {"type": "linear", "factor": 8.0}
    path = planted(tmp_path, "mistral", config={"rope_theta": 100.0, "rope_scaling": scaling})
    assert wv.check(path).findings == ()


def test_windows_bound_how_far_attention_looks(tmp_path: Path) -> None:
    path = planted(tmp_path, "mistral-window", config={"rope_theta": 100.0})
    assert wv.check(path).findings == ()


def test_factors_for_a_context_that_is_never_reached(tmp_path: Path) -> None:
    changed = {"max_position_embeddings": 64, "original_max_position_embeddings": 96}
    found = one_finding(planted(tmp_path, "phi3-longrope", config=changed), "WV304")
    assert found.value == 96


def test_layers_and_rotary_parameters_that_do_not_belong_together(stores: Stores) -> None:
    with wv.open(stores.safetensors("gemma2")) as db:
        rope = dict(db.config.rope)
        wide = replace(rope.pop("full_attention"), rotary_dim=512)
        db.config = replace(db.config, rope={"sliding_attention": wide})
        findings = wv.check(db, rules=["WV305"]).findings
    assert [finding.value for finding in findings] == ["full_attention", 512]
