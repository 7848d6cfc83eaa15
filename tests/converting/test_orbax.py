"""MaxText checkpoints that Orbax saved are converted, and Orbax restores what comes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.cli import REPOSITORY, document, environment, invoke, succeed
from tests.support.maxtext_writer import Tree, flat, params, put, train_state, write_orbax
from tests.support.orbax_process import FORMS, digest, state
from tests.support.trees import contents
from wvindex.converting import orbax_batches
from wvindex.errors import (
    DuplicateName,
    MetadataError,
    SourceChanged,
    SourceError,
    TargetExists,
    UnsupportedError,
    UsageError,
)

DATABASE = ("manifest.ocdbt", "d/", "ocdbt.process_")


def orbax_process(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.orbax_process", *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment(JAX_PLATFORMS="cpu", OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give checkpoints that Orbax saved, one a form."""
    directory = tmp_path_factory.mktemp("saved")
    orbax_process("save", directory)
    return directory


def fused_state() -> Tree:
    """Give the state as MaxText has it with fused_mla_lora_proj: columns side by side, in every moment."""
    found: Tree = {}
    leaves = flat(state())
    for path, value in leaves.items():
        name = ".".join(path)
        if ".wq_a." in name:
            other = leaves[tuple("wkv_a" if part == "wq_a" else part for part in path)]
            put(found, name.replace("wq_a", "wq_kv_a"), np.concatenate([value, other], axis=-1))
        elif ".wkv_a." not in name:
            put(found, name, value)
    return found


def test_orbax_restores_every_form_fused_unfused_and_without_an_optimizer(
    saved: Path, tmp_path: Path
) -> None:
    for form in FORMS:
        there = tmp_path / f"{form}-fused"
        wv.convert(saved / form, there, fuse_mla_lora=True, optimizer="concat")
        wv.convert(there, tmp_path / f"{form}-back", unfuse_mla_lora=True, optimizer="concat")
        wv.convert(saved / form, tmp_path / f"{form}-bare", fuse_mla_lora=True, optimizer="drop")
    restored = json.loads(orbax_process("restore", *(path for path in sorted(tmp_path.iterdir()))))
    bare = {name: leaf for name, leaf in digest(fused_state()).items() if not name.startswith("opt_state")}
    expected = {"fused": digest(fused_state()), "back": digest(state()), "bare": bare}
    assert len(restored) == 3 * len(FORMS)
    for path, found in restored.items():
        assert found["leaves"] == expected[path.rpartition("-")[2]], path
        assert found["custom"] == {"model": "tiny", "list": [1, 2]}, path


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_every_file_is_what_it_was(saved: Path, tmp_path: Path, form: str) -> None:
    wv.convert(saved / form, tmp_path / "fused", fuse_mla_lora=True, optimizer="concat")
    wv.convert(tmp_path / "fused", tmp_path / "back", unfuse_mla_lora=True, optimizer="concat")
    before, after = (
        {k: v for k, v in contents(p).items() if not k.startswith(DATABASE)}
        for p in (saved / form, tmp_path / "back")
    )
    assert before == after
    if form.startswith("plain"):
        assert any("wq_a" in name for name in before)
    else:
        assert values(saved / form) == values(tmp_path / "back")


def values(directory: Path) -> dict[bytes, bytes]:
    """Give every value of a database, compressed as it is."""
    import tensorstore as ts

    spec = {"driver": "ocdbt", "base": f"file://{directory}/"}
    store = ts.KvStore.open(spec).result()
    return {key: bytes(store.read(key).result().value) for key in store.list().result()}


