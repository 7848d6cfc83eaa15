"""`wvindex.build`: two formats, one store; exact, repeatable, and nothing half done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import jsonschema
import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint, names
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.stores import Stores
from tests.support.trees import contents
from wvindex import Progress
from wvindex.errors import (
    MetadataError,
    SourceError,
    StoreError,
    TargetExists,
    UnreadableSource,
    UsageError,
    WvindexError,
)
from wvindex.query.database import Store
from wvindex.sources.detect import open_source

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "tests" / "golden" / "type-zoo.gguf"
DTYPES = ("float32", "float16", "bfloat16")
LATENT = [name for name in names(gguf=True) if "kv_lora_rank" in checkpoint(name).config]


def require_same_values(found: Store, expected: Store) -> None:
    """Compare key by key and value by value, but for prediction layers, which llama.cpp drops."""
    assert [key for key in expected if not expected[key].mtp] == list(found)
    for key in found:
        ours, theirs = found[key], expected[key]
        assert ours.shape == theirs.shape
        assert ours.row_scale == theirs.row_scale
        assert ours.heads == theirs.heads
        np.testing.assert_array_equal(ours.read(dtype="float32"), theirs.read(dtype="float32"), err_msg=key)


# One model from two formats


@pytest.mark.parametrize("name", names(gguf=True))
def test_gguf_and_safetensors_agree_key_by_key_and_value_by_value(name: str, stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors(name))) as expected,
        wvindex.open(stores.build(stores.gguf(name))) as found,
    ):
        require_same_values(found, expected)


@pytest.mark.parametrize("mla", ["absorb", "keep", "both"])
@pytest.mark.parametrize("name", LATENT)
def test_the_older_gguf_form_agrees_as_well(name: str, mla: str, stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors(name), mla=mla)) as expected,
        wvindex.open(stores.build(stores.gguf(name, "kv_b"), mla=mla)) as found,
    ):
        require_same_values(found, expected)


@pytest.mark.parametrize("mla", ["keep", "both"])
@pytest.mark.parametrize("name", LATENT)
def test_split_factors_agree_as_well(name: str, mla: str, stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors(name), mla=mla)) as expected,
        wvindex.open(stores.build(stores.gguf(name), mla=mla)) as found,
    ):
        require_same_values(found, expected)


@pytest.mark.parametrize(
    ("form", "experts", "shards"), [("v5", "fused", 1), ("hub", "mixed", 2), ("hub", "each", 3)]
)
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3_moe", "deepseek_v3", "deepseek_v3-fp8"])
def test_every_safetensors_form_is_one_store(
    name: str, form: Any, experts: Any, shards: int, stores: Stores
) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors(name))) as expected,
        wvindex.open(stores.build(stores.safetensors(name, form, experts, shards))) as found,
    ):
        assert list(found) == list(expected)
        for key in found:
            assert found[key].encoding == expected[key].encoding
            np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(expected[key]), err_msg=key)


def test_gguf_shards_are_one_store(stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.gguf("qwen3_moe"))) as expected,
        wvindex.open(stores.build(stores.gguf("qwen3_moe", shards=3))) as found,
    ):
        require_same_values(found, expected)


@pytest.mark.parametrize("name", names())
def test_the_values_are_the_checkpoints(name: str, stores: Stores) -> None:
    """Whatever has one tensor of the checkpoint for its source and no transformation has its values."""
    weights = checkpoint(name).decoded()
    with wvindex.open(stores.build(stores.safetensors(name))) as db:
        same = {key: db[key].source[0] for key in db if not db[key].transforms}
        assert len(same) > len(weights) // 4
        for key, name_there in same.items():
            assert db[key].exactness == "bit"
            found = db[key].read(dtype="float32")
            np.testing.assert_array_equal(found, weights[name_there], err_msg=key)


# The catalog


@pytest.mark.parametrize("name", ["llama", "deepseek_v3-fp8", "deepseek_v3", "mistral4", "gpt_oss"])
def test_the_catalog_is_as_its_schema_says(name: str, stores: Stores) -> None:
    schema = json.loads((ROOT / "schemas" / "catalog.schema.json").read_text())
    for source in (stores.safetensors(name), stores.gguf(name)):
        catalog = json.loads((stores.build(source) / "catalog.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(catalog)


def test_the_catalog_says_where_the_store_came_from(stores: Stores) -> None:
    source = stores.safetensors("llama", shards=2)
    with wvindex.open(stores.build(source)) as db:
        catalog = db.catalog
    assert catalog is not None
    assert catalog.source_format == "safetensors"
    assert catalog.options == {"mla": "absorb", "dtype": "keep", "absorbed_dtype": "float32"}
    assert {file.name for file in catalog.sources} >= {path.name for path in source.glob("*.safetensors")}
    assert {entry.tensor for entry in catalog.ledger} == set(checkpoint("llama").tensors)
    assert catalog.source_config["rope_scaling"]["rope_type"] == "llama3"


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    model = checkpoint("llama")
    bad = model.tensors["lm_head.weight"].copy()
    bad[0, :3], bad[5, 7] = np.nan, -np.inf
    write_safetensors(model, tmp_path / "model")
    write_weights(dict(model.tensors) | {"lm_head.weight": bad}, tmp_path / "model")
    with wvindex.open(wvindex.build(tmp_path / "model", tmp_path / "out.zarr")) as db:
        assert db.catalog is not None
        entry = db.catalog.arrays["lm_head.weight"]
        assert (entry.nan, entry.inf) == (3, 1)
        assert db.catalog.arrays["model.norm.weight"].nan == 0


# Storage


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "deepseek_v3-fp8"])
def test_dtype_decodes_matrices_and_narrows_no_vector(name: str, dtype: str, stores: Stores) -> None:
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    with (
        wvindex.open(stores.build(stores.safetensors(name), mla="keep")) as kept,
        wvindex.open(stores.build(stores.safetensors(name), mla="keep", dtype=dtype)) as cast,
    ):
        assert list(cast) == list(kept)
        for key in kept:
            whole = kept[key].read(dtype="float32")
            if cast[key].ndim > 1:
                assert cast[key].encoding == wanted
                expected = whole.astype(cast[key].dtype).astype(np.float32)
            else:
                assert cast[key].dtype.itemsize >= kept[key].dtype.itemsize
                expected = whole
            np.testing.assert_array_equal(cast[key].read(dtype="float32"), expected, err_msg=key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_quantized_file_decodes_while_it_is_built(dtype: str, stores: Stores) -> None:
    path = ROOT / "tests" / "golden" / "llama-tiny-Q4_K_M.gguf"
    with (
        wvindex.open(stores.build(path)) as kept,
        wvindex.open(stores.build(path, dtype=dtype)) as cast,
    ):
        for key in kept:
            expected = kept[key].read(dtype="float32")
            if kept[key].ndim > 1:
                expected = expected.astype(cast[key].dtype).astype(np.float32)
            np.testing.assert_array_equal(cast[key].read(dtype="float32"), expected, err_msg=key)


def test_packed_types_survive_bit_for_bit(stores: Stores) -> None:
    with wvindex.open(stores.build(ZOO)) as db, np.load(ZOO.with_name("type-zoo.expected.npz")) as expected:
        packed = {}
        for tensor in zoo_tensors():
            stored = db[tensor[0]]
            assert stored.exactness == "bit"
            assert stored.raw().tobytes() == tensor[1], tensor[0]
            packed[stored.encoding] = stored
        assert len(packed) >= 25
        for name in expected.files:
            np.testing.assert_array_equal(np.asarray(db[f"t_{name}"]), expected[name], err_msg=name)


def zoo_tensors() -> list[tuple[str, bytes]]:
    """Find each tensor's bytes by the offsets in the header; the gguf package cannot read types 41 and 42."""
    data = ZOO.read_bytes()
    with open_source(ZOO) as source:
        return [(info.name, data[info.offset : info.offset + info.nbytes]) for info in source.tensors()]


