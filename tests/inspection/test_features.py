"""``Store.describe``: activations and what features write are transformers', of embeddings alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.arrays import CONFIG, memory_array
from tests.support.checkpoints import checkpoint, names
from tests.support.cli import EXAMPLE
from tests.support.features import MODELS, TEXT, TOKENS, features
from tests.support.safetensors_writer import write_safetensors
from tests.support.stores import Stores
from wvindex.errors import (
    NonFiniteWeights,
    SelectionError,
    UnsupportedModel,
    UnsupportedTokenizer,
    UsageError,
)
from wvindex.inspection.excitation import Excited, excited
from wvindex.query.database import Store

ALL = 10_000
FORMS = [
    (name, form)
    for name in MODELS
    for form in ("safetensors", "gguf")
    if form != "gguf" or name in names(gguf=True)
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_activations_and_outputs_are_those_of_transformers(name: str, form: str, stores: Stores) -> None:
    expected = features(name)
    with wv.open(stores.gguf(name) if form == "gguf" else stores.safetensors(name)) as db:
        assert db.tokenizer.encode(TEXT) == list(TOKENS)
        found = list(excited(db, TOKENS, range(len(db.layers)), ALL))
        for layer in range(len(db.layers)):
            for position in range(len(TOKENS)):
                mine = [one for one in found if (one.layer, one.position) == (layer, position)]
                activations = expected.get(f"{layer}.activations")
                if activations is not None:
                    require_activations(mine, activations[position])
                out = expected[f"{layer}.out"][position]
                np.testing.assert_allclose(output(db, mine), out, rtol=1e-4, atol=1e-5 * np.abs(out).max())


def require_activations(found: list[Excited], activations: NDArray[np.float32]) -> None:
    """Compare a dense layer's features with what its down_proj is given, and see that they fall."""
    by_feature = {one.feature: one.activation for one in found}
    assert sorted(by_feature) == list(range(len(activations)))
    values = [by_feature[i] for i in range(len(activations))]
    np.testing.assert_allclose(values, activations, rtol=1e-4, atol=1e-5 * np.abs(activations).max())
    magnitudes = [abs(one.activation) for one in found]
    assert magnitudes == sorted(magnitudes, reverse=True)
    assert {(one.part, one.expert, one.weight) for one in found} == {("mlp", None, 1.0)}


def output(db: Store, found: list[Excited]) -> NDArray[np.float64]:
    """Sum the columns of all features, times activation and weight: the MLP's output."""
    total = np.zeros(db.config.hidden_size or 0)
    for part, expert in {(one.part, one.expert) for one in found}:
        down = db[f"model.layers.{found[0].layer}.{part}.down_proj.weight"]
        matrix = np.asarray(down if expert is None else down.expert(expert)).astype(np.float64)
        for one in found:
            if (one.part, one.expert) == (part, expert):
                total += one.weight * one.activation * matrix[:, one.feature]
    return total


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3"])
def test_what_a_feature_writes(name: str, stores: Stores) -> None:
    tensors = {key: t.astype(np.float64) for key, t in checkpoint(name).tensors.items()}
    offset = 1.0 if name.startswith("gemma") else 0.0
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    gain = tensors["model.norm.weight"] + offset
    with wv.open(stores.safetensors(name)) as db:
        table = db.describe(TEXT, k=3, writes=4, token="last")
    assert any(activation < 0 for activation in table["activation"])
    for row in table:
        stem = f"model.layers.{row['layer']}"
        expert = "" if row["expert"] is None else f".{row['expert']}"
        column = tensors[f"{stem}.{row['part']}{expert}.down_proj.weight"][:, row["feature"]]
        if name == "gemma2":
            column = column * (1 + tensors[f"{stem}.post_feedforward_layernorm.weight"])
        logits = head @ (gain * column) * np.sign(row["activation"])
        best = np.argsort(-logits, kind="stable")[:4]
        assert row["write_tokens"] == best.tolist()
        assert row["write_logits"] == pytest.approx(logits[best].tolist(), rel=1e-9)


@pytest.fixture
def db() -> Iterator[Store]:
    with wv.open(EXAMPLE) as opened:
        yield opened


def test_a_word_that_is_one_token(db: Store) -> None:
    table = db.describe(" Moses", k=2)
    assert set(table["text"]) == {"ĠMoses"}
    assert table["layer"] == [0, 0, 1, 1, 2, 2]
    assert not any("tokens:" in note for note in table.notes)


