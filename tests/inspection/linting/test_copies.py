"""WV4xx: dead and duplicate experts, repeated layers, heads that are the embedding."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.planted import Array, Change, number, one_finding, patched, planted, put
from tests.support.stores import Stores
from tests.support.tensors import plain_tensor
from wvindex.inspection.linting.eye import look_at
from wvindex.inspection.linting.sketch import are_equal, candidates, cosine

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def expert(layer: int, number: int, projection: str) -> str:
    return f"model.layers.{layer}.block_sparse_moe.experts.{number}.{projection}.weight"


def shrunk(values: Array) -> Array:
    return (values.astype(np.float32) * 1e-5).astype(values.dtype)


def another(name: str, key: str, noise: float = 0.0) -> Change:
    """Give a change to another tensor's values, and noise of a share of their standard deviation."""

    def change(values: Array) -> Array:
        other = checkpoint(name).tensors[key].astype(np.float32)
        rng = np.random.default_rng(0)
        changed: Array = other + noise * other.std() * rng.standard_normal(other.shape)
        return changed.astype(values.dtype)

    return change


@pytest.mark.parametrize("change", [put(..., 0), shrunk])
def test_dead_experts(change: Change, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "mixtral", {expert(1, 2, "w2"): change}), "WV401")
    assert found.tensor == "model.layers.1.mlp.experts.down_proj.weight"
    assert (found.expert, found.indices, found.count) == (2, (2,), 1)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_duplicate_experts(noise: float, tmp_path: Path) -> None:
    changes = {expert(0, 3, "w1"): another("mixtral", expert(0, 1, "w1"), noise)}
    found = one_finding(planted(tmp_path, "mixtral", changes), "WV402")
    assert found.tensor == "model.layers.0.mlp.experts.gate_proj.weight"
    assert (found.expert, found.indices) == (3, (3,))
    assert found.message.endswith("3 is 1")
    with wv.open(tmp_path) as db:
        one, other = (db[found.tensor][i].astype(np.float64).reshape(-1) for i in (1, 3))
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found.value == pytest.approx(expected, abs=1e-6)


def test_experts_that_are_only_alike_are_healthy(tmp_path: Path) -> None:
    changes = {expert(0, 3, "w1"): another("mixtral", expert(0, 1, "w1"), noise=0.2)}  # a cosine of 0.98
    assert wv.check(planted(tmp_path, "mixtral", changes)).findings == ()


def test_all_copies_of_one_expert_are_counted(tmp_path: Path) -> None:
    changes = {expert(0, i, "w1"): another("mixtral", expert(0, 0, "w1")) for i in (1, 2, 3)}
    found = one_finding(planted(tmp_path, "mixtral", changes), "WV402")
    assert (found.count, found.indices) == (3, (1, 2, 3))


def layer_copy(name: str, source: int, target: int, noise: float = 0.0) -> dict[str, Change]:
    prefix = f"model.layers.{source}."
    return {
        key.replace(prefix, f"model.layers.{target}."): another(name, key, noise)
        for key in checkpoint(name).tensors
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_duplicate_layers(noise: float, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "qwen3", layer_copy("qwen3", 0, 2, noise)), "WV403")
    assert (found.severity, found.layer, found.indices) == ("warning", 2, (0, 2))
    assert number(found) >= 0.99


def test_layers_that_share_some_matrices_are_healthy(tmp_path: Path) -> None:
    changes = layer_copy("qwen3", 0, 2)
    some = {key: change for key, change in changes.items() if "mlp" in key}
    assert wv.check(planted(tmp_path, "qwen3", some)).findings == ()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_the_embedding(tied: bool, tmp_path: Path) -> None:
    changes = {HEAD: another("llama", EMBEDDING)}
    path = planted(tmp_path, "llama", changes, config={"tie_word_embeddings": tied})
    found = one_finding(path, "WV404")
    assert (found.severity, found.tensor, found.value) == ("warning", HEAD, 1.0)
    assert found.message == (
        f"holds the same values as the embedding: {264 * 128 * 2} bytes more; "
        f"tie_word_embeddings is {str(tied).lower()}"
    )


def test_a_head_that_is_the_embedding_in_another_encoding(tmp_path: Path) -> None:
    rounded = checkpoint("llama").tensors[EMBEDDING].astype(ml_dtypes.float8_e4m3fn)
    path = planted(tmp_path, "llama", {HEAD: lambda values: rounded})
    found = one_finding(path, "WV404", rules=["WV4"])
    assert "but for its encoding" in found.message
    assert 0.999 <= number(found) < 1


def test_a_tied_model_with_another_head(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", config={"tie_word_embeddings": True}), "WV405")
    assert (found.severity, found.tensor) == ("error", HEAD)


def test_copies_are_found_in_packed_stacks(stores: Stores, tmp_path: Path) -> None:
    def copy(blocks: Array) -> None:
        experts = blocks.reshape(4, -1)
        experts[2] = experts[0]

    source = stores.gguf("mixtral", dtype="Q8_0")
    found = one_finding(patched(source, tmp_path / "a.gguf", "blk.1.ffn_up_exps.weight", copy), "WV402")
    assert found.expert == 2
    assert number(found) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-300, 1e-50, 1e150, 1e300])
def test_copies_are_found_at_any_scale_of_float64(scale: float) -> None:
    values = np.random.default_rng(0).standard_normal((4, 16, 8))
    values[3] = values[1] + 0.01 * values[0]
    stack = plain_tensor(values * scale, key="model.layers.0.mlp.experts.up_proj.weight")
    assert candidates(look_at(stack).sketches) == [(1, 3)]
    one, other = values[1].reshape(-1), values[3].reshape(-1)
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine([stack.expert(1)], [stack.expert(3)]) == pytest.approx(expected, rel=1e-12)
    assert not are_equal(plain_tensor(values), plain_tensor(values * (1 + 1e-12)))
