"""Stores to MaxText checkpoints: Orbax restores them, NumPy says what they hold, builds give stores again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorstore as ts
import yaml

import wvindex as wv
from tests.support import configs
from tests.support.checkpoints import Checkpoint, checkpoint, made
from tests.support.cli import REPOSITORY, document, environment, invoke, succeed
from tests.support.gguf_writer import write_gguf
from tests.support.maxtext_writer import params, write_orbax
from tests.support.orbax_process import digest
from tests.support.recipes import Recipe
from tests.support.safetensors_writer import write_safetensors
from tests.support.stores import Stores
from tests.support.trees import contents, names
from wvindex.errors import TargetExists, UnsupportedError, UsageError
from wvindex.exporting import maxtext_leaves, maxtext_write
from wvindex.sources import orbax_arrays

LLAMA31 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
# Heads of 16, and a root of the width that is a power of two: MaxText's factors round nothing.
EXTRA = {
    "llama31": configs.llama(head_dim=16, rope_scaling=LLAMA31),
    "mixtral16": configs.MIXTRAL | {"head_dim": 16},
    "gemma2-exact": configs.gemma2(head_dim=16, query_pre_attn_scalar=16, hidden_size=64),
}

SHARED = {
    f"model.layers.3.{name}.weight" for name in ("embed_tokens", "shared_head.norm", "shared_head.head")
}
"""What the layer that predicts a further token shares with the model in MaxText, and is not written."""


@cache
def model(name: str) -> Checkpoint:
    return made(Recipe(name, 5, EXTRA[name])) if name in EXTRA else checkpoint(name)


def small_chunks() -> Any:
    """Have leaves divided into chunks of some kilobytes."""
    return mock.patch.multiple(maxtext_leaves, _CHUNK_BYTES=4096)


def small_batches() -> Any:
    """Have databases closed after a few leaves."""
    return mock.patch.multiple(maxtext_write, _BATCH_BYTES=1 << 18)


def assert_same(one: Path, other: Path) -> None:
    """Compare two stores, key by key: names, shapes, encodings, bytes, configuration."""
    with wv.open(one) as a, wv.open(other) as b:
        assert set(a) - SHARED == set(b)
        for key in b:
            assert (a[key].shape, a[key].encoding) == (b[key].shape, b[key].encoding), key
            assert bytes(a[key].raw()) == bytes(b[key].raw()), key
        assert a.config == b.config


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("deepseek_v3", {}),
    ("deepseek_v3", {"scan_layers": False}),
    ("deepseek_v3", {"fused_mla_lora_proj": True}),
    ("llama31", {}),
    ("mixtral16", {"scan_layers": False}),
    ("qwen2", {}),
    ("qwen3_moe", {}),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Give the store of each form's model, and what it was exported to."""
    root = tmp_path_factory.mktemp("exported")
    found = {}
    for number, (name, options) in enumerate(FORMS):
        store = root / f"{name}.zarr"
        if not store.exists():
            wv.build(write_safetensors(model(name), root / f"{name}-hf"), store, mla="keep")
        with small_batches():
            found[_id(name, options)] = (
                store,
                wv.export(store, root / str(number), format="maxtext", **options),
            )
    return found


def _id(name: str, options: dict[str, Any]) -> str:
    return "-".join([name, *options])