def test_several_tokens_are_named_and_each_described(db: Store) -> None:
    table = db.describe("Jerusalem", k=1)
    assert list(zip(table["position"], table["text"], table["layer"], strict=True)) == [
        (position, text, layer) for position, text in enumerate(("J", "er", "usalem")) for layer in range(3)
    ]
    assert "the text is 3 tokens: J (43), er (268), usalem (697); each is described by itself" in table.notes


@pytest.mark.parametrize(("token", "text"), [("first", "J"), ("last", "usalem")])
def test_one_of_several_by_choice(token: Any, text: str, db: Store) -> None:
    table = db.describe("Jerusalem", token=token)
    assert set(table["text"]) == {text}
    assert any(note.endswith(f"usalem (697); the {token} is described") for note in table.notes)


def test_each_token_is_what_it_is_alone(db: Store) -> None:
    together, alone = db.describe("Jerusalem", k=3), db.describe("Jerusalem", k=3, token="last")
    last = [row | {"position": 0} for row in together if row["position"] == 2]
    for one, other in zip(last, alone, strict=True):
        assert one["feature"] == other["feature"]
        assert one["activation"] == pytest.approx(other["activation"], rel=1e-5)
        assert one["writes"] == other["writes"]


def test_layers_are_of_the_forward_pass(db: Store, stores: Stores) -> None:
    assert db.describe(" Moses", layers=range(1, 3), k=1)["layer"] == [1, 2]
    with wv.open(stores.safetensors("deepseek_v3")) as with_mtp:
        assert any(tensor.mtp for tensor in with_mtp.values())
        assert set(with_mtp.describe("B", k=1)["layer"]) == {0, 1, 2}


def test_experts_are_those_that_the_router_picks(db: Store) -> None:
    table = db.describe(" Moses", layers=1, k=ALL, writes=1)
    parts = {(part, expert) for part, expert in zip(table["part"], table["expert"], strict=True)}
    assert len(parts) == 1 + (db.config.moe.num_experts_per_tok if db.config.moe else 0)
    assert ("mlp.shared_experts", None) in parts


def test_every_table_says_what_it_is_evidence_of(db: Store) -> None:
    assert "evidence from weights alone" in db.describe(" Moses").notes[0]


def test_progress_ends_at_all_bytes(db: Store) -> None:
    told: list[tuple[int, int]] = []
    db.describe(" Moses", progress=lambda done, total: told.append((done, total)))
    assert len(told) == 3
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("", {}, UsageError),
        ("x" * 300, {}, UsageError),
        ("a", {"k": 0}, UsageError),
        ("a", {"writes": 0}, UsageError),
        ("a", {"token": "middle"}, UsageError),
        ("a", {"layers": 9}, SelectionError),
        ("a", {"layers": True}, SelectionError),
        ("a", {"k": "3"}, UsageError),
        ("a", {"token": 5}, UsageError),
        (5, {}, UsageError),
        (b"a", {}, UsageError),
        (None, {}, UsageError),
    ],
)
def test_what_cannot_be_is_refused(
    text: Any, options: dict[str, Any], error: type[Exception], db: Store
) -> None:
    with pytest.raises(error):
        db.describe(text, **options)


def test_a_feature_that_writes_nan_is_refused_by_name(tmp_path: Path) -> None:
    key, model = "model.layers.1.mlp.down_proj.weight", checkpoint("llama")
    broken = model.tensors[key].copy()
    broken[7] = np.nan
    source = write_safetensors(replace(model, tensors={**model.tensors, key: broken}), tmp_path)
    with wv.open(source) as db, pytest.raises(NonFiniteWeights, match=re.escape(key)):
        db.describe("B")


def test_a_store_without_a_tokenizer_describes_no_text() -> None:
    array = memory_array("model.embed_tokens.weight", (9, 256), "F32")
    with pytest.raises(UnsupportedTokenizer):
        Store("memory", CONFIG, {array.spec.key: (array.spec, array)}).describe("a")


def test_an_unknown_activation_is_refused(db: Store) -> None:
    config = db.config.from_json(db.config.to_json() | {"hidden_act": "gelu"})
    arrays = {key: (tensor.spec, tensor._reader) for key, tensor in db.items()}
    other = Store("memory", config, arrays, tokenizer=lambda: db.tokenizer)
    with pytest.raises(UnsupportedModel, match="hidden_act"):
        other.describe("a")