def test_quantized_rows_of_llama_move_whole(stores: Stores) -> None:
    path = ROOT / "tests" / "golden" / "llama-tiny-Q2_K.gguf"
    reader = gguf.GGUFReader(path)
    [tensor] = [t for t in reader.tensors if t.name == "blk.1.attn_q.weight"]
    heads = reader.fields["llama.attention.head_count"].contents()
    rows = len(tensor.data)
    with wvindex.open(stores.build(path)) as db:
        found = db["blk.1.attn_q.weight"]
        # What llama.cpp's converter did to the rows: (heads, 2, d/2) -> (heads, d/2, 2).
        order = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
        np.testing.assert_array_equal(found.raw()[order], tensor.data.reshape(rows, -1))
        assert (found.exactness, found.transforms) == ("reordered", ("permute",))


# Determinism


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "deepseek_v3", "deepseek_v3-fp8"])
@pytest.mark.parametrize("options", [{}, {"mla": "both", "dtype": "float16"}], ids=["default", "all"])
def test_two_builds_are_byte_identical(
    name: str, options: dict[str, Any], stores: Stores, tmp_path: Path
) -> None:
    source = stores.safetensors(name)
    first = wvindex.build(source, tmp_path / "first.zarr", **options)
    second = wvindex.build(source, tmp_path / "second.zarr", max_memory="300MiB", **options)
    assert contents(first) == contents(second)