def test_documents_beside_the_arrays_tell_the_truth(saved: Path, tmp_path: Path) -> None:
    wv.convert(saved / "plain3", tmp_path / "f", fuse_mla_lora=True, optimizer="concat")
    document = json.loads((tmp_path / "f" / "_METADATA").read_text())
    for member in document["tree_metadata"].values():
        name = ".".join(key["key"] for key in member["key_metadata"])
        if member["value_metadata"]["value_type"] == "jax.Array":
            metadata = json.loads((tmp_path / "f" / name / "zarr.json").read_text())
            assert metadata["shape"] == member["value_metadata"]["write_shape"], name
    names = {".".join(key["key"] for key in m["key_metadata"]) for m in document["tree_metadata"].values()}
    assert "opt_state.1" in names
    assert not any(part in ("wq_a", "wkv_a") for name in names for part in name.split("."))
    arrays = json.loads((tmp_path / "f" / "array_metadatas" / "process_0").read_text())["array_metadatas"]
    written = {one["array_metadata"]["param_name"]: one["array_metadata"] for one in arrays}
    assert written.keys() == names - {"opt_state.1"}
    fused = "opt_state.0.mu.params.decoder.moe_layers.self_attention.wq_kv_a.kernel"
    assert written[fused]["write_shape"] == written[fused]["chunk_shape"] == [16, 2, 44]
    sharding = json.loads((tmp_path / "f" / "_sharding").read_text())
    assert len(sharding) == len(written)


