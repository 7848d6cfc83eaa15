"""Safetensors checkpoints to the fused form and back: what is written, what is carried, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import wvindex
from tests.support import configs, fp8
from tests.support.checkpoints import SCALE_SUFFIX, checkpoint
from tests.support.fused import fused_checkpoint, fused_tensors
from tests.support.memory_source import plain_name
from tests.support.random_weights import Array
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.trees import contents, names
from wvindex import Conversion
from wvindex.errors import (
    DuplicateName,
    MetadataError,
    SourceChanged,
    SourceError,
    TargetExists,
    UnknownFormat,
    UnsafePath,
    UnsupportedError,
    UsageError,
    WvindexError,
)
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.verifying import verify

MODELS = ("deepseek_v3", "deepseek_v3-bias", "deepseek_v3-fp8")
ATTENTION = "model.layers.1.self_attn"
QUERY, BELOW = f"{ATTENTION}.q_a_proj.weight", f"{ATTENTION}.kv_a_proj_with_mqa.weight"
FUSED = f"{ATTENTION}.fused_qkv_a_proj_with_mqa.weight"
CONFIG = configs.deepseek_v3(q_lora_rank=6, kv_lora_rank=5, qk_rope_head_dim=2, hidden_size=8)


def fuse(source: Path, out: Path, **options: Any) -> Conversion:
    return wvindex.convert(source, out, fuse_mla_lora=True, **options)


def unfuse(source: Path, out: Path, **options: Any) -> Conversion:
    return wvindex.convert(source, out, unfuse_mla_lora=True, **options)


Found = dict[str, tuple[str, tuple[int, ...], str]]
"""Dtype, shape and the SHA-256 of the bytes of every tensor, by name."""


def tensors_in(directory: Path) -> Found:
    """Read every safetensors file of a directory by the format's definition."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__":
                first, last = (start + offset for offset in entry["data_offsets"])
                digest = hashlib.sha256(data[first:last]).hexdigest()
                found[name] = (entry["dtype"], tuple(entry["shape"]), digest)
    return found


def digests(tensors: Mapping[str, Array]) -> Found:
    return {
        name: (plain_name(tensor), tensor.shape, hashlib.sha256(tensor.tobytes()).hexdigest())
        for name, tensor in tensors.items()
    }


def headers(path: Path) -> Any:
    """Read a header as the safetensors library does: a file that it refuses raises."""
    with safe_open(path, "numpy") as file:
        return set(file.keys())


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


def write(
    directory: Path, tensors: dict[str, Array], config: dict[str, Any] | None = None, **options: Any
) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    write_weights(tensors, directory, **options)
    return directory


def small(dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        QUERY: rng.standard_normal((6, 8)).astype(dtype),
        BELOW: rng.standard_normal((7, 8)).astype(dtype),
        "model.norm.weight": np.ones(8, np.float32),
    }


# There and back


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_fused_tensors_are_those_that_numpy_puts_together(name: str, shards: int, tmp_path: Path) -> None:
    source = write_safetensors(checkpoint(name), tmp_path / "a", shards=shards)
    done = fuse(source, tmp_path / "b")
    assert tensors_in(tmp_path / "b") == digests(fused_tensors(checkpoint(name).tensors))
    assert done.written
    assert done.changes == ()
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_back_again_every_file_is_the_same(name: str, shards: int, tmp_path: Path) -> None:
    source = write_safetensors(checkpoint(name), tmp_path / "a", shards=shards)
    fuse(source, tmp_path / "b")
    unfuse(tmp_path / "b", tmp_path / "c")
    assert contents(source) == contents(tmp_path / "c")
    fuse(tmp_path / "c", tmp_path / "d")
    assert contents(tmp_path / "d") == contents(tmp_path / "b")


QUERIES, BELOWS = (f"model.layers.1.self_attn.{name}" for name in ("q_a_proj", "kv_a_proj_with_mqa"))


