"""The same model from Hugging Face and from MaxText is the same store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file

import wvindex as wv
from tests.support import configs
from tests.support.checkpoints import Checkpoint, checkpoint, golden, made
from tests.support.cli import REPOSITORY, document, environment, succeed
from tests.support.maxtext_writer import Tree, flat, params, put, train_state, write_orbax
from tests.support.recipes import Recipe
from tests.support.safetensors_writer import write_safetensors
from tests.test_memory import BUDGET, llama, write_model
from wvindex.errors import (
    DuplicateName,
    MetadataError,
    NoSpace,
    ShardError,
    SourceChanged,
    UnknownFormat,
    UnsupportedModel,
    UsageError,
    WvindexError,
)
from wvindex.infer import Model
from wvindex.sources import maxtext, orbax_arrays

_LLAMA31 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
# Heads of 16: the root that MaxText divides queries by is a power of two, so nothing is rounded.
_EXTRA = {
    "llama31": configs.llama(head_dim=16, rope_scaling=_LLAMA31),
    "mistral16": configs.mistral(head_dim=16, sliding_window=None),
    "mixtral16": configs.MIXTRAL | {"head_dim": 16},
}

PREDICTING = {
    f"model.layers.3.{name}.weight" for name in ("embed_tokens", "shared_head.norm", "shared_head.head")
}
"""What MaxText does not keep twice: the layer that predicts a further token shares it with the model."""


@cache
def model(name: str) -> Checkpoint:
    return made(Recipe(name, 5, _EXTRA[name])) if name in _EXTRA else checkpoint(name)


def write(directory: Path, name: str, tree: Tree, **options: Any) -> Path:
    """Write a tree, and the configuration beside it."""
    path = write_orbax(directory, tree, **options)
    (path / "config.json").write_text(json.dumps(model(name).config))
    return path


def assert_same(one: Path, other: Path) -> None:
    """Compare two stores, key by key: names, shapes, encodings, bytes, configuration."""
    with wv.open(one) as a, wv.open(other) as b:
        assert set(a) - PREDICTING == set(b)
        for key in b:
            assert (a[key].shape, a[key].encoding) == (b[key].shape, b[key].encoding), key
            assert bytes(a[key].raw()) == bytes(b[key].raw()), key
        assert a.config == b.config


FORMS = [
    ("deepseek_v3", {"scanned": True}, {"ocdbt": True, "zarr3": True}),
    ("deepseek_v3", {"scanned": False, "fused": True}, {"ocdbt": False, "zarr3": False}),
    ("deepseek_v3", {"scanned": True, "fused": True}, {"ocdbt": False, "zarr3": True}),
    ("deepseek_v2", {"scanned": True}, {"ocdbt": True, "zarr3": False}),
    ("deepseek_v2_lite", {"scanned": True}, {"ocdbt": False, "zarr3": False}),
    ("deepseek_v2_lite", {"scanned": False}, {"ocdbt": True, "zarr3": True}),
    ("llama31", {"scanned": True}, {"ocdbt": True, "zarr3": True}),
    ("llama31", {"scanned": False}, {"ocdbt": False, "zarr3": True}),
    ("mistral16", {"scanned": True}, {}),
    ("mixtral16", {"scanned": True}, {}),
    ("qwen2", {"scanned": True}, {}),
    ("qwen3", {"scanned": False}, {}),
    ("qwen3_moe", {"scanned": True}, {}),
]


@pytest.mark.parametrize(("name", "tree", "files"), FORMS)
def test_the_store_is_the_one_built_from_hugging_face(
    tmp_path: Path, name: str, tree: dict[str, Any], files: dict[str, Any]
) -> None:
    hub = write_safetensors(model(name), tmp_path / "hf")
    theirs = write(tmp_path / "items", name, {"params": {"params": params(model(name), **tree)}}, **files)
    wv.build(hub, tmp_path / "a.zarr", mla="both")
    wv.build(theirs, tmp_path / "b.zarr", mla="both")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    found = wv.verify(tmp_path / "b.zarr", theirs)
    assert not found.faults
    assert found.compared == {"TensorStore and NumPy": found.arrays}


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2", "deepseek_v2_lite", "qwen3_moe"])
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "items", name, {"params": {"params": params(model(name))}})
    tokens, logits = golden(name)
    with wv.open(wv.build(source, tmp_path / "m.zarr")) as db:
        assert np.abs(Model(db).forward(tokens).logits - logits).max() <= 5e-4


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2"])
def test_in_float32_what_the_import_scales_comes_back(tmp_path: Path, name: str) -> None:
    wide = {key: value.astype(np.float32) for key, value in model(name).tensors.items()}
    tree = params(replace(model(name), tensors=wide))
    source = write(tmp_path / "items", name, {"params": {"params": tree}})
    tokens, logits = golden(name)
    with wv.open(wv.build(source, tmp_path / "m.zarr")) as db:
        assert np.abs(Model(db).forward(tokens).logits - logits).max() <= 5e-4
        assert db["model.layers.0.self_attn.q_proj.weight"].exactness == "derived"
        assert db[
            "model.layers.0.mlp.down_proj.weight" if name != "mixtral" else "lm_head.weight"
        ].exactness == ("reordered")
    assert not wv.verify(tmp_path / "m.zarr", source).faults


def test_a_query_is_scaled_as_maxtext_exports_it(tmp_path: Path) -> None:
    tree = params(model("mixtral"))
    source = write(tmp_path / "items", "mixtral", {"params": {"params": tree}})
    kernel = tree["decoder"]["layers"]["self_attention"]["query"]["kernel"][:, 1]  # (hidden, heads, head_dim)
    scaled = (kernel.astype(np.float32) * np.sqrt(np.float32(kernel.shape[2]))).astype(kernel.dtype)
    with wv.open(source) as db:
        found = db["model.layers.1.self_attn.q_proj.weight"].read()
    assert np.array_equal(found, scaled.reshape(kernel.shape[0], -1).T)


CHUNKS = {
    "moe_layers.DeepSeekMoeBlock_0.MoeBlock_0.wi_0": (3, 9, 40, 24),
    "moe_layers.DeepSeekMoeBlock_0.MoeBlock_0.wo": (1, 9, 99, 99),
    "moe_layers.self_attention.wq_b.kernel": (40, 9, 3, 7),
    "moe_layers.self_attention.out.kernel": (3, 9, 5, 50),
    "token_embedder.embedding": (100, 33),
}


def test_stacks_are_taken_apart_chunk_by_chunk(tmp_path: Path) -> None:
    hub = write_safetensors(model("deepseek_v3"), tmp_path / "hf")
    tree = {"params": {"params": params(model("deepseek_v3"))}}
    source = write(tmp_path / "items", "deepseek_v3", tree, chunks=CHUNKS)
    wv.build(hub, tmp_path / "a.zarr", mla="both")
    with mock.patch.object(maxtext, "_CACHED_BYTES", 0):
        wv.build(source, tmp_path / "b.zarr", mla="both")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr", "hf", "items"]


def test_an_interrupted_build_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "items", "qwen2", {"params": {"params": params(model("qwen2"))}})
    whole = wv.build(source, tmp_path / "whole.zarr")

    def stop(done: wv.Progress) -> None:
        if done.bytes_done > done.bytes_total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wv.build(source, tmp_path / "m.zarr", progress=stop)
    wv.build(source, tmp_path / "m.zarr")
    for file in whole.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "m.zarr" / file.relative_to(whole)).read_bytes(), file


def nnx(tree: Tree) -> Tree:
    """Give a tree as NNX has it: leaves below ``value``, unscanned layers in lists."""
    found: Tree = {}
    for path, value in flat(tree).items():
        put(found, ".".join([*path, "value"]).replace("_layers_", "_layers."), value)
    put(found, "decoder.dropout.rngs.params.count.value", np.uint32(3))
    return found


@pytest.mark.parametrize("wrapper", ["", "base", "model"])
def test_trees_of_nnx_are_read_too(tmp_path: Path, wrapper: str) -> None:
    tree = nnx(params(model("deepseek_v2_lite"), scanned=wrapper == "base"))
    source = write(tmp_path / "items", "deepseek_v2_lite", {wrapper: tree} if wrapper else tree)
    wv.build(write_safetensors(model("deepseek_v2_lite"), tmp_path / "hf"), tmp_path / "a.zarr")
    wv.build(source, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    reasons = {entry.tensor: entry.reason for entry in wv.plan(source).ledger if entry.reason}
    assert list(reasons.values()) == ["training state"]


def test_every_leaf_is_in_the_ledger(tmp_path: Path) -> None:
    tree = train_state(params(model("deepseek_v3"), fused=True))
    source = write(tmp_path / "items", "deepseek_v3", tree)
    planned = wv.plan(source)
    leaves = {".".join(path) for path in flat(tree)}
    assert {entry.tensor.partition("[")[0] for entry in planned.ledger} == leaves
    for entry in planned.ledger:
        root = entry.tensor.partition(".")[0]
        assert entry.reason == {"opt_state": "optimizer", "step": "training state"}.get(root)
        assert bool(entry.keys) == (root == "params")
    stack = "params.params.decoder.moe_layers.self_attention.wq_kv_a.kernel"
    halves = [entry.tensor for entry in planned.ledger if entry.tensor.startswith(stack)]
    assert halves == [f"{stack}[{part}]" for part in ("0, :96", "0, 96:", "1, :96", "1, 96:")]


def test_a_leaf_that_no_rule_knows_keeps_its_name(tmp_path: Path) -> None:
    tree = params(model("qwen2"))
    put(tree, "decoder.extra.number", np.float32(5))
    put(tree, "decoder.extra.table", np.arange(6, dtype=np.float32).reshape(2, 3))
    source = write(tmp_path / "items", "qwen2", {"params": {"params": tree}})
    with wv.open(source) as db:
        tensor = db["params.params.decoder.extra.table"]
        assert not tensor.spec.mapped
        assert np.array_equal(tensor.read(), tree["decoder"]["extra"]["table"])
        assert np.array_equal(tensor[1:], tree["decoder"]["extra"]["table"][1:])
        assert db["params.params.decoder.extra.number"][()] == 5


def test_a_model_with_a_leaf_that_no_rule_knows_is_not_run(tmp_path: Path) -> None:
    tree = params(model("deepseek_v3"))
    put(tree, "decoder.moe_layers.self_attention.wq_a.bias", np.ones((96, 2), np.float32))
    source = write(tmp_path / "items", "deepseek_v3", {"params": {"params": tree}})
    with wv.open(wv.build(source, tmp_path / "m.zarr")) as db:
        assert "params.params.decoder.moe_layers.self_attention.wq_a.bias" in db
        with pytest.raises(UnsupportedModel, match=r"self_attention\.wq_a\.bias"):
            Model(db)
    assert not wv.verify(tmp_path / "m.zarr", source).faults


def test_a_padded_vocabulary_is_cut_as_in_the_export(tmp_path: Path) -> None:
    tree = params(model("qwen3_moe"))
    embedding, head = tree["token_embedder"]["embedding"], tree["decoder"]["logits_dense"]["kernel"]
    padding = np.full((24, embedding.shape[1]), 7, embedding.dtype)
    tree["token_embedder"]["embedding"] = np.concatenate([embedding, padding])
    tree["decoder"]["logits_dense"]["kernel"] = np.concatenate([head, padding.T], axis=1)
    source = write(tmp_path / "items", "qwen3_moe", {"params": {"params": tree}})
    wv.build(write_safetensors(model("qwen3_moe"), tmp_path / "hf"), tmp_path / "a.zarr")
    wv.build(source, tmp_path / "b.zarr")
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert not wv.verify(tmp_path / "b.zarr", source).faults
    aside = {entry.tensor: (entry.reason, entry.shape) for entry in wv.plan(source).ledger if entry.reason}
    assert aside == {
        f"params.params.{leaf}[264:]": ("padding", (24, 128))
        for leaf in ("token_embedder.embedding", "decoder.logits_dense.kernel")
    }


def test_a_tensor_answers_to_its_leafs_name(tmp_path: Path) -> None:
    source = write(tmp_path / "items", "qwen2", {"params": {"params": params(model("qwen2"))}})
    with wv.open(source) as db:
        leaf = "params.params.decoder.layers.mlp.wi_0.kernel[1]"
        assert db[leaf].key == "model.layers.1.mlp.gate_proj.weight"
        assert db[leaf].transforms == ("order_axes",)


def test_a_step_of_a_run_is_opened_by_its_one_item(tmp_path: Path) -> None:
    source = write(tmp_path / "0" / "items", "qwen2", {"params": {"params": params(model("qwen2"))}})
    (tmp_path / "0" / "_CHECKPOINT_METADATA").write_text("{}")
    with wv.open(source) as one, wv.open(tmp_path / "0") as other:
        assert set(one) == set(other)
    shutil.copytree(source, tmp_path / "0" / "more")
    with pytest.raises(UsageError, match="several items"):
        wv.open(tmp_path / "0")


def qwen(tmp_path: Path, **options: Any) -> Path:
    return write(tmp_path / "items", "qwen2", {"params": {"params": params(model("qwen2"))}}, **options)


@pytest.mark.parametrize("files", [{"ocdbt": False, "zarr3": True}, {"ocdbt": False, "zarr3": False}])
def test_a_chunk_that_is_missing_is_no_zeros(tmp_path: Path, files: dict[str, Any]) -> None:
    source = qwen(tmp_path, **files)
    leaf = source / "params.params.decoder.layers.mlp.wo.kernel"
    chunks = [file for file in leaf.rglob("*") if file.is_file() and "zar" not in file.name]
    assert chunks
    chunks[0].unlink()
    with pytest.raises(ShardError, match="missing"):
        wv.build(source, tmp_path / "m.zarr")


def test_a_leaf_that_is_missing_is_named(tmp_path: Path) -> None:
    source = qwen(tmp_path, ocdbt=False)
    shutil.rmtree(source / "params.params.decoder.layers.mlp.wo.kernel")
    with pytest.raises(ShardError, match=r"mlp\.wo\.kernel"):
        wv.open(source)


def test_a_tree_without_a_half_is_refused_by_name(tmp_path: Path) -> None:
    tree = params(model("deepseek_v3"))
    del tree["decoder"]["moe_layers"]["self_attention"]["wkv_a"]
    source = write(tmp_path / "items", "deepseek_v3", {"params": {"params": tree}})
    with pytest.raises(MetadataError, match=r"model\.layers\.1\.self_attn\.kv_a_proj_with_mqa\.weight"):
        wv.open(source)


def test_both_forms_of_one_projection_are_refused(tmp_path: Path) -> None:
    tree = params(model("deepseek_v3"))
    attention = tree["decoder"]["moe_layers"]["self_attention"]
    halves = [attention[name]["kernel"] for name in ("wq_a", "wkv_a")]
    attention["wq_kv_a"] = {"kernel": np.concatenate(halves, axis=-1)}
    source = write(tmp_path / "items", "deepseek_v3", {"params": {"params": tree}})
    with pytest.raises(DuplicateName, match="two leaves hold"):
        wv.open(source)


def test_a_stack_of_other_layers_than_the_configuration_says_is_refused(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    config = model("qwen2").config | {"num_hidden_layers": 7}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(MetadataError, match="layers along axis 1"):
        wv.open(source)


@pytest.mark.parametrize(
    ("name", "fused", "changes", "field"),
    [
        ("deepseek_v3", True, {"q_lora_rank": 48}, "q_lora_rank"),
        ("deepseek_v3", True, {"q_lora_rank": 92, "kv_lora_rank": 68}, "kv_lora_rank"),
        ("deepseek_v3", False, {"num_attention_heads": 8}, "num_attention_heads"),
        ("deepseek_v3", False, {"v_head_dim": 32, "qk_nope_head_dim": 24}, "v_head_dim"),
        ("deepseek_v3", False, {"n_routed_experts": 16}, "n_routed_experts"),
        ("deepseek_v3", False, {"vocab_size": 200}, "vocab_size"),
        ("qwen2", False, {"vocab_size": 300}, "vocab_size"),
        ("qwen2", False, {"num_key_value_heads": 4}, "num_key_value_heads"),
    ],
)
def test_leaves_that_are_not_as_long_as_the_configuration_says_are_refused(
    tmp_path: Path, name: str, fused: bool, changes: dict[str, Any], field: str
) -> None:
    source = write(tmp_path / "items", name, {"params": {"params": params(model(name), fused=fused)}})
    (source / "config.json").write_text(json.dumps(model(name).config | changes))
    with pytest.raises(MetadataError, match="do not agree") as error:
        wv.open(source)
    assert field in (error.value.field or "")
    assert str(error.value.tensor).startswith("params.params.")
    assert "along axis" in str(error.value.expected)


def test_what_model_it_is_must_be_said(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    (source / "config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UsageError, match="does not say what model it is"):
        wv.open(source)
    with wv.open(source, config=tmp_path / "elsewhere.json") as db:
        assert db.config.family == "qwen2"
    with pytest.raises(UsageError, match="only a MaxText checkpoint"):
        wv.plan(write_safetensors(model("qwen2"), tmp_path / "hf"), config=tmp_path / "elsewhere.json")


def test_a_database_without_its_tree_is_no_checkpoint(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    (source / "_METADATA").unlink()
    with pytest.raises(UnknownFormat, match="without the description of its tree"):
        wv.open(source)


def test_without_tensorstore_it_says_what_to_install(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    with (
        mock.patch.dict("sys.modules", tensorstore=None),
        pytest.raises(UsageError, match="TensorStore") as error,
    ):
        wv.open(source)
    assert "wvindex[maxtext]" in str(error.value)


def test_chunks_cannot_be_linked_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot refer to chunks"):
        wv.build(qwen(tmp_path), tmp_path / "m.zarr", link=True)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = qwen(tmp_path)

    def touch(done: wv.Progress) -> None:
        (source / "_METADATA").write_text((source / "_METADATA").read_text() + " ")

    with pytest.raises(SourceChanged):
        wv.build(source, tmp_path / "m.zarr", progress=touch)


def test_memory_for_a_chunk_is_asked_for_first(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    planned = wv.plan(source)
    largest = max(value.nbytes for value in flat(params(model("qwen2"))).values())
    assert planned.source_bytes == orbax_arrays.RUNTIME_BYTES + 3 * largest
    with pytest.raises(UsageError, match="in so little memory"):
        wv.build(source, tmp_path / "m.zarr", max_memory=planned.peak_memory - 1)


def test_room_for_what_is_put_beside_the_store_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = qwen(tmp_path)
    leaves = flat(params(model("qwen2"))).items()
    attention = sum(value.nbytes for path, value in leaves if "self_attention" in path)
    largest = max(attention, *(value.nbytes for path, value in leaves if "self_attention" not in path))
    monkeypatch.setattr(maxtext, "_CACHED_BYTES", 0)
    usage = shutil.disk_usage(tmp_path)
    enough = wv.plan(source).bytes_out + largest
    for free in (enough - 1, enough):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        refused = pytest.raises(NoSpace, match="too little room") if free < enough else nullcontext()
        with refused:
            wv.build(source, tmp_path / "m.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, "m.zarr"]


_PEAK = """
import sys
import wvindex
from tests.support.memory import peak_memory
wvindex.build(sys.argv[1], sys.argv[2], max_memory="512MiB")
print(peak_memory())
"""


@pytest.mark.nightly
def test_a_model_larger_than_the_budget(tmp_path: Path) -> None:
    hub = write_model(tmp_path / "hub", *llama(1.2))
    source = wv.export(hub, tmp_path / "run", format="maxtext", tokenizer=False)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, source, tmp_path / "out.zarr"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < BUDGET


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tree_metadata", {}),
        ("tree_metadata", []),
        ("use_ocdbt", "yes"),
        ("use_ocdbt", True),
        ("use_zarr3", False),
        ("use_zarr3", 3),
    ],
)
def test_a_tree_that_lies_is_refused(tmp_path: Path, member: str, value: object) -> None:
    source = qwen(tmp_path, ocdbt=False)
    document = json.loads((source / "_METADATA").read_text()) | {member: value}
    (source / "_METADATA").write_text(json.dumps(document))
    with pytest.raises(WvindexError) as error:
        wv.open(source)
    assert error.value.exit_code == 3


def test_the_command_line_reads_it(tmp_path: Path) -> None:
    source = qwen(tmp_path)
    config = tmp_path / "c.json"
    (source / "config.json").rename(config)
    assert "qwen2" in succeed("info", source, "--config", config)
    listed = document("ls", source, "*mlp.down_proj*", "--config", config)
    assert {tensor["exactness"] for tensor in listed["tensors"]} == {"reordered"}
    assert "38 arrays" in succeed("plan", source, "--config", config).replace("arrays        38", "38 arrays")
    out = tmp_path / "m.zarr"
    assert succeed("build", source, "--config", config, "-o", out, "-q").strip() == str(out)
    succeed("verify", out, "--source", source, "--config", config, "-q")
    assert document("show", source, "model.norm.weight[0]", "--config", config)["shape"]


@pytest.mark.parametrize("name", ["llama31", "mixtral16", "qwen2"])
def test_it_is_exported_to_hugging_face_s_form(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "ckpt", name, params(model(name), scanned=True))
    for source in (path, wv.build(path, tmp_path / "m.zarr", mla="keep")):
        out = tmp_path / f"hub of {source.name}"
        wv.export(source, out, format="safetensors")
        tensors = load_file(out / "model.safetensors")
        assert tensors.keys() == model(name).tensors.keys()
        for key, values in model(name).tensors.items():
            np.testing.assert_array_equal(tensors[key].astype(np.float32), values.astype(np.float32))
        with wv.open(out) as exported, wv.open(path) as bare:
            assert exported.config == bare.config