def test_what_becomes_of_an_optimizer_is_asked(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say what becomes of it") as error:
        wv.convert(saved / "plain3", tmp_path / "f", fuse_mla_lora=True)
    assert error.value.field == "optimizer"
    assert "concat" in str(error.value)
    assert "drop" in str(error.value)
    assert not list(tmp_path.iterdir())
    result = invoke("convert", saved / "plain3", tmp_path / "f", "--fuse-mla-lora")
    assert result.exit_code == 2


def test_every_leaf_is_in_the_plan(saved: Path, tmp_path: Path) -> None:
    planned = wv.convert(saved / "ocdbt3", tmp_path / "f", fuse_mla_lora=True, optimizer="drop", dry_run=True)
    assert not list(tmp_path.iterdir())
    inputs = sorted(name for unit in planned.units for name in unit.inputs)
    assert inputs == sorted(".".join(path) for path in flat(state()))
    dropped = {unit.inputs[0] for unit in planned.units if unit.operation == "drop"}
    assert dropped == {name for name in inputs if name.startswith("opt_state")}
    assert "dropped" in str(planned)


def test_the_command_line_converts(saved: Path, tmp_path: Path) -> None:
    arguments = ("convert", saved / "plain2", tmp_path / "f", "--fuse-mla-lora", "--optimizer", "concat")
    planned = document(*arguments, "--dry-run")
    assert planned["kind"] == "maxtext"
    assert {unit["operation"] for unit in planned["units"]} == {"copy", "fuse"}
    assert succeed(*arguments, "-q").strip() == str(tmp_path / "f")


def write(tmp_path: Path, tree: Tree, **options: Any) -> Path:
    return write_orbax(tmp_path / "in" / "items", tree, **options)


def model(*, scanned: bool = True, fused: bool = False, name: str = "deepseek_v3") -> Tree:
    return {"params": {"params": params(checkpoint(name), scanned=scanned, fused=fused)}}


@pytest.mark.parametrize("files", [{"ocdbt": True}, {"ocdbt": False, "zarr3": False}])
@pytest.mark.parametrize("scanned", [True, False])
def test_the_result_is_the_same_model(tmp_path: Path, files: dict[str, Any], scanned: bool) -> None:
    source = write(tmp_path, model(scanned=scanned), **files)
    (source / "config.json").write_text(json.dumps(checkpoint("deepseek_v3").config))
    wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    with wv.open(source) as one, wv.open(tmp_path / "f") as other:
        assert list(one) == list(other)
        for key in one:
            assert bytes(one[key].raw()) == bytes(other[key].raw()), key
        assert sum("wq_kv_a" in name for key in other for name in other[key].source) == 8


def test_columns_that_are_split_come_back_as_values(tmp_path: Path) -> None:
    chunks = {
        "layers.self_attention.wq_a.kernel": (50, 9, 40),
        "layers.self_attention.wkv_a.kernel": (60, 9, 30),
    }
    source = write(tmp_path, model(), chunks=chunks)
    done = wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    assert any("in other chunks" in note for note in done.notes)
    wv.convert(tmp_path / "f", tmp_path / "b", unfuse_mla_lora=True)
    (source / "config.json").write_text(json.dumps(checkpoint("deepseek_v3").config))
    with wv.open(source) as one, wv.open(tmp_path / "b", config=source / "config.json") as other:
        for key in one:
            assert bytes(one[key].raw()) == bytes(other[key].raw()), key


def test_a_step_is_converted_whole(tmp_path: Path) -> None:
    write(tmp_path, model(scanned=False))
    (tmp_path / "in" / "_CHECKPOINT_METADATA").write_text("{}")
    wv.convert(tmp_path / "in", tmp_path / "f", fuse_mla_lora=True)
    assert (tmp_path / "f" / "_CHECKPOINT_METADATA").read_text() == "{}"
    assert (tmp_path / "f" / "items" / "_METADATA").is_file()
    wv.convert(tmp_path / "f", tmp_path / "b", unfuse_mla_lora=True)
    assert values(tmp_path / "in" / "items") == values(tmp_path / "b" / "items")


def _without(leaf: str) -> Callable[[Tree], None]:
    def edit(tree: Tree) -> None:
        del tree["params"]["params"]["decoder"]["moe_layers"]["self_attention"][leaf]

    return edit


def _both(tree: Tree) -> None:
    attention = tree["params"]["params"]["decoder"]["moe_layers"]["self_attention"]
    attention["wq_kv_a"] = attention["wq_a"]


def _quantized(tree: Tree) -> None:
    put(
        tree,
        "params.params.decoder.moe_layers.self_attention.wq_a.qrhs.scale",
        np.ones((1, 2, 96), np.float32),
    )


def _other_dtype(tree: Tree) -> None:
    attention = tree["params"]["params"]["decoder"]["moe_layers"]["self_attention"]
    attention["wkv_a"]["kernel"] = attention["wkv_a"]["kernel"].astype(np.float32)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (_without("wkv_a"), MetadataError, r"moe_layers\.self_attention\.wkv_a\.kernel"),
        (_without("wq_a"), MetadataError, r"moe_layers\.self_attention\.wq_a\.kernel"),
        (_both, DuplicateName, "fused and unfused"),
        (_quantized, (MetadataError, UnsupportedError), "qrhs"),
        (_other_dtype, UnsupportedError, "side by side"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(
    tmp_path: Path, edit: Callable[[Tree], None], error: type[Exception], message: str
) -> None:
    tree = model()
    edit(tree)
    with pytest.raises(error, match=message):
        wv.convert(write(tmp_path, tree), tmp_path / "f", fuse_mla_lora=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_without_a_low_rank_query_there_is_nothing_to_fuse(tmp_path: Path) -> None:
    source = write(tmp_path, model(name="deepseek_v2_lite"))
    with pytest.raises(UnsupportedError, match="q_lora_rank"):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True)


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_done_already_is_refused(tmp_path: Path, fused: bool) -> None:
    source = write(tmp_path, model(fused=fused))
    with pytest.raises(UnsupportedError):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=fused, unfuse_mla_lora=not fused)


def test_an_ordinary_model_has_no_such_projections(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no latent attention"):
        wv.convert(write(tmp_path, model(name="qwen2")), tmp_path / "f", fuse_mla_lora=True)


@pytest.mark.parametrize("files", [{"ocdbt": True}, {"ocdbt": False}])
def test_an_interrupted_conversion_goes_on_where_it_ended(tmp_path: Path, files: dict[str, Any]) -> None:
    source = write(tmp_path, model(scanned=False), **files)
    wv.convert(source, tmp_path / "whole", fuse_mla_lora=True)

    def stop(done: wv.Progress) -> None:
        if done.bytes_done > done.bytes_total * 0.9:
            raise KeyboardInterrupt

    with mock.patch.object(orbax_batches, "_BATCH_BYTES", 1 << 18):
        with pytest.raises(KeyboardInterrupt):
            wv.convert(source, tmp_path / "f", fuse_mla_lora=True, progress=stop)
        assert not (tmp_path / "f").exists()
        staging = tmp_path / "f.converting" / "store"
        inodes = {
            p: p.stat().st_ino for p in staging.rglob("*") if p.is_file() and p.parent.name in ("d", "c", "0")
        }
        assert inodes
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    assert not (tmp_path / "f.converting").exists()
    kept = [(tmp_path / "f" / p.relative_to(staging)) for p in inodes]
    assert sum(p.exists() and p.stat().st_ino in inodes.values() for p in kept) > len(kept) // 2
    if files["ocdbt"]:
        assert values(tmp_path / "f") == values(tmp_path / "whole")
    else:
        assert contents(tmp_path / "f") == contents(tmp_path / "whole")


def test_a_source_that_changed_meanwhile_is_not_gone_on_with(tmp_path: Path) -> None:
    source = write(tmp_path, model())

    def stop(done: wv.Progress) -> None:
        if done.bytes_done > done.bytes_total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True, progress=stop)
    (source / "more").write_text("x")
    with pytest.raises(SourceChanged):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    wv.convert(source, tmp_path / "f", fuse_mla_lora=True, restart=True)
    assert (tmp_path / "f" / "more").read_text() == "x"


def test_only_an_orbax_checkpoint_is_replaced_by_one(tmp_path: Path) -> None:
    source = write(tmp_path, model())
    (tmp_path / "f").mkdir()
    with pytest.raises(TargetExists):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True, overwrite=True)
    (tmp_path / "f").rmdir()
    wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    with pytest.raises(TargetExists):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    wv.convert(source, tmp_path / "f", fuse_mla_lora=True, overwrite=True)