# Progress


def test_progress_ends_at_the_whole(stores: Stores, tmp_path: Path) -> None:
    seen: list[Progress] = []
    wvindex.build(stores.safetensors("deepseek_v3-fp8"), tmp_path / "out.zarr", progress=seen.append)
    done = [step.bytes_done for step in seen]
    assert done == sorted(done)
    assert len({step.bytes_total for step in seen}) == 1
    assert done[-1] == seen[-1].bytes_total == wvindex.plan(stores.safetensors("deepseek_v3-fp8")).bytes_out
    assert {step.key for step in seen} >= {"model.embed_tokens.weight", "lm_head.weight"}


# Where it goes


def test_the_store_is_named_after_the_checkpoint(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = stores.safetensors("llama")
    assert wvindex.build(directory) == Path(f"{directory.name}.zarr")
    assert wvindex.build(stores.gguf("qwen2")).name == "qwen2-split-F32.zarr"
    sharded = stores.gguf("qwen3", shards=2)
    assert sharded.name == "qwen3-split-F32-00001-of-00002.gguf"
    assert wvindex.build(sharded).name == "qwen3-split-F32.zarr"


def test_a_name_with_dots_loses_only_its_suffix(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "Model-1.5B.Q8.gguf"
    file.write_bytes(stores.gguf("qwen2").read_bytes())
    assert wvindex.build(file).name == "Model-1.5B.Q8.zarr"
    directory = tmp_path / "models" / "Model-1.5B"
    write_safetensors(checkpoint("qwen2"), directory)
    assert wvindex.build(directory).name == "Model-1.5B.zarr"


def test_what_stands_there_is_left_alone(stores: Stores, tmp_path: Path) -> None:
    taken = tmp_path / "out.zarr"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TargetExists):
            wvindex.build(stores.safetensors("llama"), taken, overwrite=overwrite)
    assert (taken / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_a_store_is_replaced_only_when_asked(stores: Stores, tmp_path: Path) -> None:
    out = wvindex.build(stores.safetensors("llama"), tmp_path / "out.zarr")
    with pytest.raises(TargetExists):
        wvindex.build(stores.safetensors("qwen2"), out)
    wvindex.build(stores.safetensors("qwen2"), out, overwrite=True)
    with wvindex.open(out) as db:
        assert db.config.family == "qwen2"
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_a_directory_that_is_not_there_is_an_error_of_ours(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        wvindex.build(stores.safetensors("llama"), tmp_path / "no" / "out.zarr")


# Refusals leave nothing


def broken(tmp_path: Path) -> Path:
    model = checkpoint("qwen3_moe")
    write_safetensors(model, tmp_path / "model")
    gone = "model.layers.0.mlp.experts.2.up_proj.weight"
    write_weights({key: t for key, t in model.tensors.items() if key != gone}, tmp_path / "model")
    return tmp_path / "model"


def test_what_cannot_be_represented_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = broken(tmp_path)
    plan = wvindex.plan(source)
    assert len(plan.refusals) == 1
    with pytest.raises(MetadataError, match="experts of"):
        wvindex.build(source, tmp_path / "out.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_source_that_shrinks_while_it_is_read_leaves_nothing(tmp_path: Path) -> None:
    source = write_safetensors(checkpoint("llama"), tmp_path / "model")

    def shrink(progress: Progress) -> None:
        with (source / "model.safetensors").open("r+b") as file:
            file.truncate(100_000)

    with pytest.raises(WvindexError):
        wvindex.build(source, tmp_path / "out.zarr", progress=shrink)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_interruption_keeps_what_is_written_and_the_next_build_goes_on(
    stores: Stores, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wvindex.build(stores.safetensors("llama"), tmp_path / "out.zarr", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr.building"]
    built = wvindex.build(stores.safetensors("llama"), tmp_path / "out.zarr")
    assert contents(built) == contents(stores.build(stores.safetensors("llama")))
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.parametrize(
    "options",
    [
        {"mla": "dense"},
        {"dtype": "int8"},
        {"absorbed_dtype": "keep"},
        {"max_memory": "lots"},
        {"max_memory": -1},
        {"max_memory": "64MiB"},
        {"max_memory": 0},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        wvindex.build(stores.safetensors("llama"), tmp_path / "out.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_says_how_much_it_takes(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least") as caught:
        wvindex.build(stores.safetensors("deepseek_v3"), tmp_path / "out.zarr", max_memory="64MiB")
    assert caught.value.field == "max_memory"


def test_no_checkpoint_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource):
        wvindex.build(tmp_path / "nothing.gguf", tmp_path / "out.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        wvindex.build(tmp_path / "empty", tmp_path / "out.zarr")


# A model that nobody knows


def test_an_unknown_family_builds_lists_and_reads(tmp_path: Path) -> None:
    model = checkpoint("llama")
    write_safetensors(model, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "novel"}))
    with wvindex.open(wvindex.build(tmp_path / "model", tmp_path / "out.zarr")) as db:
        assert db.config.family is None
        assert set(db) == set(model.tensors)
        for key in db:
            np.testing.assert_array_equal(np.asarray(db[key]), model.tensors[key])


def test_safetensors_without_configuration_build_as_well(tmp_path: Path) -> None:
    model = checkpoint("qwen2")
    (tmp_path / "model").mkdir()
    write_weights(model.tensors, tmp_path / "model")
    with wvindex.open(wvindex.build(tmp_path / "model" / "model.safetensors", tmp_path / "out.zarr")) as db:
        assert set(db) == set(model.tensors)


def test_odd_shapes_and_types_survive(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "no columns": np.zeros((4, 0), np.float32),
        "five": np.arange(120, dtype=np.int32).reshape(1, 2, 3, 4, 5),
        "flags": np.array([True, False]),
        "wide": np.arange(6, dtype=np.float64).reshape(2, 3),
        "bytes": np.arange(256, dtype=np.uint8),
    }
    (tmp_path / "model").mkdir()
    write_weights(odd, tmp_path / "model")
    with wvindex.open(wvindex.build(tmp_path / "model", tmp_path / "out.zarr")) as db:
        for name, expected in odd.items():
            found = np.asarray(db[name])
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected, err_msg=name)
