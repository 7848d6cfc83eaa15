"""WV6xx: the configuration against what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.planted import Array, one_finding, planted


def layer(name: str, number: int) -> tuple[str, ...]:
    return tuple(key for key in checkpoint(name).tensors if key.startswith(f"model.layers.{number}."))


def test_missing_layers(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", drop=layer("llama", 1)), "WV601")
    assert (found.severity, found.layer, found.count, found.indices) == ("error", 1, 1, (1,))
    assert found.message == "1 of 3 layers are missing: 1"


def test_extra_layers(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", config={"num_hidden_layers": 2}), "WV602")
    assert (found.severity, found.layer, found.indices) == ("warning", 2, (2,))


def test_layers_for_multi_token_prediction_are_counted_apart(tmp_path: Path) -> None:
    path = planted(tmp_path, "deepseek_v3", config={"num_nextn_predict_layers": 0})
    assert one_finding(path, "WV602").layer == 3


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("llama", "mlp.up_proj.weight"),
        ("llama", "post_attention_layernorm.weight"),
        ("llama", "self_attn.v_proj.weight"),
        ("qwen2", "self_attn.k_proj.bias"),
        ("qwen3", "self_attn.q_norm.weight"),
        ("gemma2", "post_feedforward_layernorm.weight"),
        ("deepseek_v3", "mlp.gate.weight"),
        ("deepseek_v3", "mlp.shared_experts.down_proj.weight"),
    ],
)
def test_missing_tensors(name: str, role: str, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, name, drop=(f"model.layers.2.{role}",)), "WV603")
    assert (found.severity, found.layer, found.value) == ("error", 2, role)


@pytest.mark.parametrize("key", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_missing_roots(key: str, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", drop=(key,)), "WV603")
    assert (found.value, found.tensor) == (key, None)


def grown(values: Array) -> Array:
    return np.concatenate([values, values[:2]])


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("qwen2", "model.layers.1.self_attn.q_proj.bias", "the shape is 130, expected 128"),
        ("qwen3", "model.layers.1.self_attn.k_norm.weight", "the shape is 50, expected 48 or 192 or 96"),
        (
            "deepseek_v3",
            "model.layers.2.mlp.gate.e_score_correction_bias",
            "the shape is 10, expected 8",
        ),
        ("llama", "lm_head.weight", "the shape is 266x128, expected 264x128"),
    ],
)
def test_shapes(name: str, key: str, message: str, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, name, {key: grown}), "WV604", ignore=["WV502"])
    assert (found.severity, found.tensor, found.message) == ("error", key, message)


def test_routers_that_are_too_small(tmp_path: Path) -> None:
    gate, bias = (f"model.layers.2.mlp.gate.{name}" for name in ("weight", "e_score_correction_bias"))
    changes = {gate: lambda values: values[:6], bias: lambda values: values[:6]}
    found = one_finding(planted(tmp_path, "deepseek_v3", changes), "WV606")
    assert (found.severity, found.tensor, found.message) == ("error", gate, "6 rows for 8 experts")


def test_routers_may_have_rows_beyond_the_experts(tmp_path: Path) -> None:
    gate, bias = (f"model.layers.2.mlp.gate.{name}" for name in ("weight", "e_score_correction_bias"))
    assert wv.check(planted(tmp_path, "deepseek_v3", {gate: grown, bias: grown})).findings == ()


def test_a_bias_without_a_weight(tmp_path: Path) -> None:
    key = "model.layers.0.mlp.fc_proj.bias"
    found = one_finding(
        planted(tmp_path, "llama", add={key: np.ones(4, np.float32)}), "WV605", ignore=["WV701"]
    )
    assert (found.severity, found.tensor) == ("warning", key)


def test_a_source_that_cannot_be_opened_is_an_error_and_no_finding(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", config={"hidden_size": 64})
    with pytest.raises(wv.WvindexError) as raised:
        wv.check(path)
    assert raised.value.exit_code == 3
