"""`wvindex.build(..., link=True)`: the store that copying gives, without the copying."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import zarr

import wvindex
from tests.support.checkpoints import checkpoint, names
from tests.support.linking import CountingSource, linked_bytes, linked_keys
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.stores import Stores, require_same_store
from tests.support.trees import contents
from wvindex import Progress
from wvindex.errors import SourceChanged, UsageError
from wvindex.query.database import Store
from wvindex.sources.detect import open_source
from wvindex.store.linked import LinkedStore
from wvindex.store.reader import open_catalog

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "tests" / "golden").glob("*.gguf"))
LINK: dict[str, Any] = {"link": True}

IN_PLACE = frozenset({"split", "stack", "join_latent"})
"""Transforms that change no byte: rows stand in the source as they would in the store."""


def require_links(store: Path) -> set[str]:
    """Check that exactly the arrays are linked whose bytes the source has, and that it has them."""
    linked = linked_bytes(store)
    with wvindex.open(store) as db:
        for key, tensor in db.items():
            in_place = tensor.exactness in {"bit", "reordered"} and IN_PLACE.issuperset(tensor.transforms)
            assert (key in linked) == in_place, (key, tensor.exactness, tensor.transforms)
            if in_place:
                rows, scales = linked[key]
                assert rows == tensor.raw().tobytes(), key
                assert tensor.scale_block is None or scales == tensor.scales().tobytes(), key
    return set(linked)


def require_same(linked: Path, copied: Path) -> set[str]:
    with wvindex.open(copied) as expected, wvindex.open(linked) as found:
        require_same_store(expected, found)
    return require_links(linked)


# What is linked reads as what is copied


@pytest.mark.parametrize("name", names())
def test_a_linked_directory_is_the_copied_one(name: str, stores: Stores) -> None:
    source = stores.safetensors(name)
    assert require_same(stores.build(source, **LINK), stores.build(source))


@pytest.mark.parametrize("name", names(gguf=True))
def test_a_linked_gguf_file_is_the_copied_one(name: str, stores: Stores) -> None:
    source = stores.gguf(name)
    assert require_same(stores.build(source, **LINK), stores.build(source))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_linked_quantized_file_is_the_copied_one(path: Path, stores: Stores) -> None:
    linked = require_same(stores.build(path, **LINK), stores.build(path))
    if path.stem.startswith("llama"):  # llama.cpp permutes the rows of Q and K
        assert "model.layers.0.self_attn.v_proj.weight" in linked
        assert "model.layers.0.self_attn.q_proj.weight" not in linked


@pytest.mark.parametrize(
    ("form", "experts", "shards"), [("v5", "fused", 1), ("hub", "mixed", 2), ("hub", "each", 3)]
)
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3_moe", "phi3", "deepseek_v3", "deepseek_v3-fp8"])
def test_every_safetensors_form_links(
    name: str, form: Any, experts: Any, shards: int, stores: Stores
) -> None:
    source = stores.safetensors(name, form, experts, shards)
    require_same(stores.build(source, **LINK), stores.build(source))


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v2"])
def test_gguf_shards_link(name: str, stores: Stores) -> None:
    source = stores.gguf(name, shards=3)
    store = stores.build(source, **LINK)
    require_same(store, stores.build(source))
    catalog = open_catalog(store)
    links = [entry.link for entry in catalog.arrays.values() if entry.link is not None]
    assert {part.file for link in links for part in link.rows} == {0, 1, 2}
    assert [Path(link).name for link in catalog.links] == [file.name for file in catalog.sources]


@pytest.mark.parametrize(
    "options",
    [{"mla": "keep"}, {"mla": "both"}, {"dtype": "float32"}, {"mla": "both", "dtype": "bfloat16"}],
    ids=str,
)
@pytest.mark.parametrize("name", ["deepseek_v3-fp8", "deepseek_v2_lite"])
def test_options_mix_linked_and_written_arrays(name: str, options: dict[str, Any], stores: Stores) -> None:
    for source in (stores.safetensors(name), *([stores.gguf(name)] if name in names(gguf=True) else [])):
        require_same(stores.build(source, **LINK, **options), stores.build(source, **options))


def test_fp8_links_codes_and_scales(stores: Stores) -> None:
    store = stores.build(stores.safetensors("deepseek_v3-fp8"), **LINK)
    entry = open_catalog(store).arrays["model.layers.1.mlp.experts.gate_proj.weight"]
    assert entry.link is not None
    assert entry.spec.encoding.scale_block is not None
    assert len(entry.link.rows) == len(entry.link.scales) == entry.spec.shape[0]


def test_scales_that_must_be_widened_are_written(tmp_path: Path) -> None:
    import ml_dtypes

    model = checkpoint("deepseek_v3-fp8")
    tensors = {
        name: tensor.astype(ml_dtypes.bfloat16) if name.endswith("_scale_inv") else tensor
        for name, tensor in model.tensors.items()
    }
    write_safetensors(model, tmp_path / "model")
    write_weights(tensors, tmp_path / "model")
    linked = wvindex.build(tmp_path / "model", tmp_path / "linked.zarr", link=True)
    copied = wvindex.build(tmp_path / "model", tmp_path / "copied.zarr")
    with wvindex.open(copied) as expected, wvindex.open(linked) as found:
        require_same_store(expected, found)
        kept = {key for key in found if found[key].scale_block is not None}
    assert kept
    assert not kept & linked_keys(linked)


def test_a_stack_of_many_experts_is_many_ranges(tmp_path: Path) -> None:
    model = checkpoint("qwen3_moe")
    config = json.loads(json.dumps(model.config)) | {"num_experts": 300}
    rng = np.random.default_rng(0)
    tensors = {key: tensor for key, tensor in model.tensors.items() if ".experts." not in key}
    for layer in range(2):
        for part, shape in (("gate", (64, 128)), ("up", (64, 128)), ("down", (128, 64))):
            for expert in range(300):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
                tensors[name] = rng.standard_normal(shape).astype(np.float16)
    write_safetensors(model, tmp_path / "model")
    write_weights(tensors, tmp_path / "model", shards=4)
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    store = wvindex.build(tmp_path / "model", tmp_path / "out.zarr", link=True)
    linked = require_links(store)
    with wvindex.open(store) as db:
        for layer in range(2):
            key = f"model.layers.{layer}.mlp.experts.down_proj.weight"
            assert key in linked
            link = open_catalog(store).arrays[key].link
            assert link is not None
            assert len(link.rows) > 100
            for expert in (0, 7, 123, 299):
                name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
                np.testing.assert_array_equal(np.asarray(db[name]), tensors[name])


def test_a_fused_tensor_is_cut_where_it_lies(stores: Stores) -> None:
    source = stores.safetensors("phi3")
    store = stores.build(source, **LINK)
    catalog = open_catalog(store)
    with open_source(source) as opened:
        [info] = [i for i in opened.tensors() if i.name == "model.layers.1.mlp.gate_up_proj.weight"]
    links = [catalog.arrays[f"model.layers.1.mlp.{part}_proj.weight"].link for part in ("gate", "up")]
    assert [link.rows[0].offset for link in links if link] == [info.offset, info.offset + info.nbytes // 2]


def test_odd_shapes_and_types_link(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "no columns": np.zeros((4, 0), np.float32),
        "five": np.arange(120, dtype=np.int32).reshape(1, 2, 3, 4, 5),
        "flags": np.array([True, False]),
        "wide": np.arange(6, dtype=np.float64).reshape(2, 3),
    }
    (tmp_path / "model").mkdir()
    write_weights(odd, tmp_path / "model")
    store = wvindex.build(tmp_path / "model", tmp_path / "out.zarr", link=True)
    assert linked_keys(store) == set(odd)
    with wvindex.open(store) as db:
        for name, expected in odd.items():
            found = np.asarray(db[name])
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("name", ["deepseek_v3-fp8", "qwen3_moe"])
def test_zarr_reads_a_linked_store_as_it_reads_a_copied_one(name: str, stores: Stores) -> None:
    source = stores.safetensors(name, "hub", "mixed", 2)
    catalog = open_catalog(stores.build(source))
    found = zarr.open_group(LinkedStore(stores.build(source, **LINK)), mode="r")
    expected = zarr.open_group(stores.build(source), mode="r")
    for entry in catalog.arrays.values():
        ours, theirs = found[entry.path], expected[entry.path]
        assert isinstance(ours, zarr.Array)
        assert isinstance(theirs, zarr.Array)
        assert ours.metadata == theirs.metadata
        np.testing.assert_array_equal(np.asarray(ours[...]), np.asarray(theirs[...]), err_msg=entry.path)


# Nothing is read that is not written


def build_counting(source: Path, out: Path, patch: pytest.MonkeyPatch, **options: Any) -> dict[str, int]:
    """Build, linked, and give the bytes that were read of each tensor."""
    counting = CountingSource(open_source(source))
    patch.setattr("wvindex.building.open_source", lambda path, config: counting)
    wvindex.build(source, out, link=True, **options)
    return counting.bytes_of


@pytest.mark.parametrize("name", ["qwen2", "mixtral", "phi3"])
def test_no_weight_is_read_where_all_is_linked(
    name: str, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.zarr"
    assert build_counting(stores.safetensors(name), out, monkeypatch) == {}
    with wvindex.open(out) as db:
        assert linked_keys(out) == set(db)


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_only_tensors_of_written_arrays_are_read(
    form: str, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stores.safetensors("deepseek_v3") if form == "safetensors" else stores.gguf("deepseek_v3")
    out = tmp_path / "out.zarr"
    read = set(build_counting(source, out, monkeypatch))
    linked = linked_keys(out)
    with wvindex.open(out) as db:
        written = {name for key in db if key not in linked for name in db[key].source}
        alone = {name for key in linked for name in db[key].source} - written
    assert read == written
    assert len(alone) > len(written)


def test_two_thousand_tensors_are_linked_without_a_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = 222
    config = checkpoint("llama").config | {"num_hidden_layers": layers}
    first = {
        name.removeprefix("model.layers.0."): tensor
        for name, tensor in checkpoint("llama").tensors.items()
        if name.startswith("model.layers.0.")
    }
    rest = {name: t for name, t in checkpoint("llama").tensors.items() if ".layers." not in name}
    tensors = rest | {
        f"model.layers.{i}.{role}": tensor for i in range(layers) for role, tensor in first.items()
    }
    (tmp_path / "model").mkdir()
    write_weights(tensors, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out.zarr"
    assert build_counting(tmp_path / "model", out, monkeypatch) == {}
    assert len(linked_keys(out)) == len(tensors) > 2000
    with wvindex.open(out) as db:
        for name in (*rest, "model.layers.0.mlp.up_proj.weight", "model.layers.221.self_attn.q_proj.weight"):
            np.testing.assert_array_equal(np.asarray(db[name]), tensors[name])
    assert sum(path.stat().st_size for path in out.rglob("*.*")) < 4 << 20


# The catalog


@pytest.mark.parametrize("name", ["llama", "deepseek_v3-fp8"])
def test_the_catalog_is_as_its_schema_says(name: str, stores: Stores) -> None:
    schema = json.loads((ROOT / "schemas" / "catalog.schema.json").read_text())
    document = json.loads((stores.build(stores.safetensors(name), **LINK) / "catalog.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["options"]["link"] is True


def test_a_store_without_a_linked_array_needs_no_source(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_weights({"w": np.ones((2, 2), np.float32)}, tmp_path / "model")
    out = wvindex.build(tmp_path / "model", tmp_path / "out.zarr", dtype="float16", link=True)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert open_catalog(out).links == ()
    with wvindex.open(out) as db:
        np.testing.assert_array_equal(np.asarray(db["w"]), np.ones((2, 2), np.float16))


@pytest.mark.parametrize("name", ["llama", "deepseek_v3-fp8"])
def test_two_linked_builds_are_byte_identical(name: str, stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors(name, "hub", "each", 3)
    first = wvindex.build(source, tmp_path / "first.zarr", link=True)
    second = wvindex.build(source, tmp_path / "second.zarr", link=True, max_memory="300MiB")
    assert contents(first) == contents(second)


def test_progress_counts_linked_arrays(stores: Stores, tmp_path: Path) -> None:
    seen: list[Progress] = []
    wvindex.build(stores.gguf("llama"), tmp_path / "out.zarr", link=True, progress=seen.append)
    done = [step.bytes_done for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].bytes_total == wvindex.plan(stores.gguf("llama")).bytes_out
    assert {step.key for step in seen} == set(wvindex.open(tmp_path / "out.zarr"))


# Where the source is


def hub_cache(root: Path, name: str) -> Path:
    """Lay a model out as the hub's cache does: a snapshot of symlinks into `blobs`; give the snapshot."""
    repository = root / "models--someone--model"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    written = write_safetensors(checkpoint(name), root / "written", shards=2)
    for number, path in enumerate(sorted(written.iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return snapshot


def test_a_hub_snapshot_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", "qwen3_moe")
    store = wvindex.build(snapshot, tmp_path / "out.zarr", link=True)
    links = open_catalog(store).links
    assert all(link.startswith("../hub/models--someone--model/blobs/") for link in links)
    for path in snapshot.iterdir():
        path.unlink()
    weights = checkpoint("qwen3_moe").tensors
    with wvindex.open(store) as db:
        np.testing.assert_array_equal(np.asarray(db["lm_head.weight"]), weights["lm_head.weight"])


def test_a_file_named_through_a_symlink_is_linked_where_it_is(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(stores.gguf("qwen2"))
    store = wvindex.build(tmp_path / "model.gguf", tmp_path / "out.zarr", link=True)
    (tmp_path / "model.gguf").unlink()
    with wvindex.open(store) as db:
        assert np.asarray(db["model.norm.weight"]).size


@pytest.mark.parametrize("named", ["directory", "index", "shard"])
def test_however_a_checkpoint_is_named(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(checkpoint("qwen2"), tmp_path / "model", shards=3)
    monkeypatch.chdir(tmp_path / "model")
    source = {
        "directory": Path(),
        "index": Path("model.safetensors.index.json"),
        "shard": Path("model-00002-of-00003.safetensors"),
    }[named]
    store = wvindex.build(source, Path("..") / "out.zarr", link=True)
    monkeypatch.chdir(tmp_path)
    with wvindex.open("out.zarr") as db:
        assert linked_keys(tmp_path / "out.zarr") == set(db)
        monkeypatch.chdir("/")
        found = np.asarray(db["model.embed_tokens.weight"])
    np.testing.assert_array_equal(found, checkpoint("qwen2").tensors["model.embed_tokens.weight"])
    assert not store.is_absolute()


def linked_model(directory: Path, name: str = "qwen2") -> tuple[Path, Path]:
    """Write a model and a store that links to it; give the store and the file of weights."""
    write_safetensors(checkpoint(name), directory / "model")
    store = wvindex.build(directory / "model", directory / "model.zarr", link=True)
    return store, directory / "model" / "model.safetensors"


def read_all(db: Store) -> None:
    for tensor in db.values():
        tensor[...]


def test_store_and_source_move_together(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    linked_model(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with wvindex.open(tmp_path / "there" / "model.zarr") as db:
        read_all(db)


@pytest.mark.parametrize("moved", ["model.zarr", "model"])
def test_one_without_the_other_is_an_error_that_says_where_it_looked(moved: str, tmp_path: Path) -> None:
    store, weights = linked_model(tmp_path)
    (tmp_path / "away").mkdir()
    (tmp_path / moved).rename(tmp_path / "away" / moved)
    if moved == "model.zarr":
        store, weights = tmp_path / "away" / moved, tmp_path / "away" / "model" / "model.safetensors"
    with wvindex.open(store) as db, pytest.raises(SourceChanged, match="move it together") as caught:
        read_all(db)
    assert caught.value.file == str(weights)


@pytest.mark.parametrize("change", ["touched", "rewritten", "truncated", "of another header"])
def test_a_changed_source_is_refused(change: str, tmp_path: Path) -> None:
    store, weights = linked_model(tmp_path)
    status, data = weights.stat(), weights.read_bytes()
    if change == "touched":
        os.utime(weights)
    elif change == "rewritten":
        weights.write_bytes(bytes(len(data)))
    elif change == "truncated":
        os.truncate(weights, len(data) // 2)
    else:  # the same size and time: two tensors have changed names
        first, second = b'"model.layers.0.mlp.up_proj', b'"model.layers.1.mlp.up_proj'
        assert data.count(first) == data.count(second) == 1
        swapped = data.replace(first, b"<>").replace(second, first).replace(b"<>", second)
        weights.write_bytes(swapped)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    with wvindex.open(store) as db, pytest.raises(SourceChanged, match="build the store again"):
        db["model.norm.weight"][...]


def test_a_source_that_changes_while_it_is_linked_leaves_nothing(tmp_path: Path) -> None:
    source = write_safetensors(checkpoint("qwen2"), tmp_path / "model")

    def touch(progress: Progress) -> None:
        os.utime(source / "model.safetensors", ns=(0, 5))

    with pytest.raises(SourceChanged, match="mtime_ns"):
        wvindex.build(source, tmp_path / "out.zarr", link=True, progress=touch)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_source_in_the_store_that_it_would_replace_is_refused(tmp_path: Path) -> None:
    store, weights = linked_model(tmp_path)
    inside = weights.rename(store / "model.safetensors")
    with pytest.raises(UsageError, match="lies in the store"):
        wvindex.build(inside, store, link=True, overwrite=True)
    assert inside.exists()


def test_a_linked_store_may_take_a_copied_one_s_place(stores: Stores, tmp_path: Path) -> None:
    out = wvindex.build(stores.safetensors("qwen2"), tmp_path / "out.zarr")
    wvindex.build(stores.safetensors("qwen2"), out, link=True, overwrite=True)
    assert require_links(out)
