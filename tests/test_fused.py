"""Builds of the fused form, from every form of checkpoint; whole, linked, resumed, verified, and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint, golden
from tests.support.disk import Operation
from tests.support.fused import fused_checkpoint
from tests.support.interrupted import build, tree
from tests.support.safetensors_writer import write_safetensors
from tests.support.sealing import edit, faults
from tests.support.stores import Stores, require_same_store
from wvindex.infer import Model
from wvindex.infer.reference_mla import layer_factors, reference_mla
from wvindex.query.database import Store
from wvindex.verifying import verify

SCHEMA = Path(__file__).parents[1] / "schemas" / "catalog.schema.json"
FUSED: dict[str, Any] = {"mla": "keep", "fused_mla_lora_proj": True}
ATTENTION = "model.layers.1.self_attn"


def fused_source(name: str, directory: Path, shards: int = 1) -> Path:
    return write_safetensors(fused_checkpoint(checkpoint(name)), directory / f"{name}-fused", shards=shards)


def require_same_arrays(found: Store, expected: Store) -> None:
    assert list(found) == list(expected)
    for key in expected:
        assert found[key].encoding == expected[key].encoding
        np.testing.assert_array_equal(found[key].raw(), expected[key].raw(), err_msg=key)


# The store


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deepseek_v2", {}),
        ("deepseek_v3", {"mla": "both"}),
        ("deepseek_v3-bias", {"link": True}),
        ("deepseek_v3-fp8", {}),
        ("deepseek_v3-fp8", {"link": True}),
        ("deepseek_v3-fp8", {"dtype": "float32"}),
    ],
    ids=str,
)
def test_it_is_what_other_packages_read_in_the_source(
    name: str, options: dict[str, Any], stores: Stores
) -> None:
    source = stores.safetensors(name)
    store = stores.build(source, **FUSED | options)
    found = verify(store, source)
    assert found.faults == ()
    assert found.compared == {"safetensors and ml_dtypes": found.arrays}
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(
        json.loads((store / "catalog.json").read_text())
    )


@pytest.mark.parametrize("dtype", ["BF16", "Q8_0"])
def test_from_gguf(dtype: str, stores: Stores) -> None:
    source = stores.gguf("deepseek_v3", "split", dtype)
    store = stores.build(source, **FUSED)
    assert verify(store, source).faults == ()
    with wvindex.open(store) as db, wvindex.open(stores.build(source, mla="keep")) as kept:
        tensor = db[f"{ATTENTION}.fused_qkv_a_proj.weight"]
        assert tensor.encoding == dtype
        halves = [kept[f"{ATTENTION}.{half}.weight"].raw() for half in ("q_a_proj", "kv_a_proj_with_mqa")]
        np.testing.assert_array_equal(tensor.raw(), np.concatenate(halves))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deepseek_v3-bias", {}),
        ("deepseek_v3-bias", {"mla": "keep"}),
        ("deepseek_v3-bias", FUSED),
        ("deepseek_v3-fp8", {}),
        ("deepseek_v3-fp8", FUSED | {"link": True}),
    ],
    ids=str,
)
def test_a_fused_checkpoint_gives_the_same_store_key_by_key(
    name: str, options: dict[str, Any], stores: Stores, tmp_path: Path
) -> None:
    source = fused_source(name, tmp_path, shards=3)
    store = wvindex.build(source, tmp_path / "x.zarr", **options)
    assert verify(store, source).faults == ()
    with (
        wvindex.open(store) as found,
        wvindex.open(stores.build(stores.safetensors(name), **options)) as expected,
    ):
        require_same_arrays(found, expected)


def test_a_fused_checkpoint_is_seen_as_its_kept_store(stores: Stores, tmp_path: Path) -> None:
    source = fused_source("deepseek_v3-bias", tmp_path)
    store = wvindex.build(source, tmp_path / "x.zarr", mla="keep")
    with wvindex.open(source) as bare, wvindex.open(store) as built:
        require_same_store(bare, built)


def test_a_fused_checkpoint_runs(tmp_path: Path) -> None:
    ids, expected = golden("deepseek_v3-bias")
    store = wvindex.build(fused_source("deepseek_v3-bias", tmp_path), tmp_path / "x.zarr")
    with wvindex.open(store) as db:
        assert np.abs(Model(db).forward(ids).logits - expected).max() < 5e-4


def test_an_interrupted_build_goes_on_to_the_same_bytes(stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors("deepseek_v3-fp8")
    build(source, tmp_path / "whole.zarr", **FUSED)

    def refuse(number: int, operation: Operation) -> None:
        if number == 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "x.zarr", before=refuse, **FUSED)
    assert (tmp_path / "x.zarr.building").is_dir()
    with pytest.raises(wvindex.errors.UsageError, match="asked for something else"):
        build(source, tmp_path / "x.zarr", mla="keep")
    build(source, tmp_path / "x.zarr", **FUSED)
    assert tree(tmp_path / "x.zarr") == tree(tmp_path / "whole.zarr")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("widths", [96, 16, 64]),
        ("parts.0.key", "model.layers.1.self_attn.q_b_proj.weight.other"),
        ("parts.1.aliases", []),
        ("parts.1.sources", ["model.norm.weight"]),
        ("transforms", []),
    ],
)
def test_a_catalog_that_tells_another_tale_is_found_out(
    place: str, value: object, stores: Stores, tmp_path: Path
) -> None:
    source = stores.safetensors("deepseek_v3")
    store = Path(shutil.copytree(stores.build(source, **FUSED), tmp_path / "x.zarr"))
    key = f"{ATTENTION}.fused_qkv_a_proj.weight"

    def change(document: Any) -> None:
        node = document["arrays"][key]
        *outer, last = place.split(".")
        for step in outer:
            node = node[int(step)] if isinstance(node, list) else node[step]
        node[last] = value

    edit(store / "catalog.json", change, sealed=True)
    assert ("source_catalog", key, "catalog.json") in faults(store, source)


# The yardstick


@pytest.mark.parametrize("form", ["kept", "fused", "bare"])
@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3-bias", "deepseek_v3-halves", "deepseek_v3-fp8"])
def test_the_reference_on_either_form_is_the_absorbed_models_attention(
    name: str, form: str, stores: Stores
) -> None:
    source = stores.safetensors(name)
    ids, expected = golden(name)
    with wvindex.open(stores.build(source)) as absorbed:
        names = ["layers.1.attn.in", "layers.1.attn.heads"]
        output = Model(absorbed).forward(ids, capture=names)
        assert np.abs(output.logits - expected).max() < 5e-4  # transformers'
    path = {"kept": lambda: stores.build(source, mla="keep"), "fused": lambda: stores.build(source, **FUSED)}
    with wvindex.open(path[form]() if form in path else source) as db:
        weights = layer_factors(db, 1)
        assert ("fused_qkv_a_proj" in weights) == (form == "fused")
        assert ("q_a_proj" in weights) == (form != "fused")
        config = db.config
    assert config.mla is not None
    assert config.attention_scale is not None
    found = reference_mla(
        output.captured["layers.1.attn.in"],
        weights,
        config.mla,
        num_heads=config.num_attention_heads or 0,
        rope=config.rope["full_attention"],
        scale=config.attention_scale,
    )
    np.testing.assert_allclose(found, output.captured["layers.1.attn.heads"], rtol=0, atol=2e-5)
