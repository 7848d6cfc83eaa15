"""Absorbed attention goes out as what it is: dense arrays that say how to be scaled, and never as factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.exporting.reading import gguf_fields, hub_tensors
from tests.support.stores import Stores
from wvindex.errors import UnsupportedError

MODELS = ("deepseek_v2", "deepseek_v2_lite", "deepseek_v3")


@pytest.fixture(params=MODELS)
def store(request: pytest.FixtureRequest, stores: Stores) -> Path:
    return stores.build(stores.safetensors(request.param))


def test_every_array_stands_under_its_key(store: Path, tmp_path: Path) -> None:
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    with wvindex.open(store) as db, wvindex.open(out) as found:
        assert set(found) == set(db)
        for key in db:
            assert found[key].encoding == db[key].encoding
            np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(db[key]), err_msg=key)


def test_the_configuration_is_of_a_kind_of_its_own(store: Path, tmp_path: Path) -> None:
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "wvindex_absorbed"
    assert "DeepseekV" not in " ".join(config["architectures"])
    block = config["wvindex_absorbed"]
    with wvindex.open(store) as db:
        assert block["config"] == json.loads(json.dumps(db.config.to_json()))
        expected = {key: db[key].row_scale for key in db if db[key].row_scale is not None}
    assert block["row_scale"].keys() == expected.keys()
    for key, scale in expected.items():
        assert scale is not None
        assert block["row_scale"][key] == {
            "weight": scale.weight,
            "rows": list(scale.rows),
            "eps": scale.eps,
            "head_slice": list(scale.head_slice),
        }


def test_gguf_says_the_same(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v2"))
    out = wvindex.export(store, tmp_path / "out.gguf", format="gguf", tokenizer=False)
    fields = gguf_fields(out)
    assert fields["general.architecture"] == (("STRING",), "wvindex_absorbed")
    hub = wvindex.export(store, tmp_path / "out", format="safetensors")
    config = json.loads((hub / "config.json").read_text())
    block = fields["wvindex_absorbed"][1]
    assert isinstance(block, str)
    assert json.loads(block) == config["wvindex_absorbed"]


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_factors_are_refused_with_the_reason(form: Any, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a product does not say which factors it is of") as caught:
        wvindex.export(store, tmp_path / "out", format=form, mla="keep")
    assert caught.value.field == "mla"
    assert list(tmp_path.iterdir()) == []


def test_dense_arrays_are_refused_where_there_are_none(stores: Stores, tmp_path: Path) -> None:
    for name, reason in (("deepseek_v2", "no absorbed attention"), ("llama", "no latent attention")):
        kept = stores.build(stores.safetensors(name), mla="keep")
        with pytest.raises(UnsupportedError, match=reason):
            wvindex.export(kept, tmp_path / "out", format="safetensors", mla="absorb")


def test_a_store_of_both_forms_gives_either(stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors("deepseek_v3")
    both, absorbed = stores.build(source, mla="both"), stores.build(source)
    kept = wvindex.export(both, tmp_path / "kept", format="safetensors", mla="keep")
    assert hub_tensors(kept) == hub_tensors(source)
    dense = wvindex.export(both, tmp_path / "dense", format="safetensors", mla="absorb")
    alone = wvindex.export(absorbed, tmp_path / "alone", format="safetensors")
    assert hub_tensors(dense) == hub_tensors(alone)


def test_codes_keep_their_scales(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v3-fp8"))
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    key = "model.layers.0.mlp.down_proj.weight"
    found, source = hub_tensors(out), hub_tensors(stores.safetensors("deepseek_v3-fp8"))
    assert found[key] == source[key]
    assert found[f"{key}_scale_inv"] == source[f"{key}_scale_inv"]
    block = json.loads((out / "config.json").read_text())["wvindex_absorbed"]["scale_block"]
    assert block[key] == [128, 128]
