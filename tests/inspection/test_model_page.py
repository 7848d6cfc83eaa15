"""The page of a model counts its parameters and bytes as one does by hand, and merges statistics exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE
from tests.support.safetensors_writer import write_safetensors
from tests.support.stores import Stores

MERGED = ("mean", "std", "absmax", "kurtosis")


def sizes(name: str) -> dict[str, int]:
    """Count the weights of each tensor of a recipe's checkpoint; scales are none."""
    tensors = checkpoint(name).tensors.items()
    return {key: tensor.size for key, tensor in tensors if not key.endswith("_scale_inv")}


def by_hand(name: str) -> tuple[int, int]:
    """Count all weights of a checkpoint, and those that a token takes part in."""
    config = checkpoint(name).config
    n_experts = config.get("n_routed_experts") or config.get("num_local_experts") or 1
    share = config.get("num_experts_per_tok", 1) / n_experts
    active = 0.0
    for key, size in sizes(name).items():
        beyond = key.startswith(f"model.layers.{config['num_hidden_layers']}.")
        routed = ".experts." in key
        active += 0 if beyond else size * share if routed else size
    return sum(sizes(name).values()), round(active)


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3", "deepseek_v2_lite", "deepseek_v3-fp8"])
def test_parameters_of_a_checkpoint_and_of_what_a_store_was_made_from(name: str, stores: Stores) -> None:
    bare = wv.inspect(stores.safetensors(name), stats=False).parameters
    assert (bare.stored, bare.active) == by_hand(name)
    assert (bare.source, bare.source_active) == (None, None)
    built = wv.inspect(stores.build(stores.safetensors(name)), stats=False).parameters
    assert (built.source, built.source_active) == by_hand(name)
    if "deepseek" in name:
        assert built.stored > bare.stored
    else:
        assert built.stored == bare.stored


@pytest.mark.parametrize("table", ["layers", "roles", "encodings", "exactness"])
def test_tables_part_the_whole(table: str, stores: Stores) -> None:
    page = wv.inspect(stores.build(stores.safetensors("deepseek_v3")), stats=False)
    rows = page.tables()[table]
    assert sum(rows["parameters"]) == page.parameters.stored
    assert sum(rows["nbytes"]) == page.summary.nbytes
    assert sum(rows["tensors"]) == page.summary.arrays == len(page.tensors)


@pytest.mark.parametrize("by", ["layer", "role"])
def test_statistics_of_layers_and_roles_are_over_all_their_values(by: str, stores: Stores) -> None:
    page = wv.inspect(EXAMPLE)
    with wv.open(EXAMPLE) as db:
        for row in page.tables()[f"{by}s"]:
            chosen = [t for t in page.tensors if t[by] == row[by]]
            values = np.concatenate([db[t["key"]][:].astype(np.float64).reshape(-1) for t in chosen])
            centred = values - values.mean()
            assert row["mean"] == pytest.approx(values.mean(), abs=1e-12)
            assert row["std"] == pytest.approx(values.std(), rel=1e-10)
            assert row["absmax"] == np.abs(values).max()
            kurtosis = (centred**4).mean() / (centred**2).mean() ** 2 - 3
            assert row["kurtosis"] == pytest.approx(kurtosis, rel=1e-8)
            assert row["outliers"] == sum(t["outliers"] or 0 for t in chosen)


def test_layers_beyond_are_marked_and_what_is_in_none_comes_last(stores: Stores) -> None:
    page = wv.inspect(stores.safetensors("deepseek_v3"), stats=False)
    assert page.layers["layer"] == [0, 1, 2, 3, None]
    assert page.layers["mtp"] == [False, False, False, True, False]
    assert page.summary.mtp_layers == (3,)


def test_source_tensors_that_are_no_array_are_listed(stores: Stores) -> None:
    page = wv.inspect(stores.build(stores.gguf("llama")), stats=False)
    assert [(row["tensor"], row["reason"]) for row in page.elsewhere] == [
        ("rope_freqs.weight", "config.rope")
    ]
    assert "rope_freqs.weight" in str(page)


def test_unmapped_tensors_and_oddities_are_on_it(tmp_path: Path) -> None:
    model = checkpoint("llama")
    key = "model.layers.1.mlp.up_proj.weight"
    spoiled = model.tensors[key].copy()
    spoiled[2, 3] = np.nan
    tensors = dict(model.tensors) | {key: spoiled, "odd.buffer": np.full(5, 7, np.float32)}
    page = wv.inspect(write_safetensors(replace(model, tensors=tensors), tmp_path))
    assert page.summary.unmapped == ("odd.buffer",)
    assert [(row["kind"], row["key"]) for row in page.anomalies] == [("nan", key), ("constant", "odd.buffer")]
    odd = dict(zip(page.layers["layer"], page.layers["anomalies"], strict=True))
    assert odd == {number: int(number in (1, None)) for number in odd}
    assert json.loads(json.dumps(page.to_json(), allow_nan=False))["anomalies"][0]["count"] == 1
    values = [v.astype(np.float64).reshape(-1) for k, v in tensors.items() if k.startswith("model.layers.1.")]
    finite = np.concatenate(values)[np.isfinite(np.concatenate(values))]
    (row,) = [row for row in page.layers if row["layer"] == 1]
    assert row["std"] == pytest.approx(finite.std(), rel=1e-10)


def test_the_tokenizer_or_why_there_is_none(stores: Stores, tmp_path: Path) -> None:
    found = wv.inspect(EXAMPLE, stats=False).tokenizer
    assert (found.vocab_size, found.bos_token_id, found.eos_token_id) == (1024, 0, 1)
    bare = write_safetensors(checkpoint("llama"), tmp_path)
    (bare / "tokenizer.json").unlink()
    page = wv.inspect(bare, stats=False)
    assert page.tokenizer.vocab_size is None
    assert page.tokenizer.problem
    assert f"none: {page.tokenizer.problem}" in str(page)


def test_a_store_keeps_it_and_says_how_it_was_built(tmp_path: Path) -> None:
    store = wv.build(EXAMPLE, tmp_path / "kjv.zarr")
    first = wv.inspect(store)
    assert wv.inspect(store).to_json() == first.to_json()
    assert first.built is not None
    assert first.built["files"] == [{"name": EXAMPLE.name, "size": EXAMPLE.stat().st_size}]
    assert first.built["options"]["mla"] == "absorb"
    assert (store / "stats" / "tensor.json").is_file()


def test_a_model_that_nobody_knows(tmp_path: Path) -> None:
    model = checkpoint("llama")
    config = model.config | {"model_type": "nobody", "architectures": ["NobodyForCausalLM"]}
    named = {f"net.{key}": tensor for key, tensor in model.tensors.items()}
    path = write_safetensors(replace(model, tensors=named), tmp_path)
    (path / "config.json").write_text(json.dumps(config))
    page = wv.inspect(path)
    assert page.config.family is None
    assert set(page.layers["layer"]) == {None}
    assert page.parameters.stored == page.parameters.active == sum(t.size for t in named.values())
    assert "unknown" in str(page)


def test_an_empty_tensor_has_no_bits(tmp_path: Path) -> None:
    model = checkpoint("llama")
    tensors = dict(model.tensors) | {"nothing": np.zeros((0, 4), np.float32)}
    page = wv.inspect(write_safetensors(replace(model, tensors=tensors), tmp_path))
    (row,) = [row for row in page.roles if row["role"] == "nothing"]
    assert math.isnan(row["bits_per_weight"])