def test_orbax_restores_what_maxtext_s_own_conversion_gives(exported: dict[str, tuple[Path, Path]]) -> None:
    """The tree is the test's, made in NumPy by the formulas of MaxText's param_mapping.py."""
    paths = [out / "0" / "items" for _, out in exported.values()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.orbax_process", "restore", *map(str, paths)],
        cwd=REPOSITORY,
        env=environment(JAX_PLATFORMS="cpu", OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    restored = json.loads(done.stdout)
    for (name, options), path in zip(FORMS, paths, strict=True):
        scanned, fused = options.get("scan_layers", True), "fused_mla_lora_proj" in options
        tree = {"params": {"params": params(model(name), scanned=scanned, fused=fused)}}
        assert restored[str(path)]["leaves"] == digest(tree), name
        assert restored[str(path)]["custom"] == {"scan_layers": scanned}
        assert restored[str(path)]["step"]["scan_layers"] is scanned


@pytest.mark.parametrize("form", [_id(*form) for form in FORMS])
def test_a_build_of_it_is_the_same_store(
    form: str, exported: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    store, out = exported[form]
    assert_same(store, wv.build(out, tmp_path / "again.zarr", mla="keep"))
    with wv.open(store) as one, wv.open(out) as other:
        assert one.tokenizer is not None
        assert other.tokenizer is not None
        assert one.tokenizer.encode("in the") == other.tokenizer.encode("in the")


@pytest.mark.parametrize("form", [_id(*form) for form in FORMS])
def test_maxtext_s_settings_say_the_same_model(form: str, exported: dict[str, tuple[Path, Path]]) -> None:
    store, out = exported[form]
    with wv.open(store) as one, wv.open(out, config=out / "maxtext.yml") as other:
        said = replace(
            one.config,
            bos_token_id=None,
            eos_token_ids=(),
            max_position_embeddings=other.config.max_position_embeddings,
        )
        assert other.config == said
        assert set(other) <= set(one)


def test_maxtext_routes_as_deepseek_v3_with_the_models_own_sizes(
    exported: dict[str, tuple[Path, Path]],
) -> None:
    """MaxText looks at the name's prefix, and lays dirname(maxtext.yml)/models/NAME.yml over the settings."""
    for form in ("deepseek_v3", "deepseek_v3-fused_mla_lora_proj"):
        _, out = exported[form]
        settings = yaml.safe_load((out / "maxtext.yml").read_text())
        assert settings["model_name"].startswith("deepseek3")
        named = yaml.safe_load((out / "models" / f"{settings['model_name']}.yml").read_text())
        assert settings | named == settings
        config = model("deepseek_v3").config
        assert (named["num_experts"], named["n_routing_groups"]) == (
            config["n_routed_experts"],
            config["n_group"],
        )
        assert not {"model_name", "base_config", "scan_layers", "fused_mla_lora_proj"} & set(named)
    assert "model_name" not in yaml.safe_load((exported["qwen3_moe"][1] / "maxtext.yml").read_text())


def test_values_that_maxtext_adds_to_come_back(tmp_path: Path) -> None:
    """Gemma 2: 1 + w is in float32, for bfloat16 would round it; and two layers are one."""
    source = write_safetensors(model("gemma2-exact"), tmp_path / "hf")
    for scan in (True, False):
        out = wv.export(source, tmp_path / f"out-{scan}", format="maxtext", scan_layers=scan)
        with wv.open(source) as one, wv.open(out) as other:
            assert set(one) == set(other)
            for key in one:
                np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]), err_msg=key)
                assert other[key].encoding == ("F32" if key.endswith("norm.weight") else one[key].encoding)


def test_what_is_rounded_is_named_and_is_what_maxtext_rounds(tmp_path: Path) -> None:
    source = write_safetensors(model("mistral"), tmp_path / "hf")
    planned = wv.plan_export(source, tmp_path / "out", format="maxtext")
    name = "params.params.decoder.layers.self_attention.query.kernel"
    assert planned.notes == (
        f"rounded, for MaxText keeps them times 0.176777, as its own conversion does: {name}",
    )
    out = wv.export(source, tmp_path / "out", format="maxtext")
    kernel = model("mistral").tensors["model.layers.1.self_attn.q_proj.weight"]
    scaled = kernel.astype(np.float32) * np.float32(1 / np.sqrt(32))  # heads of 32
    expected = scaled.astype(kernel.dtype).T.reshape(128, 4, 32)
    np.testing.assert_array_equal(leaf(out, name)[:, 1], expected)