def test_memory_for_the_largest_chunk_is_asked_for_first(tmp_path: Path) -> None:
    tree = model()
    put(tree, "params.params.big", np.zeros((64 << 20,), np.uint8))
    with pytest.raises(UsageError, match="in so little memory"):
        wv.convert(write(tmp_path, tree), tmp_path / "f", fuse_mla_lora=True, max_memory="256MiB")


def test_only_maxtext_has_an_optimizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such value"):
        wv.convert(write(tmp_path, model()), tmp_path / "f", fuse_mla_lora=True, optimizer="keep")


def test_a_moment_that_is_not_shaped_like_its_parameter_is_refused_by_name(tmp_path: Path) -> None:
    """Adafactor keeps a row and a column of a second moment; an axis that is gone is no columns' axis."""
    tree = train_state(model()["params"]["params"])
    factored = flat(tree["opt_state"]["0"]["nu"]["params"])
    for path, value in factored.items():
        if path[-2] in ("wq_a", "wkv_a"):
            put(tree["opt_state"]["0"]["nu"]["params"], ".".join(path), value.mean(axis=-1))
    source = write(tmp_path, tree, ocdbt=False)
    with pytest.raises(UnsupportedError, match="not shaped like its parameter") as caught:
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True, optimizer="concat")
    assert str(caught.value.tensor).startswith("opt_state.0.nu.params.decoder.")
    wv.convert(source, tmp_path / "f", fuse_mla_lora=True, optimizer="drop")


def test_norms_say_where_the_query_ends_and_contradictions_are_refused(tmp_path: Path) -> None:
    tree = model()
    attention = tree["params"]["params"]["decoder"]["moe_layers"]["self_attention"]
    attention["q_norm"]["scale"] = attention["q_norm"]["scale"][:-1]
    with pytest.raises(MetadataError, match=r"wq_a\.kernel and .*q_norm\.scale"):
        wv.convert(write(tmp_path, tree), tmp_path / "f", fuse_mla_lora=True)


def test_a_layer_that_lacks_both_halves_is_named(tmp_path: Path) -> None:
    tree = model(scanned=False)
    attention = tree["params"]["params"]["decoder"]["moe_layers_0"]["self_attention"]
    del attention["wq_a"], attention["wkv_a"]
    with pytest.raises(MetadataError, match=r"moe_layers_0\.self_attention\.wkv_b"):
        wv.convert(write(tmp_path, tree), tmp_path / "f", fuse_mla_lora=True)


