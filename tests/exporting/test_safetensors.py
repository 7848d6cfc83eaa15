"""Hugging Face checkpoints to a store and back: every tensor, every file, byte for byte."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import wvindex
from tests.exporting.reading import hub_tensors
from tests.support import mxfp4
from tests.support.checkpoints import checkpoint, names
from tests.support.fused import fused_checkpoint
from tests.support.safetensors_writer import write_safetensors
from tests.support.sealing import edit, seal
from tests.support.stores import Stores, require_same_store
from tests.support.trees import contents
from wvindex.errors import UnsupportedError, WvindexError

SHARDED = ("llama-linear", "mixtral", "phi3", "deepseek_v3-fp8")


@pytest.mark.parametrize("name", names())
def test_a_directory_comes_back_byte_for_byte(name: str, stores: Stores, tmp_path: Path) -> None:
    """Experts one by one, fused projections, tied embeddings, FP8 with its scales, factors, MTP layers."""
    source = stores.safetensors(name)
    out = wvindex.export(stores.build(source, mla="keep"), tmp_path / "out", format="safetensors")
    assert hub_tensors(out) == hub_tensors(source)
    assert contents(out) == contents(source)


@pytest.mark.parametrize("name", SHARDED)
def test_shards_and_their_index_come_back(name: str, stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors(name, shards=3)
    out = wvindex.export(stores.build(source, mla="keep"), tmp_path / "out", format="safetensors")
    assert len(list(out.glob("*.safetensors"))) == 3
    assert contents(out) == contents(source)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3-fp8"])
@pytest.mark.parametrize("experts", ["fused", "mixed"])
def test_stacks_come_back(name: str, experts: Any, stores: Stores, tmp_path: Path) -> None:
    """Experts stacked by the source, gate and up in one: they stand apart in the store."""
    source = stores.safetensors(name, experts=experts)
    out = wvindex.export(stores.build(source, mla="keep"), tmp_path / "out", format="safetensors")
    assert contents(out) == contents(source)


def test_stacks_that_lie_turned_come_back(tmp_path: Path) -> None:
    """GPT-OSS as it is fine-tuned: experts [in, out] in bfloat16, gate and up rows in turns."""
    packed = checkpoint("gpt_oss")
    plain = replace(packed, tensors=mxfp4.unpacked(packed.tensors, ml_dtypes.bfloat16))
    source = write_safetensors(plain, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    store = wvindex.build(source, tmp_path / "store.zarr")
    assert contents(wvindex.export(store, tmp_path / "out", format="safetensors")) == contents(source)


def test_packed_experts_that_were_decoded_are_refused(stores: Stores, tmp_path: Path) -> None:
    store = wvindex.build(stores.safetensors("gpt_oss"), tmp_path / "store.zarr", dtype="bfloat16")
    with pytest.raises(UnsupportedError, match="nothing here packs them again"):
        wvindex.export(store, tmp_path / "out", format="safetensors")


def test_no_value_becomes_infinite_in_a_narrower_type(tmp_path: Path) -> None:
    found = checkpoint("qwen2")
    key = "model.layers.1.mlp.up_proj.weight"
    values = found.tensors[key].astype(np.float32)
    values[5, 3:6] = 70000.0, np.inf, 1e-9
    source = write_safetensors(replace(found, tensors={**found.tensors, key: values}), tmp_path / "source")
    planned = wvindex.plan_export(source, tmp_path / "out", format="safetensors", dtype="float16")
    assert any("smaller values become 0" in note for note in planned.notes)
    with pytest.raises(UnsupportedError, match="too large for F16") as error:
        wvindex.export(source, tmp_path / "out", format="safetensors", dtype="float16")
    assert (error.value.tensor, error.value.found) == (key, 70000.0)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    values[5, 3] = 65000.0
    (tmp_path / "source").rename(tmp_path / "first")
    source = write_safetensors(replace(found, tensors={**found.tensors, key: values}), tmp_path / "source")
    with wvindex.open(wvindex.export(source, tmp_path / "out", format="safetensors", dtype="float16")) as db:
        assert db[key][5, 3:6].tolist() == [64992.0, np.inf, 0.0]


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "deepseek_v3"])
def test_a_store_of_both_forms_gives_the_factors(name: str, stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors(name)
    out = wvindex.export(stores.build(source, mla="both"), tmp_path / "out", format="safetensors")
    assert contents(out) == contents(source)


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v3-fp8"])
def test_a_fused_store_gives_what_its_source_had(name: str, stores: Stores, tmp_path: Path) -> None:
    apart = stores.safetensors(name)
    fused = write_safetensors(fused_checkpoint(checkpoint(name)), tmp_path / "fused")
    for number, source in enumerate((apart, fused)):
        store = wvindex.build(source, tmp_path / f"{number}.zarr", mla="keep", fused_mla_lora_proj=True)
        out = wvindex.export(store, tmp_path / f"out-{number}", format="safetensors")
        assert contents(out) == contents(source)


def test_a_linked_store_gives_its_source_back(tmp_path: Path, stores: Stores) -> None:
    source = Path(shutil.copytree(stores.safetensors("deepseek_v3-fp8"), tmp_path / "source"))
    store = wvindex.build(source, tmp_path / "store.zarr", mla="keep", link=True)
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    assert contents(out) == contents(source)


def test_a_bare_checkpoint_needs_no_store(stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors("phi3")
    out = wvindex.export(source, tmp_path / "out", format="safetensors")
    assert contents(out) == contents(source)


def test_a_build_of_what_was_exported_is_the_same_store(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v3-fp8"), mla="keep")
    out = wvindex.export(store, tmp_path / "out", format="safetensors", max_shard_size="100 KiB")
    again = wvindex.build(out, tmp_path / "again.zarr", mla="keep")
    with wvindex.open(store) as before, wvindex.open(again) as after:
        require_same_store(after, before)


class TestCodesThatTheBuildDecoded:
    @pytest.fixture
    def out(self, stores: Stores, tmp_path: Path) -> Path:
        source = stores.safetensors("deepseek_v3-fp8")
        store = wvindex.build(source, tmp_path / "store.zarr", mla="keep", dtype="bfloat16")
        return wvindex.export(store, tmp_path / "out", format="safetensors")

    def test_have_no_scales_any_more(self, out: Path) -> None:
        found = hub_tensors(out)
        assert not [name for name in found if name.endswith("_scale_inv")]
        assert {kind for name, (kind, shape, _) in found.items() if len(shape) > 1} == {"BF16"}

    def test_and_the_configuration_says_so(self, out: Path, stores: Stores) -> None:
        before = json.loads((stores.safetensors("deepseek_v3-fp8") / "config.json").read_text())
        after = json.loads((out / "config.json").read_text())
        assert before.pop("quantization_config")
        assert after == before | {"torch_dtype": "bfloat16"}

    def test_are_what_a_dtype_gives(self, out: Path, stores: Stores, tmp_path: Path) -> None:
        source = stores.safetensors("deepseek_v3-fp8")
        other = wvindex.export(source, tmp_path / "o", format="safetensors", dtype="bfloat16")
        assert hub_tensors(other) == hub_tensors(out)


def test_a_store_of_an_earlier_build_writes_the_values_of_its_configuration(
    stores: Stores, tmp_path: Path
) -> None:
    source = stores.safetensors("qwen2")
    store = Path(shutil.copytree(stores.build(source, mla="keep"), tmp_path / "store.zarr"))
    shutil.rmtree(store / "source")
    kept = [f"tokenizer/{path.name}" for path in sorted((store / "tokenizer").iterdir())]
    edit(store / "catalog.json", lambda document: document.update(files=kept))
    seal(store)
    planned = wvindex.plan_export(store, tmp_path / "out", format="safetensors")
    assert any("did not keep config.json" in note for note in planned.notes)
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    assert hub_tensors(out) == hub_tensors(source)
    assert json.loads((out / "config.json").read_text()) == json.loads((source / "config.json").read_text())


def test_the_tokenizer_can_be_left_out(stores: Stores, tmp_path: Path) -> None:
    out = wvindex.export(stores.safetensors("llama"), tmp_path / "o", format="safetensors", tokenizer=False)
    assert sorted(contents(out)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/model.safetensors", "a/b.safetensors"])
def test_no_file_name_of_a_catalog_leads_out(name: str, stores: Stores, tmp_path: Path) -> None:
    """Such tensors go into files that are named anew."""
    store = Path(shutil.copytree(stores.build(stores.safetensors("qwen2"), mla="keep"), tmp_path / "s"))

    def lead_out(document: Any) -> None:
        for line in document["ledger"]:
            line["file"] = name

    edit(store / "catalog.json", lead_out)
    seal(store)
    out = wvindex.export(store, tmp_path / "out", format="safetensors")
    assert "model.safetensors" in contents(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "s"]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["ledger"][0].update(shape=[3, 7]),
        lambda document: document["ledger"][0].update(encoding="Q9_X"),
        lambda document: document["ledger"][0].update(tensor=document["ledger"][1]["tensor"]),
        lambda document: document["config"].update(num_attention_heads=3),
        lambda document: document["source"].update(format="gguf"),
    ],
)
def test_a_catalog_that_contradicts_itself_is_refused(change: Any, stores: Stores, tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores.build(stores.safetensors("phi3"), mla="keep"), tmp_path / "s"))
    edit(store / "catalog.json", change)
    seal(store)
    with pytest.raises(WvindexError):
        wvindex.export(store, tmp_path / "out", format="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_, ml_dtypes.float8_e4m3fn)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 6), max_size=4).map(tuple)),
        min_size=1,
        max_size=8,
    ),
    size=st.integers(1, 2000),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_the_shapes_every_shard_is_bounded_and_nothing_is_lost(
    shapes: list[tuple[Any, tuple[int, ...]]], size: int, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    tensors = {f"t.{i}": rng.integers(0, 2, shape).astype(dtype) for i, (dtype, shape) in enumerate(shapes)}
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    save_file(tensors, source / "model.safetensors")
    out = wvindex.export(source, tmp_path / "out", format="safetensors", max_shard_size=size, overwrite=True)
    assert hub_tensors(out) == hub_tensors(source)
    files = sorted(out.glob("*.safetensors"))
    for path in files:
        sizes = [t.nbytes for name, t in tensors.items() if name in names_in(path)]
        assert sum(sizes) <= size or len([n for n in sizes if n]) == 1
    if len(files) > 1:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {name: path.name for path in files for name in names_in(path)}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def names_in(path: Path) -> list[str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return [name for name in header if name != "__metadata__"]
