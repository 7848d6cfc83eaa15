"""A store is a mapping of standard keys, with layers, selectors and a tokenizer; it knows no architecture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.arrays import CONFIG, MemoryArray, catalog_of, memory_array, same, write_store
from wvindex.errors import KeyNotFound, SelectionError, UnsupportedTokenizer
from wvindex.query.database import Store, open_store
from wvindex.query.layers import Layer, Namespace
from wvindex.query.lazy import Tensor
from wvindex.sources.base import TokenizerData
from wvindex.store.writer import StoreWriter

L = "model.layers."
ARRAYS = [
    memory_array("lm_head.weight", (9, 32), "Q8_0", aliases=("output.weight",)),
    memory_array(f"{L}1.self_attn.q_proj.weight", (8, 32), "F32", aliases=("blk.1.attn_q.weight",)),
    memory_array(f"{L}0.self_attn.q_proj.weight", (8, 32), "F32", seed=1, aliases=("blk.0.attn_q.weight",)),
    memory_array(f"{L}0.self_attn.q_proj.bias", (8,), "F32"),
    memory_array(f"{L}0.mlp.experts.gate_proj.weight", (3, 4, 32), "Q8_0", part_aliases=("a", "b", "c")),
    memory_array(f"{L}0.mlp.gate.weight", (3, 32), "F32"),
    memory_array(f"{L}0.mlp.gate.e_score_correction_bias", (3,), "F32"),
    memory_array(f"{L}2.eh_proj.weight", (4, 32), "F32", mtp=True),
    memory_array("model.embed_tokens.weight", (9, 32), "Q8_0"),
]


def values(key: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    found: MemoryArray = next(array for array in ARRAYS if array.spec.key == key)
    return found.values


@pytest.fixture
def db() -> Store:
    return Store("memory", CONFIG, {array.spec.key: (array.spec, array) for array in ARRAYS})


def test_keys_stand_in_standard_order(db: Store) -> None:
    assert list(db) == [
        "model.embed_tokens.weight",
        f"{L}0.self_attn.q_proj.weight",
        f"{L}0.self_attn.q_proj.bias",
        f"{L}0.mlp.experts.gate_proj.weight",
        f"{L}0.mlp.gate.weight",
        f"{L}0.mlp.gate.e_score_correction_bias",
        f"{L}1.self_attn.q_proj.weight",
        f"{L}2.eh_proj.weight",
        "lm_head.weight",
    ]
    assert len(db) == 9


def test_a_store_answers_to_aliases(db: Store) -> None:
    assert db["blk.1.attn_q.weight"] is db[f"{L}1.self_attn.q_proj.weight"]
    assert "output.weight" in db
    assert "nothing" not in db
    assert db.get("nothing") is None


@pytest.mark.parametrize("name", ["b", f"{L}0.mlp.experts.1.gate_proj.weight"])
def test_one_expert_by_name(db: Store, name: str) -> None:
    assert name in db
    assert same(db[name][:], values(f"{L}0.mlp.experts.gate_proj.weight")[1])


class TestLayers:
    """Layers are reached by number, their tensors by attribute or role."""

    def test_attributes(self, db: Store) -> None:
        assert db.layers[1].self_attn.q_proj is db[f"{L}1.self_attn.q_proj.weight"]
        assert isinstance(db.layers[0].mlp.experts, Namespace)
        assert same(
            db.layers[0].mlp.experts.gate_proj.expert(2)[:], values(f"{L}0.mlp.experts.gate_proj.weight")[2]
        )
        assert db.layers[0].mlp.gate is db[f"{L}0.mlp.gate.weight"]

    def test_roles(self, db: Store) -> None:
        layer = db.layers[0]
        assert layer["self_attn.q_proj.bias"].shape == (8,)
        assert layer["self_attn.q_proj"] is layer["self_attn.q_proj.weight"]
        assert layer["mlp.gate.e_score_correction_bias"].shape == (3,)
        assert layer["mlp.experts.2.gate_proj.weight"].shape == (4, 32)
        with pytest.raises(KeyNotFound):
            layer["self_attn.k_proj"]

    def test_a_wrong_attribute_says_what_there_is(self, db: Store) -> None:
        with pytest.raises(AttributeError, match="mlp, self_attn"):
            _ = db.layers[0].attention
        assert not hasattr(db.layers[0].self_attn, "k_proj")
        assert dir(db.layers[0]) == ["mlp", "self_attn"]

    def test_sequence(self, db: Store) -> None:
        assert len(db.layers) == 2
        assert [layer.number for layer in db.layers] == [0, 1]
        assert [layer.number for layer in db.layers[1:]] == [1]
        assert [layer.number for layer in db.layers[::-1]] == [1, 0]
        assert db.layers[-1].number == 1
        assert [tensor.key for tensor in db.layers[1]] == [f"{L}1.self_attn.q_proj.weight"]
        assert len(db.layers[0]) == 5

    def test_prediction_layers_are_reached_by_number_only(self, db: Store) -> None:
        assert db.layers[2].mtp
        assert not db.layers[0].mtp
        assert 2 not in [layer.number for layer in db.layers]

    @pytest.mark.parametrize("index", [3, -3])
    def test_out_of_range(self, db: Store, index: int) -> None:
        with pytest.raises(SelectionError, match="0 to 2"):
            db.layers[index]

    def test_repr(self, db: Store) -> None:
        assert repr(db.layers) == "<2 layers>"
        assert repr(db.layers[0]) == "<model.layers.0: mlp, self_attn>"
        assert isinstance(db.layers[0], Layer)


def test_select_gives_tensors_in_order(db: Store) -> None:
    found = db.select("*.mlp.*", layer=range(1))
    assert all(isinstance(tensor, Tensor) for tensor in found)
    assert [tensor.shape for tensor in found] == [(3, 4, 32), (3, 32), (3,)]


def test_a_finished_store_opens(tmp_path: Path) -> None:
    path = write_store(tmp_path / "x.zarr", ARRAYS)
    with open_store(path) as db:
        assert db.path == path
        assert db.config == CONFIG
        assert db.catalog is not None
        assert set(db.catalog.arrays) == set(db)
        assert repr(db) == f"<Store {path}: llama, 9 tensors, 2 layers>"
        for array in ARRAYS:
            assert same(db[array.spec.key][:], array.values)


class TestTokenizer:
    """It is loaded when it is asked for."""

    def test_none(self, db: Store, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedTokenizer):
            _ = db.tokenizer
        with open_store(write_store(tmp_path / "x.zarr", [])) as store, pytest.raises(UnsupportedTokenizer):
            _ = store.tokenizer

    def test_its_files_reach_the_loader(self, tmp_path: Path) -> None:
        with StoreWriter(tmp_path / "x.zarr") as writer:
            writer.add_tokenizer(TokenizerData(files={"tokenizer.model": b"x"}, gguf={}))
            writer.finish(catalog_of({}))
        with (
            open_store(tmp_path / "x.zarr") as store,
            pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.model"),
        ):
            _ = store.tokenizer


def test_the_loader_knows_no_architecture() -> None:
    package = Path(__file__).parents[2] / "wvindex"
    for module in [*(package / "query").glob("*.py"), package / "store" / "reader.py"]:
        assert not re.search(r"\b\w*(mla|lora|latent)\w*\b", module.read_text(), re.IGNORECASE), module
