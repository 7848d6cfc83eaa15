"""Stores to the other form: the very bytes that a build of that form writes from the source."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint
from tests.support.disk import Disk, Operation
from tests.support.fused import fused_checkpoint
from tests.support.interrupted import build, chunks_written, journaled, small_steps
from tests.support.safetensors_writer import write_safetensors
from tests.support.sealing import chunk_path, flip
from tests.support.stores import Stores
from tests.support.trees import contents, names
from wvindex import Conversion
from wvindex.errors import ChecksumError, MetadataError, TargetExists, UnsupportedError
from wvindex.verifying import verify

KEPT: dict[str, Any] = {"mla": "keep"}
FUSED: dict[str, Any] = {"mla": "keep", "fused_mla_lora_proj": True}
ATTENTION = "model.layers.1.self_attn"


def fuse(source: Path, out: Path, **options: Any) -> Conversion:
    return wvindex.convert(source, out, fuse_mla_lora=True, **options)


def unfuse(source: Path, out: Path, **options: Any) -> Conversion:
    return wvindex.convert(source, out, unfuse_mla_lora=True, **options)


SOURCES = ("deepseek_v3-bias", "deepseek_v3-fp8", "fused", "Q8_0")
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"dtype": "float32"}, {"mla": "both"})


@pytest.fixture(scope="module")
def fused_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fused") / "model"
    return write_safetensors(fused_checkpoint(checkpoint("deepseek_v3-fp8")), directory)


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, stores: Stores, fused_source: Path) -> Path:
    if request.param == "fused":
        return fused_source
    if request.param == "Q8_0":
        return stores.gguf("deepseek_v3", "split", "Q8_0")
    return stores.safetensors(request.param)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fused_it_is_what_a_build_writes(
    source: Path, options: dict[str, Any], stores: Stores, tmp_path: Path
) -> None:
    done = fuse(stores.build(source, **KEPT | options), tmp_path / "x.zarr")
    assert contents(tmp_path / "x.zarr") == contents(stores.build(source, **FUSED | options))
    assert done.written
    assert names(tmp_path) == ["x.zarr"]


@pytest.mark.parametrize("options", OPTIONS[:1], ids=str)
def test_unfused_it_is_what_a_build_writes(
    source: Path, options: dict[str, Any], stores: Stores, tmp_path: Path
) -> None:
    unfuse(stores.build(source, **FUSED | options), tmp_path / "x.zarr")
    assert contents(tmp_path / "x.zarr") == contents(stores.build(source, **KEPT | options))


def test_a_linked_store_becomes_one_that_stands_alone(stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors("deepseek_v3-fp8")
    done = fuse(stores.build(source, **KEPT, link=True), tmp_path / "x.zarr")
    assert contents(tmp_path / "x.zarr") == contents(stores.build(source, **FUSED))
    assert any("linked" in note for note in done.notes)
    unfuse(stores.build(source, **FUSED, link=True), tmp_path / "y.zarr")
    assert contents(tmp_path / "y.zarr") == contents(stores.build(source, **KEPT))


def test_arrays_of_many_chunks(tmp_path: Path) -> None:
    """Chunks of the halves and of the whole do not end alike."""
    source = write_safetensors(checkpoint("deepseek_v3"), tmp_path / "model")

    build(source, tmp_path / "kept.zarr", **KEPT)
    fuse(tmp_path / "kept.zarr", tmp_path / "fused.zarr")
    unfuse(tmp_path / "fused.zarr", tmp_path / "back.zarr")
    with wvindex.open(tmp_path / "kept.zarr") as before, wvindex.open(tmp_path / "back.zarr") as after:
        assert list(before) == list(after)
        for key in before:
            np.testing.assert_array_equal(after[key].raw(), before[key].raw())
    assert verify(tmp_path / "fused.zarr", source).faults == ()


def test_a_dry_run_tells_and_writes_nothing(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v3"), **KEPT)
    planned = fuse(store, tmp_path / "x.zarr", dry_run=True)
    assert names(tmp_path) == []
    made = [unit for unit in planned.units if unit.operation == "fuse"]
    assert len(made) == 4
    assert made[0].outputs == ("model.layers.0.self_attn.fused_qkv_a_proj.weight",)
    with wvindex.open(store) as db:
        assert sorted(name for unit in planned.units for name in unit.inputs) == sorted(db)
        assert planned.nbytes == sum(tensor.nbytes for tensor in db.values())


def test_an_interrupted_conversion_goes_on(stores: Stores, tmp_path: Path) -> None:

    source = stores.safetensors("deepseek_v3-fp8")
    store = stores.build(source, **KEPT)

    def refuse(number: int, operation: Operation) -> None:
        if number == 150:
            raise KeyboardInterrupt

    out = tmp_path / "x.zarr"
    with small_steps(), pytest.raises(KeyboardInterrupt), Disk(tmp_path, refuse):
        fuse(store, out)
    kept = journaled(tmp_path / "x.zarr.building")
    assert kept
    with small_steps(), Disk(tmp_path) as disk:
        fuse(store, out)
    assert not kept & set(chunks_written(disk, tmp_path / "x.zarr.building"))
    with wvindex.open(out) as found, wvindex.open(stores.build(source, **FUSED)) as expected:
        for key in expected:
            np.testing.assert_array_equal(found[key].raw(), expected[key].raw())


def test_what_has_nothing_to_convert_is_refused(stores: Stores, tmp_path: Path) -> None:
    v3, lite, llama = (stores.safetensors(name) for name in ("deepseek_v3", "deepseek_v2_lite", "llama"))
    out = tmp_path / "x.zarr"
    for direction, store, match in (
        (fuse, stores.build(v3), "mla='absorb'"),
        (fuse, stores.build(v3, **FUSED), "found: fused ones"),
        (unfuse, stores.build(v3, **KEPT), "mla='keep'"),
        (fuse, stores.build(lite, **KEPT), "q_lora_rank"),
        (fuse, stores.build(llama), "only latent attention"),
    ):
        with pytest.raises(UnsupportedError, match=match):
            direction(store, out)
    assert names(tmp_path) == []


def test_halves_that_cannot_stand_together_are_refused_by_name(tmp_path: Path) -> None:
    model = checkpoint("deepseek_v3")
    tensors = dict(model.tensors)
    name = f"{ATTENTION}.kv_a_proj_with_mqa.weight"
    tensors[name] = tensors[name].astype(np.float16)

    source = write_safetensors(replace(model, tensors=tensors), tmp_path / "model")
    store = wvindex.build(source, tmp_path / "kept.zarr", mla="keep")
    with pytest.raises(UnsupportedError, match="BF16 and F16"):
        fuse(store, tmp_path / "x.zarr")
    del tensors[name]
    source = write_safetensors(replace(model, tensors=tensors), tmp_path / "model")
    store = wvindex.build(source, tmp_path / "kept.zarr", mla="keep", overwrite=True)
    with pytest.raises(MetadataError, match="missing") as caught:
        fuse(store, tmp_path / "x.zarr")
    assert caught.value.expected == name
    del tensors[f"{ATTENTION}.q_a_proj.weight"]
    source = write_safetensors(replace(model, tensors=tensors), tmp_path / "model")
    store = wvindex.build(source, tmp_path / "kept.zarr", mla="keep", overwrite=True)
    with pytest.raises(MetadataError, match=f"both down-projections.*{ATTENTION}"):
        fuse(store, tmp_path / "x.zarr")


def test_a_damaged_chunk_is_not_carried_on(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v3"), **KEPT)
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    flip(chunk_path(copy, f"{ATTENTION}.q_a_proj.weight"), 5)
    with pytest.raises(ChecksumError) as caught:
        fuse(copy, tmp_path / "x.zarr")
    assert caught.value.__notes__[0].endswith("the same conversion goes on with it")
    assert not (tmp_path / "x.zarr").exists()


def test_only_a_store_is_replaced(stores: Stores, tmp_path: Path) -> None:
    store = stores.build(stores.safetensors("deepseek_v3"), **KEPT)
    (tmp_path / "x").mkdir()
    with pytest.raises(TargetExists):
        fuse(store, tmp_path / "x", overwrite=True)
    fuse(store, tmp_path / "y")
    with pytest.raises(TargetExists):
        fuse(store, tmp_path / "y")
    fuse(store, tmp_path / "y", overwrite=True)
