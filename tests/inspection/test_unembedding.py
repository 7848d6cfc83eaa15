"""``Store.tokens``: the ends of W_U · (γ ⊙ v), as NumPy has them in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.arrays import CONFIG, memory_array
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE
from tests.support.stores import Stores
from wvindex.errors import KeyNotFound, NonFiniteWeights, SelectionError, UsageError
from wvindex.query.database import Store


@pytest.fixture
def db() -> Iterator[Store]:
    with wv.open(EXAMPLE) as opened:
        yield opened


def require_ends(table: wv.Table, logits: NDArray[np.float64], k: int) -> None:
    """Compare with a stable sort of all logits."""
    order = np.argsort(-logits, kind="stable")[:k], np.argsort(logits, kind="stable")[:k]
    assert table["token"] == np.concatenate(order).tolist()
    assert table["logit"] == pytest.approx(logits[np.concatenate(order)].tolist(), rel=1e-9)
    n = min(k, len(logits))
    assert table["end"] == ["top"] * n + ["bottom"] * n
    assert table["rank"] == [*range(1, n + 1)] * 2


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen2", "llama-linear"])
def test_logits_of_a_direction(name: str, form: str, stores: Stores) -> None:
    tensors = {key: t.astype(np.float64) for key, t in checkpoint(name).tensors.items()}
    offset = 1.0 if name.startswith("gemma") else 0.0
    tied = "lm_head.weight" not in tensors
    assert tied == (name in {"gemma2", "gemma3", "llama-linear", "qwen2"})
    head = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    vector = tensors["model.layers.1.mlp.down_proj.weight"][:, 7]
    with wv.open(stores.gguf(name) if form == "gguf" else stores.safetensors(name)) as db:
        require_ends(db.tokens(vector, 6), head @ ((tensors["model.norm.weight"] + offset) * vector), 6)
        require_ends(db.tokens(vector, 6, norm=False), head @ vector, 6)


def test_more_tokens_than_there_are(db: Store) -> None:
    table = db.tokens(np.ones(256), 5000)
    assert len(table) == 2 * 1024
    assert table["token"][:1024] == table["token"][1024:][::-1]


def test_several_vectors_are_what_each_is_alone(db: Store) -> None:
    vectors = db["model.embed_tokens.weight"][340:343]
    alone = [{"query": i} | row for i, v in enumerate(vectors) for row in db.tokens(v, 3)]
    assert db.tokens(vectors, 3).to_dicts() == alone


def test_a_token_speaks_for_itself_as_the_vocabulary_spells_it(db: Store) -> None:
    first = next(iter(db.tokens(db["lm_head.weight"][342], 1, norm=False)))
    assert (first["token"], first["text"]) == (342, "ĠLORD")


def test_a_zero_vector_says_nothing_and_the_first_tokens_come_first(db: Store) -> None:
    table = db.tokens(np.zeros(256), 2)
    assert (table["token"], table["logit"]) == ([0, 1, 0, 1], [0.0] * 4)


def test_the_table_says_what_was_computed(stores: Stores) -> None:
    with wv.open(stores.safetensors("gemma2")) as db:
        notes = db.tokens(np.ones(128)).notes
        assert notes[0].startswith("evidence from weights alone")
        assert notes[1].endswith("without its RMS; W_U is model.embed_tokens.weight")
        assert notes[2].startswith("the model caps logits, 10 · tanh(x / 10)")
        assert "no norm" in db.tokens(np.ones(128), norm=False).notes[1]


HEAD = memory_array("lm_head.weight", (9, 256), "Q8_0")
NORM = memory_array("model.norm.weight", (256,), "F32")


def test_without_a_tokenizer_there_are_ids() -> None:
    db = Store("memory", CONFIG, {a.spec.key: (a.spec, a) for a in (HEAD, NORM)})
    table = db.tokens(np.ones(256), 2)
    assert table["text"] == [None] * 4
    assert any(note.startswith("no tokenizer, so ids alone") for note in table.notes)


def test_a_factor_of_the_logits_is_named() -> None:
    config = replace(CONFIG, logits_multiplier=0.25)
    db = Store("memory", config, {a.spec.key: (a.spec, a) for a in (HEAD, NORM)})
    assert db.tokens(np.ones(256)).notes[-1] == "the model multiplies logits by 0.25, which is left out"


def test_a_norm_that_is_not_finite_is_refused_by_name() -> None:
    norm = memory_array("model.norm.weight", (256,), "F32")
    norm.values[3] = np.nan
    db = Store("memory", CONFIG, {a.spec.key: (a.spec, a) for a in (HEAD, norm)})
    with pytest.raises(NonFiniteWeights, match=r"model\.norm\.weight"):
        db.tokens(np.ones(256))


def test_what_is_missing_is_named() -> None:
    without_norm = Store("memory", CONFIG, {HEAD.spec.key: (HEAD.spec, HEAD)})
    with pytest.raises(UsageError, match=r"model\.norm\.weight"):
        without_norm.tokens(np.ones(256))
    assert len(without_norm.tokens(np.ones(256), 1, norm=False)) == 2
    with pytest.raises(KeyNotFound, match=r"lm_head\.weight"):
        Store("memory", CONFIG, {NORM.spec.key: (NORM.spec, NORM)}).tokens(np.ones(256))


def test_what_cannot_be_is_refused(db: Store) -> None:
    with pytest.raises(SelectionError, match="expected: 256 values, found: 3"):
        db.tokens(np.ones(3))
    with pytest.raises(UsageError, match="1 or more"):
        db.tokens(np.ones(256), 0)