@pytest.mark.parametrize(
    "names",
    [
        ["q_a_proj", "kv_a_proj_with_mqa", "lm_head"],
        [BELOWS, "lm_head", QUERIES],
        ["re:.*self_attn.*", QUERIES, BELOWS],
        [QUERIES, "é", BELOWS],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "style", [{"indent": 4}, {"separators": (",", ":")}, {"indent": 1, "sort_keys": True}]
)
def test_documents_come_back_whatever_their_text(
    names: list[str], style: dict[str, Any], tmp_path: Path
) -> None:
    """Order, spelling and white space of JSON, a form that is stated to be false, an index out of order."""
    source = write(tmp_path / "a", small(), shards=2)
    config = CONFIG | {"fused_mla_lora_proj": False, "quantization_config": {"ignore": names}}
    (source / "config.json").write_text(json.dumps(config, **style))
    beside: Any = {"quantization": {"quantized_layers": {BELOWS: {}, "lm_head": {}, QUERIES: {}}}}
    (source / "hf_quant_config.json").write_text(json.dumps(beside, **style))
    index = loaded(source / "model.safetensors.index.json")
    index["weight_map"] = dict(sorted(index["weight_map"].items(), reverse=True))
    (source / "model.safetensors.index.json").write_text(json.dumps(index, **style))
    fuse(source, tmp_path / "b")
    unfuse(tmp_path / "b", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(source)


def test_a_document_that_was_edited_since_is_not_undone(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    (source / "config.json").write_text(json.dumps(CONFIG, indent=7))
    fuse(source, tmp_path / "b")
    config = loaded(tmp_path / "b" / "config.json") | {"rope_theta": 7}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    unfuse(tmp_path / "b", tmp_path / "c")
    assert loaded(tmp_path / "c" / "config.json") == CONFIG | {"rope_theta": 7}
    assert names(tmp_path / "c") == ["config.json", "model.safetensors"]


ENDS = st.sampled_from(["weight", "bias"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sharding_comes_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Halves in one file or in two, files that have nothing else, any dtype, biases, FP8 that lines up."""
    root = tmp_path_factory.mktemp("round")
    n_q, n_kv, n_rope, width = (data.draw(st.integers(1, 5), label=what) for what in "qkrw")
    kind = data.draw(st.sampled_from(["F32", "BF16", "F16", "F8"]))
    dtype = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F8": ml_dtypes.float8_e4m3fn}[
        kind
    ]
    config = configs.deepseek_v3(
        q_lora_rank=n_q, kv_lora_rank=n_kv, qk_rope_head_dim=n_rope, hidden_size=width
    )
    block = data.draw(st.sampled_from([n for n in range(1, 6) if n_q % n == 0]))
    if kind == "F8":
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [block, 2]}
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    tensors: dict[str, Array] = {"lm_head.weight": rng.standard_normal((2, 3)).astype(np.float32)}
    bias = data.draw(st.booleans())
    for layer in range(data.draw(st.integers(1, 3))):
        for half, rows in (("q_a_proj", n_q), ("kv_a_proj_with_mqa", n_kv + n_rope)):
            stem = f"model.layers.{layer}.self_attn.{half}"
            tensors[f"{stem}.weight"] = rng.standard_normal((rows, width)).astype(dtype)
            if kind == "F8":
                shape = (-(-rows // block), -(-width // 2))
                tensors[f"{stem}.weight{SCALE_SUFFIX}"] = rng.random(shape, np.float32)
            if bias:
                tensors[f"{stem}.bias"] = rng.standard_normal(rows).astype(np.float32)
    order = data.draw(st.permutations(list(tensors)))
    shards = data.draw(st.integers(1, len(order)))
    source = write(root / "a", {name: tensors[name] for name in order}, config, shards=shards)
    fuse(source, root / "b")
    assert tensors_in(root / "b") == digests(fused_tensors(tensors))
    unfuse(root / "b", root / "c")
    assert tensors_in(root / "c") == digests(tensors)
    assert loaded(root / "c" / "config.json") == config
    if shards > 1:
        index = "model.safetensors.index.json"
        assert loaded(root / "c" / index) == loaded(source / index)
        fused = loaded(root / "b" / index)
        assert fused["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        assert fused["weight_map"].keys() == tensors_in(root / "b").keys()
        for name, file in fused["weight_map"].items():
            assert name in headers(root / "b" / file)
    shutil.rmtree(root)


def test_the_other_way_round_too(tmp_path: Path) -> None:
    source = write(tmp_path / "a", fused_tensors(small()), CONFIG | {"fused_mla_lora_proj": True})
    unfuse(source, tmp_path / "b")
    assert tensors_in(tmp_path / "b") == digests(small())
    fuse(tmp_path / "b", tmp_path / "c")
    assert tensors_in(tmp_path / "c") == tensors_in(source)
    assert loaded(tmp_path / "c" / "config.json") == loaded(source / "config.json")


def test_vllms_name_is_read_too(tmp_path: Path) -> None:
    source = write(tmp_path / "a", fused_tensors(small(), ".fused_qkv_a_proj."))
    unfuse(source, tmp_path / "b")
    assert tensors_in(tmp_path / "b") == digests(small())


def test_wvindex_reads_the_result_as_it_read_the_source(tmp_path: Path) -> None:
    source = write_safetensors(checkpoint("deepseek_v3-fp8"), tmp_path / "a", shards=2)
    fuse(source, tmp_path / "b")
    with wvindex.open(source) as expected, wvindex.open(tmp_path / "b") as found:
        assert list(found) == list(expected)
        for key in expected:
            np.testing.assert_array_equal(found[key].read(), expected[key].read())


@pytest.mark.parametrize("ranks", [{"q_lora_rank": 2}, {"kv_lora_rank": 2}], ids=str)
def test_ranks_that_are_not_the_norms_widths_are_refused(ranks: dict[str, int], tmp_path: Path) -> None:
    """Of the same sum as the right ones, they would cut elsewhere, and no shape would tell."""
    source = write_safetensors(fused_checkpoint(checkpoint("deepseek_v3")), tmp_path / "a")
    config = loaded(source / "config.json")
    changes = ranks | {"qk_rope_head_dim": -2}
    config |= {name: config[name] + more for name, more in changes.items()}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(MetadataError, match=r"fused_qkv_a_proj_with_mqa\.weight and .*a_layernorm\.weight"):
        unfuse(source, tmp_path / "b")
    with pytest.raises(MetadataError, match=r"fused_qkv_a_proj_with_mqa\.weight and .*a_layernorm\.weight"):
        wvindex.build(source, tmp_path / "c.zarr", mla="keep")
    assert names(tmp_path) == ["a"]


# What stands beside the tensors


def test_the_configuration_says_which_form_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    done = fuse(source, tmp_path / "b")
    assert loaded(tmp_path / "b" / "config.json") == CONFIG | {"fused_mla_lora_proj": True}
    assert ("config.json", "fused_mla_lora_proj is true") in {(edit.file, edit.what) for edit in done.edits}


def test_a_nested_configuration_is_edited_where_its_ranks_are(tmp_path: Path) -> None:
    config = {"model_type": "kimi_vl", "text_config": dict(CONFIG), "vision_config": {"hidden_size": 3}}
    tensors = {f"language_model.{name}": tensor for name, tensor in small().items()}
    fuse(write(tmp_path / "a", tensors, config), tmp_path / "b")
    found = loaded(tmp_path / "b" / "config.json")
    assert found == config | {"text_config": CONFIG | {"fused_mla_lora_proj": True}}
    assert f"language_model.{FUSED}" in tensors_in(tmp_path / "b")
    unfuse(tmp_path / "b", tmp_path / "c")
    assert loaded(tmp_path / "c" / "config.json") == config


def test_quantizers_lists_name_the_fused_module(tmp_path: Path) -> None:
    halves = [name.removesuffix(".weight") for name in (BELOW, QUERY)]
    config = CONFIG | {
        "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["lm_head", *halves]}
    }
    source = write(tmp_path / "a", small(), config)
    beside = {"quantization": {"exclude_modules": halves, "quant_algo": "FP8"}}
    (source / "hf_quant_config.json").write_text(json.dumps(beside))
    done = fuse(source, tmp_path / "b")
    found = loaded(tmp_path / "b" / "config.json")["quantization_config"]
    name = FUSED.removesuffix(".weight")
    assert found["modules_to_not_convert"] == ["lm_head", name]
    assert loaded(tmp_path / "b" / "hf_quant_config.json")["quantization"]["exclude_modules"] == [name]
    assert {edit.file for edit in done.edits} == {
        "config.json",
        "hf_quant_config.json",
        "mla_lora_documents.json",
    }
    unfuse(tmp_path / "b", tmp_path / "c")
    assert loaded(tmp_path / "c" / "config.json") == config
    assert loaded(tmp_path / "c" / "hf_quant_config.json") == beside


def test_every_other_file_is_carried_over(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small(), shards=3)
    (source / "tokenizer.model").write_bytes(b"\0\1\2" * 1000)
    (source / "empty").write_bytes(b"")
    (source / "figures").mkdir()
    (source / "figures" / "one.png").write_bytes(b"png")
    (source / ".gitattributes").write_text("*.safetensors lfs\n")
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_text("ref")
    done = fuse(source, tmp_path / "b")
    found = contents(tmp_path / "b")
    for name in ("tokenizer.model", "empty", "figures/one.png", ".gitattributes"):
        assert found[name] == (source / name).read_bytes()
        assert name in done.carried
    assert ".git/HEAD" not in found
    assert any(".git" in note for note in done.notes)


def test_a_hub_snapshots_symlinks_are_resolved(tmp_path: Path) -> None:
    blobs = tmp_path / "models--x" / "blobs"
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    write(snapshot, small())
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    fuse(snapshot, tmp_path / "b")
    assert not any(path.is_symlink() for path in (tmp_path / "b").rglob("*"))
    unfuse(tmp_path / "b", tmp_path / "c")
    assert tensors_in(tmp_path / "c") == digests(small())


def test_metadata_of_the_files_stays(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    save_file(small(), source / "model.safetensors", metadata={"format": "pt", "é": "\n"})
    fuse(source, tmp_path / "b")
    with safe_open(tmp_path / "b" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "é": "\n"}


def test_files_without_a_half_are_copied_whole(tmp_path: Path) -> None:
    source = write_safetensors(checkpoint("deepseek_v3"), tmp_path / "a", shards=20)
    fuse(source, tmp_path / "b")
    same = [
        path.name
        for path in source.glob("*.safetensors")
        if (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()
    ]
    assert len(same) >= 10


# The plan


def test_a_dry_run_tells_everything_and_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small(), shards=2)
    planned = fuse(source, tmp_path / "b", dry_run=True)
    assert names(tmp_path) == ["a"]
    assert not planned.written
    inputs = [name for unit in planned.units for name in unit.inputs]
    assert sorted(inputs) == sorted(small())
    (unit,) = [unit for unit in planned.units if unit.operation == "fuse"]
    assert (unit.inputs, unit.outputs, unit.nbytes) == ((QUERY, BELOW), (FUSED,), 13 * 8 * 4)
    text = str(planned)
    assert f"fuse     {QUERY} + {BELOW} -> {FUSED} (416 B in model-00001-of-00002.safetensors)" in text
    assert "weight_map: 2 names -> 1" in text
    done = fuse(source, tmp_path / "b")
    assert (done.units, done.edits, done.carried) == (planned.units, planned.edits, planned.carried)
    assert json.loads(json.dumps(done.to_dict()))["nbytes"] == planned.nbytes


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    seen: list[wvindex.Progress] = []
    fuse(write(tmp_path / "a", small()), tmp_path / "b", progress=seen.append)
    size = sum(path.stat().st_size for path in (tmp_path / "b").iterdir())
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (size, size)


# FP8 that does not line up


def misaligned(directory: Path, scales_dtype: Any = np.float32) -> tuple[Path, dict[str, Array]]:
    """Write a checkpoint with 6 rows of the query in blocks of 4."""
    rng = np.random.default_rng(0)
    config = CONFIG | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    tensors = small()
    for name in (QUERY, BELOW):
        codes, scales = fp8.quantize(tensors[name] * rng.uniform(0.1, 10, (len(tensors[name]), 1)), (4, 4))
        tensors |= {name: codes, name + SCALE_SUFFIX: scales.astype(scales_dtype)}
    return write(directory, tensors, config), tensors


def test_blocks_that_do_not_line_up_are_refused(tmp_path: Path) -> None:
    source, _ = misaligned(tmp_path / "a")
    with pytest.raises(UnsupportedError, match="a multiple of 4; allow_requant") as caught:
        fuse(source, tmp_path / "b")
    assert QUERY in str(caught.value)
    assert names(tmp_path) == ["a"]


def with_scales(directory: Path, query: Any, below: Any) -> tuple[Path, dict[str, Array]]:
    """Write FP8 codes as compressed-tensors has them: a scale for the matrix, or one a row."""
    tensors = small(ml_dtypes.float8_e4m3fn)
    for name, scale in ((QUERY, query), (BELOW, below)):
        tensors[f"{name}_scale"] = np.asarray(scale, np.float32)
    config = CONFIG | {"quantization_config": {"quant_method": "compressed-tensors"}}
    return write(directory, tensors, config), tensors


@pytest.mark.parametrize(
    "scales", [([0.5], [0.5]), (np.ones((6, 1)), np.full((7, 1), 2.0))], ids=["one", "rows"]
)
def test_fp8_with_scales_of_whole_rows_is_put_together_as_it_is(scales: Any, tmp_path: Path) -> None:
    source, tensors = with_scales(tmp_path / "a", *scales)
    fuse(source, tmp_path / "b")
    halves = [tensors[f"{name}_scale"] for name in (QUERY, BELOW)]
    joined = np.concatenate(halves) if halves[0].ndim > 1 else halves[0]
    matrices = {name: tensor for name, tensor in tensors.items() if not name.endswith("_scale")}
    expected = fused_tensors(matrices) | {f"{FUSED}_scale": joined}
    assert tensors_in(tmp_path / "b") == digests(expected)
    unfuse(tmp_path / "b", tmp_path / "c")
    assert contents(tmp_path / "c") == contents(source)


@pytest.mark.parametrize(
    "scales", [([0.5], [0.25]), (np.ones((2, 1)), np.ones((2, 1)))], ids=["one", "blocks"]
)
def test_scales_that_hold_for_less_or_more_are_refused(scales: Any, tmp_path: Path) -> None:
    source, _ = with_scales(tmp_path / "a", *scales)
    with pytest.raises(UnsupportedError, match="weight_scale"):
        fuse(source, tmp_path / "b")


@pytest.mark.parametrize("scales_dtype", [np.float32, ml_dtypes.bfloat16])
def test_or_quantized_anew_with_a_word_about_it(scales_dtype: Any, tmp_path: Path) -> None:
    source, tensors = misaligned(tmp_path / "a", scales_dtype)
    done = fuse(source, tmp_path / "b", allow_requant=True)
    before = np.concatenate(
        [
            fp8.dequantize(tensors[n], tensors[n + SCALE_SUFFIX].astype(np.float32), (4, 4))
            for n in (QUERY, BELOW)
        ]
    )
    assert tensors_in(tmp_path / "b")[FUSED + SCALE_SUFFIX][:2] == (
        plain_name(np.empty(0, scales_dtype)),
        (4, 2),
    )
    with SafetensorsSource(tmp_path / "b") as opened:
        info = {info.name: info for info in opened.tensors()}
        codes = np.frombuffer(opened.read(info[FUSED], 0, 13 * 8), ml_dtypes.float8_e4m3fn).reshape(13, 8)
        scale_info = info[FUSED + SCALE_SUFFIX]
        scales = np.frombuffer(opened.read(scale_info, 0, scale_info.nbytes), scales_dtype).reshape(4, 2)
    after = fp8.dequantize(codes, scales.astype(np.float32), (4, 4))
    np.testing.assert_array_equal(after[:4], before[:4])
    told = {change.tensor: change for change in done.changes}
    for name, rows in ((QUERY, slice(0, 6)), (BELOW, slice(6, 13))):
        moved = np.abs(after - before)[rows]
        assert (name in told) == bool(moved.any())
        if moved.any():
            assert told[name].max_abs == pytest.approx(moved.max())
            assert told[name].values == np.count_nonzero(moved)
    assert BELOW in told
    assert f"requant  {BELOW}" in str(done)


def test_what_was_fused_within_a_block_comes_apart_the_same_way(tmp_path: Path) -> None:
    source, _ = misaligned(tmp_path / "a")
    fuse(source, tmp_path / "b", allow_requant=True)
    with pytest.raises(UnsupportedError, match="allow_requant"):
        unfuse(tmp_path / "b", tmp_path / "c")
    done = unfuse(tmp_path / "b", tmp_path / "c", allow_requant=True)
    assert {change.tensor for change in done.changes} <= {FUSED}
    shapes = {name: shape for name, (_, shape, _) in tensors_in(tmp_path / "c").items()}
    assert shapes == {name: shape for name, (_, shape, _) in tensors_in(source).items()}
    with wvindex.open(tmp_path / "b") as fused, wvindex.open(tmp_path / "c") as apart:
        np.testing.assert_array_equal(apart[QUERY].read(), fused[QUERY].read()[:6])


def test_a_store_keeps_whole_what_was_fused_within_a_block(tmp_path: Path) -> None:
    source, _ = misaligned(tmp_path / "a")
    fuse(source, tmp_path / "b", allow_requant=True)
    store = wvindex.build(tmp_path / "b", tmp_path / "x.zarr", mla="keep", fused_mla_lora_proj=True)
    assert verify(store, tmp_path / "b").faults == ()
    with wvindex.open(store) as db, wvindex.open(tmp_path / "b") as bare:
        assert db[QUERY].encoding == db[BELOW].encoding == "F8_E4M3"
        for name in (QUERY, BELOW):
            expected = bare[name].read()  # decoded
            np.testing.assert_array_equal(db[name].read(), expected)
            np.testing.assert_array_equal(db[name][1:5, ::3], expected[1:5, ::3])
            x = np.eye(8, dtype=np.float32)
            np.testing.assert_array_equal(db[name].encoded().matmul(x), expected.T)
    with pytest.raises(UnsupportedError, match="begins within a block"):
        unfuse(store, tmp_path / "y.zarr")


# Other leaves


def test_what_quantizers_store_by_row_is_put_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, Array] = {"lm_head.weight": np.ones((1, 1), np.float32)}
    for name, rows in ((QUERY, 6), (BELOW, 7)):
        stem = name.removesuffix("weight")
        tensors |= {
            f"{stem}weight_packed": rng.integers(0, 99, (rows, 2)).astype(np.int32),
            f"{stem}weight_scale": rng.random((rows, 2), np.float32),
            f"{stem}input_scale": np.array([0.5], np.float32),
        }
    source = write(tmp_path / "a", tensors)
    fuse(source, tmp_path / "b")
    found = tensors_in(tmp_path / "b")
    stem = FUSED.removesuffix("weight")
    assert {name: shape for name, (_, shape, _) in found.items() if name.startswith(stem)} == {
        f"{stem}weight_packed": (13, 2),
        f"{stem}weight_scale": (13, 2),
        f"{stem}input_scale": (1,),
    }
    unfuse(tmp_path / "b", tmp_path / "c")
    assert tensors_in(tmp_path / "c") == digests(tensors)


@pytest.mark.parametrize(
    ("leaf", "shapes", "match"),
    [
        ("qweight", ((1, 6), (1, 7)), "nobody knows"),
        ("lora_A.weight", ((2, 8), (2, 8)), "nobody knows"),
        ("weight_shape", ((2,), (2,)), "nobody knows"),
        ("input_scale", ((1,), (1,)), "differs between the halves"),
        ("bias", ((6,), (6,)), "does not fit the configuration"),
        ("bias", ((5,), (7,)), "does not fit the configuration"),
    ],
)
def test_what_cannot_be_put_together_is_refused_by_name(
    leaf: str, shapes: tuple[Any, Any], match: str, tmp_path: Path
) -> None:
    tensors = small()
    for value, (name, shape) in enumerate(zip((QUERY, BELOW), shapes, strict=True)):
        tensors[name.replace("weight", leaf)] = np.full(shape, value, np.float32)
    with pytest.raises((UnsupportedError, MetadataError), match=match) as caught:
        fuse(write(tmp_path / "a", tensors), tmp_path / "b")
    assert leaf in str(caught.value.tensor)
    assert names(tmp_path) == ["a"]


# Refusals


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"q_lora_rank": None}, UnsupportedError, "q_lora_rank"),
        ({"kv_lora_rank": None}, UnsupportedError, "kv_lora_rank"),
        ({"q_lora_rank": "6"}, MetadataError, "q_lora_rank"),
        ({"q_lora_rank": 5}, MetadataError, "q_lora_rank, kv_lora_rank, qk_rope_head_dim"),
    ],
)
@pytest.mark.parametrize("direction", [fuse, unfuse])
def test_ranks_must_be_those_of_the_tensors(
    direction: Any, change: dict[str, Any], error: type[WvindexError], field: str, tmp_path: Path
) -> None:
    tensors = small() if direction is fuse else fused_tensors(small())
    source = write(tmp_path / "a", tensors, CONFIG | change)
    with pytest.raises(error) as caught:
        direction(source, tmp_path / "b")
    assert caught.value.field == field


def test_halves_of_two_dtypes_are_refused(tmp_path: Path) -> None:
    tensors = small() | {BELOW: small(np.float16)[BELOW]}
    with pytest.raises(UnsupportedError, match=r"F32.*F16") as caught:
        fuse(write(tmp_path / "a", tensors), tmp_path / "b")
    assert caught.value.tensor == f"{QUERY} and {BELOW}"


def test_a_missing_half_and_both_forms_are_refused(tmp_path: Path) -> None:
    tensors = small()
    del tensors[BELOW]
    with pytest.raises(MetadataError, match="missing"):
        fuse(write(tmp_path / "a", tensors), tmp_path / "x")
    with pytest.raises(DuplicateName):
        fuse(write(tmp_path / "b", small() | fused_tensors(small())), tmp_path / "x")
    with pytest.raises(UnsupportedError, match="q_a_proj"):
        unfuse(write(tmp_path / "c", small()), tmp_path / "x")
    with pytest.raises(UnsupportedError, match="which is fused"):
        fuse(write(tmp_path / "d", fused_tensors(small())), tmp_path / "x")


def test_fp8_codes_without_scales_are_refused(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 4]}}
    tensors = small(ml_dtypes.float8_e4m3fn)
    with pytest.raises(MetadataError, match="FP8"):
        fuse(write(tmp_path / "a", tensors, config), tmp_path / "b")


@pytest.mark.parametrize("path", ["../x.safetensors", "sub/x.safetensors", "x.bin"])
def test_a_file_name_in_the_index_does_not_lead_elsewhere(path: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a", small(), shards=3)
    fuse(source, tmp_path / "b")
    index = tmp_path / "b" / "model.safetensors.index.json"
    document = loaded(index)
    document["metadata"]["unfused_shards"] = {BELOW: path}
    index.write_text(json.dumps(document))
    with pytest.raises(UnsafePath):
        unfuse(tmp_path / "b", tmp_path / "c")


def test_a_file_of_something_else_is_not_overwritten_by_the_index(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small(), shards=3)
    fuse(source, tmp_path / "b")
    save_file({"mine": np.ones(3)}, tmp_path / "b" / "adapter.safetensors")
    index = tmp_path / "b" / "model.safetensors.index.json"
    document = loaded(index)
    document["metadata"]["unfused_shards"] = {BELOW: "adapter.safetensors"}
    index.write_text(json.dumps(document))
    with pytest.raises(MetadataError, match="unfused_shards"):
        unfuse(tmp_path / "b", tmp_path / "c")


def test_the_target_is_left_alone_unless_it_may_be_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(TargetExists):
        fuse(source, tmp_path / "b")
    with pytest.raises(TargetExists, match="safetensors"):
        fuse(source, tmp_path / "b", overwrite=True)
    assert names(tmp_path / "b") == ["notes.txt"]
    fuse(source, tmp_path / "c")
    with pytest.raises(TargetExists, match="taken"):
        fuse(source, tmp_path / "c")
    unfuse(tmp_path / "c", tmp_path / "d")
    fuse(source, tmp_path / "d", overwrite=True)
    assert contents(tmp_path / "d") == contents(tmp_path / "c")
    assert names(tmp_path) == ["a", "b", "c", "d"]


def test_calls_that_cannot_be(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    for both in (False, True):
        with pytest.raises(UsageError, match="one way"):
            wvindex.convert(source, tmp_path / "b", fuse_mla_lora=both, unfuse_mla_lora=both)
    for inside in (source, source / "b", tmp_path):
        with pytest.raises(UsageError, match="where its source does"):
            fuse(source, inside)
    with pytest.raises(UsageError, match="so little memory"):
        fuse(source, tmp_path / "b", max_memory="1MiB")
    with pytest.raises(UnknownFormat):
        fuse(source / "model.safetensors", tmp_path / "b")
    with pytest.raises(SourceError, match="nothing stands here"):
        fuse(tmp_path / "gone", tmp_path / "b")
    (source / "config.json").unlink()
    with pytest.raises(MetadataError, match="no configuration"):
        fuse(source, tmp_path / "b")


def test_a_source_that_changes_meanwhile_gives_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    (source / "tokenizer.json").write_text("{}")

    def change(at: wvindex.Progress) -> None:
        (source / "tokenizer.json").write_text('{"changed": true}')

    with pytest.raises(SourceError) as caught:
        fuse(source, tmp_path / "b", progress=change)
    assert isinstance(caught.value, SourceChanged)
    assert names(tmp_path) == ["a"]


def test_a_directory_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a", small())
    (tmp_path / "else").mkdir()
    (source / "link").symlink_to(tmp_path / "else")
    with pytest.raises(UnsafePath):
        fuse(source, tmp_path / "b")