@pytest.mark.parametrize(("stored", "options"), [("float32", {"dtype": "float16"}), ("float16", {})])
def test_no_value_becomes_infinite_by_maxtext_s_factor(
    stored: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """30000 is a float16; times the root of Gemma's width, 11.3, it is none."""
    gemma = model("gemma2-exact")
    tensors = {key: np.array(one).astype(stored) for key, one in gemma.tensors.items()}
    tensors["model.embed_tokens.weight"][3, 5] = 30000
    source = write_safetensors(replace(gemma, tensors=tensors), tmp_path / "hf")
    with pytest.raises(UnsupportedError, match=r"too large for F16.*embed_tokens\.weight.*found: 30000"):
        wv.export(source, tmp_path / "out", format="maxtext", **options)
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_becomes_a_maxtext_checkpoint(tmp_path: Path) -> None:
    """Names, order of rows, factors in two, configuration and vocabulary are GGUF's."""
    source = write_gguf(checkpoint("deepseek_v3"), tmp_path / "m.gguf", dtype="Q8_0")[0]
    out = wv.export(source, tmp_path / "out", format="maxtext", dtype="bfloat16")
    store = wv.build(source, tmp_path / "a.zarr", mla="keep", dtype="bfloat16")
    assert_same(store, wv.build(out, tmp_path / "b.zarr", mla="keep"))


def test_large_leaves_are_in_chunks_of_one_layer(tmp_path: Path) -> None:
    source = write_safetensors(model("deepseek_v3"), tmp_path / "hf")
    with small_chunks(), small_batches():
        out = wv.export(source, tmp_path / "out", format="maxtext")
    array = opened(out, "params.params.decoder.moe_layers.DeepSeekMoeBlock_0.MoeBlock_0.wi_0")
    assert array.shape == (8, 2, 128, 64)
    assert array.chunk_layout.write_chunk.shape == (1, 1, 128, 16)
    assert len(list((out / "0" / "items").glob("ocdbt.process_*"))) > 3
    members = json.loads((out / "0" / "items" / "_METADATA").read_text())["tree_metadata"]
    arrays = [opened(out, ".".join(key["key"] for key in one["key_metadata"])) for one in members.values()]
    largest = max(
        np.prod(one.chunk_layout.write_chunk.shape) * one.dtype.numpy_dtype.itemsize for one in arrays
    )
    assert wv.plan(out).source_bytes == orbax_arrays.RUNTIME_BYTES + 3 * largest  # of one layer, not of all
    with wv.open(source) as one, wv.open(out) as other:
        assert set(one) - SHARED == set(other)
        for key in other:
            assert bytes(one[key].raw()) == bytes(other[key].raw()), key
    assert_same(
        wv.build(source, tmp_path / "a.zarr", mla="keep"), wv.build(out, tmp_path / "b.zarr", mla="keep")
    )


def opened(out: Path, name: str) -> Any:
    kvstore = {"driver": "ocdbt", "base": f"file://{out}/0/items/", "path": f"{name}/"}
    return ts.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()


def leaf(out: Path, name: str) -> Any:
    return opened(out, name).read().result()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "llama",
        {},
        r"field: rope\.full_attention\.inv_freq\[\d+\], expected: [.\de-]+, found",
    ),
    ("llama-linear", {}, "no place for this tensor.*k_proj.bias"),
    ("mistral-window", {}, "maxtext cannot say.*field: (sliding_window|layer_types)"),
    ("gemma2-scalar", {}, "maxtext cannot say.*field: attention_scale"),
    (
        "qwen3_moe-dense",
        {},
        r"maxtext cannot say.*field: moe\.norm_topk_prob, expected: False, found: True",
    ),
    ("deepseek_v3-bias", {}, "maxtext cannot say|no place for this tensor"),
    ("deepseek_v3-fp8", {}, "MaxText has no such type; give a dtype"),
    ("deepseek_v2", {}, "no groups of experts.*field: n_group"),
    ("phi3", {}, "does not map to MaxText's.*found: phi3"),
    ("gemma3", {}, "does not map to MaxText's.*found: gemma3_text"),
    ("glm4_moe_lite", {}, "does not map to MaxText's.*found: glm4_moe_lite"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_what_maxtext_cannot_say_is_refused_by_name(
    name: str, options: dict[str, Any], message: str, stores: Stores, tmp_path: Path
) -> None:
    source = stores.safetensors(name)
    with pytest.raises(UnsupportedError, match=message):
        wv.export(source, tmp_path / "out", format="maxtext", **options)
    assert names(tmp_path) == []
    assert wv.plan_export(source, tmp_path / "out", format="maxtext", **options).refusals


def test_rotation_that_is_not_scaled_is_yarn_by_a_factor_of_1(tmp_path: Path) -> None:
    """MaxText's other rotation is of halves, and its softmax scaled wherever the context is long."""
    config = configs.deepseek_v3(rope_scaling=None, num_nextn_predict_layers=0)
    source = write_safetensors(made(Recipe("unscaled", 3, config)), tmp_path / "hf")
    out = wv.export(source, tmp_path / "out", format="maxtext")
    assert "rope_type: yarn" in (out / "maxtext.yml").read_text()
    with wv.open(source) as one, wv.open(out, config=out / "maxtext.yml") as other:
        assert one.config.rope["full_attention"].inv_freq == other.config.rope["full_attention"].inv_freq
        assert one.config.attention_scale == other.config.attention_scale


def test_a_part_of_a_model_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    whole = model("qwen2")
    kept = {key: one for key, one in whole.tensors.items() if key != "model.layers.2.mlp.up_proj.weight"}
    source = write_safetensors(replace(whole, tensors=kept), tmp_path / "hf")
    for scan in (True, False):
        planned = wv.plan_export(source, tmp_path / "out", format="maxtext", scan_layers=scan)
        tensor, error = planned.refusals[0]
        assert tensor == "model.layers.2.mlp.up_proj.weight"
        assert "wants the whole model" in str(error)


def test_products_are_no_factors(stores: Stores, tmp_path: Path) -> None:
    absorbed = stores.build(stores.safetensors("deepseek_v3"))
    with pytest.raises(UnsupportedError, match="does not say which factors it is of"):
        wv.export(absorbed, tmp_path / "out", format="maxtext")


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("deepseek_v2_lite", {"fused_mla_lora_proj": True}, "fused_mla_lora_proj"),
        ("qwen2", {"fused_mla_lora_proj": True}, "fused_mla_lora_proj"),
        ("qwen2", {"mla": "absorb"}, "mla"),
        ("qwen2", {"max_shard_size": "1GB"}, "max_shard_size"),
        ("qwen2", {"format": "gguf", "scan_layers": False}, "scan_layers"),
        ("qwen2", {"format": "safetensors", "fused_mla_lora_proj": True}, "fused_mla_lora_proj"),
        ("qwen2", {"max_memory": "300MiB"}, "max_memory"),
    ],
)
def test_an_option_that_cannot_be_is_told(
    name: str, options: dict[str, Any], field: str, stores: Stores, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        wv.export(stores.safetensors(name), tmp_path / "out", **({"format": "maxtext"} | options))
    assert caught.value.field == field
    assert names(tmp_path) == []


def test_only_a_checkpoint_of_one_step_is_replaced(stores: Stores, tmp_path: Path) -> None:
    source = stores.safetensors("qwen2")
    out = wv.export(source, tmp_path / "out", format="maxtext", scan_layers=False)
    with pytest.raises(TargetExists):
        wv.export(source, out, format="maxtext")
    wv.export(source, out, format="maxtext", overwrite=True)
    assert opened(out, "params.params.decoder.layers.mlp.wo.kernel").shape == (192, 3, 128)
    shutil.copytree(out / "0", out / "1000")  # a run, which has other steps
    before = contents(out)
    with pytest.raises(TargetExists, match="one step"):
        wv.export(source, out, format="maxtext", overwrite=True)
    with pytest.raises(UsageError, match="several steps"):
        wv.open(out)
    assert contents(out) == before
    store = stores.build(source)
    with pytest.raises(TargetExists):
        wv.export(source, store, format="maxtext", overwrite=True)


def _noted(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def _other_item(out: Path) -> None:
    shutil.copytree(out / "0" / "items", out / "0" / "opt_state")


def _in_training(out: Path) -> None:
    file = out / "0" / "items" / "_METADATA"
    document = json.loads(file.read_text())
    keys = ("opt_state", "count")
    document["tree_metadata"][str(keys)] = {
        "key_metadata": [{"key": key, "key_type": 2} for key in keys],
        "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
    }
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "found"),
    [(_noted, "notes.txt"), (_other_item, "0/opt_state"), (_in_training, "opt_state.count")],
)
def test_what_no_export_writes_is_never_replaced(
    change: Callable[[Path], None], found: str, exported: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    store, out = exported["deepseek_v3"]
    taken = shutil.copytree(out, tmp_path / "taken")
    wv.export(store, taken, format="maxtext", overwrite=True)
    change(taken)
    before = contents(taken)
    with pytest.raises(TargetExists, match=f"found: {found}"):
        wv.export(store, taken, format="maxtext", overwrite=True)
    assert contents(taken) == before


def test_layers_are_scanned_anew(exported: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A MaxText checkpoint is a source as any other; a conversion that fuses it reads it too."""
    store, out = exported["deepseek_v3-scan_layers"]
    again = wv.export(out, tmp_path / "scanned", format="maxtext")
    wv.convert(again, tmp_path / "fused", fuse_mla_lora=True)
    assert {"config.json", "maxtext.yml", "0"} <= set(names(tmp_path / "fused"))
    with wv.open(store) as one, wv.open(tmp_path / "fused") as other:
        for key in other:
            assert bytes(one[key].raw()) == bytes(other[key].raw()), key


_KILLED = """
import os, signal, sys
from unittest import mock
import wvindex
from wvindex.exporting import maxtext_write
def progress(done):
    if done.bytes_done > done.bytes_total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
with mock.patch.object(maxtext_write, "_BATCH_BYTES", 1 << 18):
    wvindex.export(sys.argv[1], sys.argv[2], format="maxtext", progress=progress)
"""


def test_a_killed_export_leaves_nothing_and_goes_on(stores: Stores, tmp_path: Path) -> None:
    source, out = stores.safetensors("deepseek_v2_lite"), tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, source, out],
        cwd=REPOSITORY,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert names(tmp_path) == ["out.exporting"]
    before = _databases(tmp_path / "out.exporting" / "store")
    with small_batches():
        wv.export(source, out, format="maxtext")
    after = _databases(out)
    assert len(before) > 2
    assert {name: after[name] for name in list(before)[:-1]} == dict(list(before.items())[:-1])
    assert names(tmp_path) == ["out"]
    with wv.open(source) as one, wv.open(out) as other:
        for key in one:
            assert bytes(one[key].raw()) == bytes(other[key].raw()), key


def _databases(root: Path) -> dict[int, dict[str, bytes]]:
    """Give the files of each database, by its number."""
    found = {int(path.name.rpartition("_")[2]): contents(path) for path in (root / "0/items").glob("ocdbt.*")}
    return dict(sorted(found.items()))


def test_a_tree_beside_which_nothing_is_described_asks_for_a_configuration(
    exported: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    _, out = exported["qwen2"]
    moved = Path(shutil.copytree(out / "0", tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match="does not say what model it is"):
        wv.open(moved)


def test_the_command_line_exports(stores: Stores, tmp_path: Path) -> None:
    source, out = stores.safetensors("deepseek_v3"), tmp_path / "out"
    arguments = ("export", source, out, "--format", "maxtext", "--no-scan-layers", "--fused-mla-lora-proj")
    planned = document(*arguments, "--dry-run")
    assert names(tmp_path) == []
    fused = [one for one in planned["tensors"] if "wq_kv_a" in one["name"]]
    assert [one["name"] for one in fused][:3] == [
        f"params.params.decoder.{layer}.self_attention.wq_kv_a.kernel"
        for layer in ("dense_layers_0", "moe_layers_0", "moe_layers_1")
    ]
    assert any("others refuse the setting" in note for note in planned["notes"])
    assert {(one["file"], *one["shape"]) for one in fused} == {("0/items", 128, 96 + 64 + 16)}
    assert set(planned["files"]) >= {"0/items", "0/items/_METADATA", "maxtext.yml", "config.json"}
    assert succeed(*arguments, "-q") == f"{out}\n"
    assert "deepseek_v3" in succeed("info", out)
    assert invoke(*arguments, "-q").exit_code == 3


def test_without_tensorstore_it_says_what_to_install(stores: Stores, tmp_path: Path) -> None:
    with (
        mock.patch.dict("sys.modules", tensorstore=None),
        pytest.raises(UsageError, match=r"wvindex\[maxtext\]"),
    ):
        wv.export(stores.safetensors("qwen2"), tmp_path / "out", format="maxtext")
    assert names(tmp_path) == []


def test_a_tree_of_several_items_is_still_named(tmp_path: Path) -> None:
    for item in ("items", "other"):
        write_orbax(tmp_path / "0" / item, {"params": {"params": params(model("qwen2"))}})
    with pytest.raises(UsageError, match="several items"):
        wv.open(tmp_path)