def _removed(chunk: Path) -> None:
    chunk.unlink()


def _truncated(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-7])


def _emptied(chunk: Path) -> None:
    chunk.write_bytes(b"")


@pytest.mark.parametrize("zarr3", [True, False])
@pytest.mark.parametrize("damage", [_removed, _truncated, _emptied])
def test_a_damaged_leaf_is_not_carried_on(
    tmp_path: Path, damage: Callable[[Path], None], zarr3: bool
) -> None:
    """It has nothing to do with the down-projections: it would be copied as it is."""
    source = write(tmp_path, model(), ocdbt=False, zarr3=zarr3)
    leaf = "params.params.decoder.dense_layers.mlp.wi_0.kernel"
    damage(source / leaf / ("c/0/0/0" if zarr3 else "0.0.0"))
    with pytest.raises(SourceError, match=r"wi_0\.kernel"):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_value_that_a_database_lacks_is_named(tmp_path: Path) -> None:
    import tensorstore as ts

    source = write(tmp_path, model())
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{source}/"}).result()
    key = b"params.params.decoder.dense_layers.mlp.wi_0.kernel/c/0/0/0"
    assert key in store.list().result()
    store.delete_range(ts.KvStore.KeyRange(key, key + b"\0")).result()
    with pytest.raises(SourceError, match=key.decode()):
        wv.convert(source, tmp_path / "f", fuse_mla_lora=True, dry_run=True)


def test_settings_beside_it_say_the_form_that_it_has(tmp_path: Path) -> None:
    source = write(tmp_path, model())
    text = "# fused_mla_lora_proj: True\r\nfused_mla_lora_proj: {}  # here\r\nrope_factor: 40\r\n"
    (source.parent / "maxtext.yml").write_text(text.format("false"), newline="")
    (source.parent / "flow.yaml").write_text("{fused_mla_lora_proj: false}\n")
    done = wv.convert(source.parent, tmp_path / "f", fuse_mla_lora=True)
    assert (tmp_path / "f" / "maxtext.yml").read_bytes().decode() == text.format("true")
    assert "maxtext.yml" in {edit.file for edit in done.edits}
    (note,) = done.notes
    assert note.startswith("flow.yaml")
    wv.convert(tmp_path / "f", tmp_path / "b", unfuse_mla_lora=True)
    assert (tmp_path / "b" / "maxtext.yml").read_bytes().decode() == text.format("false")


def test_settings_that_leave_the_form_out_say_it_while_it_is_fused(tmp_path: Path) -> None:
    """Absent it means false; the way back gives each file as it was."""
    source = write(tmp_path, model()).parent
    texts = {
        "maxtext.yml": "decoder_block: deepseek\nrope_factor: 40\n",
        "windows.yml": "# one\r\ndecoder_block: deepseek\r\n",
        "open-end.yaml": "decoder_block: deepseek",
        "flow.yml": "\n{\ndecoder_block: deepseek}\n",
        "other.yml": "tokenizer: of no model\n",
        "models/deepseek3-test.yml": "decoder_block: deepseek\n",
        "models/old.yml": "decoder_block: deepseek\nfused_mla_lora_proj: false\n",
    }
    (source / "models").mkdir()
    for name, text in texts.items():
        (source / name).write_bytes(text.encode())
    done = wv.convert(source, tmp_path / "f", fuse_mla_lora=True)
    form = {
        name: yaml.safe_load((tmp_path / "f" / name).read_bytes()).get("fused_mla_lora_proj")
        for name in texts
    }
    started_with = {"maxtext.yml", "windows.yml", "open-end.yaml", "models/old.yml"}
    assert {name for name, value in form.items() if value} == started_with
    assert [note.split()[0] for note in done.notes] == ["flow.yml"]
    wv.convert(tmp_path / "f", tmp_path / "b", unfuse_mla_lora=True)
    assert {name: (tmp_path / "b" / name).read_bytes().decode() for name in texts} == texts
