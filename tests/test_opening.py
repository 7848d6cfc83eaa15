"""`wvindex.open` on a bare checkpoint: the store that keeping would build, over the file's own bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import checkpoint, golden, names
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.stores import Stores, require_same_store
from wvindex.errors import (
    KeyNotFound,
    MetadataError,
    NotAStore,
    SourceError,
    UnsupportedModel,
    UnsupportedTokenizer,
    WvindexError,
)
from wvindex.infer import Model
from wvindex.query.database import Store
from wvindex.sources.base import Source, TensorInfo
from wvindex.sources.detect import open_source
from wvindex.sources.unchanged import hash_files, require_unchanged

DENSE = [name for name in names() if "kv_lora_rank" not in checkpoint(name).config]
KEPT = {"mla": "keep"}
COMMITTED = Path(__file__).parent / "golden"


class Counting:
    """A source that counts the bytes that are read of its tensors."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.bytes_read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        self.bytes_read += stop - start
        return self._source.read(info, start, stop, out)


def open_counting(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Counting]:
    """Open a bare checkpoint through a source that counts."""
    counting = Counting(open_source(path))
    monkeypatch.setattr("wvindex.opening.open_source", lambda path, config: counting)
    return wvindex.open(path), counting


@pytest.mark.parametrize("experts", ["each", "mixed"])
@pytest.mark.parametrize("name", names())
def test_a_bare_directory_is_the_store_that_keeps(name: str, experts: Any, stores: Stores) -> None:
    path = stores.safetensors(name, "hub", experts, 1 if experts == "each" else 2)
    with wvindex.open(path) as bare, wvindex.open(stores.build(path, **KEPT)) as built:
        require_same_store(bare, built)


@pytest.mark.parametrize("name", names(gguf=True))
def test_a_bare_gguf_file_is_the_store_that_keeps(name: str, stores: Stores) -> None:
    path = stores.gguf(name)
    with wvindex.open(path) as bare, wvindex.open(stores.build(path, **KEPT)) as built:
        require_same_store(bare, built)


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.gguf")), ids=lambda path: path.stem)
def test_a_bare_quantized_file_is_the_store_that_keeps(path: Path, stores: Stores) -> None:
    with wvindex.open(path) as bare, wvindex.open(stores.build(path, **KEPT)) as built:
        require_same_store(bare, built)


@pytest.mark.parametrize("name", DENSE)
def test_a_bare_dense_model_runs(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    with wvindex.open(stores.safetensors(name)) as db:
        logits = Model(db).forward(ids).logits
    assert np.abs(logits - expected).max() < 5e-4 / 3 * expected.std()


def test_a_bare_latent_model_reads_but_does_not_run(stores: Stores) -> None:
    with wvindex.open(stores.safetensors("deepseek_v3")) as db:
        assert db.config.attention_form == "factored"
        with pytest.raises(UnsupportedModel, match="wvindex build"):
            Model(db)


def test_it_answers_to_every_name(stores: Stores) -> None:
    with wvindex.open(stores.safetensors("mixtral")) as db:
        stack = db["model.layers.1.mlp.experts.down_proj.weight"]
        one = np.asarray(stack.expert(2))
        for name in (
            "model.layers.1.mlp.experts.2.down_proj.weight",
            "model.layers.1.block_sparse_moe.experts.2.w2.weight",
        ):
            np.testing.assert_array_equal(np.asarray(db[name]), one)
        assert db["blk.1.ffn_down_exps.weight"].key == stack.key
        with pytest.raises(KeyNotFound):
            db["model.layers.1.mlp.experts.4.down_proj.weight"]


def test_experts_past_the_tenth_answer_to_their_own_names(tmp_path: Path) -> None:
    model = checkpoint("qwen3_moe")
    tensors = {key: tensor for key, tensor in model.tensors.items() if ".experts." not in key}
    rng = np.random.default_rng(0)
    for layer in range(2):
        for part, shape in (("gate", (64, 128)), ("up", (64, 128)), ("down", (128, 64))):
            for expert in range(12):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
                tensors[name] = rng.standard_normal(shape).astype(np.float32)
    write_safetensors(model, tmp_path / "model")
    write_weights(dict(sorted(tensors.items())), tmp_path / "model")
    config = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(config.replace('"num_experts": 6', '"num_experts": 12'))
    with wvindex.open(tmp_path / "model") as db:
        for name, expected in tensors.items():
            if ".experts." in name:
                np.testing.assert_array_equal(np.asarray(db[name]), expected, err_msg=name)


def test_opening_reads_no_weight(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    db, counting = open_counting(stores.safetensors("deepseek_v3-fp8"), monkeypatch)
    with db:
        assert len(db) > 0
        assert repr(db)
        assert counting.bytes_read == 0


def test_a_slice_reads_only_its_bytes(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    db, counting = open_counting(stores.safetensors("llama"), monkeypatch)
    with db:
        w = db["model.layers.1.mlp.up_proj.weight"]  # (192, 128) BF16
        for index, expected in (
            (np.s_[10:20], 10 * 256),
            (np.s_[7], 256),
            (np.s_[:], 192 * 256),
            (np.s_[3, 64:96], 64),
            (np.s_[5:5], 0),
        ):
            counting.bytes_read = 0
            whole = checkpoint("llama").tensors[w.key]
            np.testing.assert_array_equal(w[index], whole[index])
            assert counting.bytes_read == expected


def test_a_quantized_row_reads_only_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    db, counting = open_counting(COMMITTED / "llama-tiny-Q4_K_M.gguf", monkeypatch)
    with db:
        w = db["model.layers.0.mlp.gate_proj.weight"]  # (512, 256) Q4_K: one block of 144 bytes a row
        assert w.encoding == "Q4_K"
        assert w[100:116].shape == (16, 256)
        assert counting.bytes_read == 16 * 144


def test_one_expert_reads_only_its_own(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    db, counting = open_counting(stores.safetensors("qwen3_moe", "v5", "fused"), monkeypatch)
    with db:
        stack = db["model.layers.0.mlp.experts.up_proj.weight"]
        found = np.asarray(stack.expert(3))
        assert counting.bytes_read == 64 * 128 * 2
        expected = checkpoint("qwen3_moe").tensors["model.layers.0.mlp.experts.3.up_proj.weight"]
        np.testing.assert_array_equal(found, expected)


def test_nothing_is_written(stores: Stores, tmp_path: Path) -> None:
    source = write_safetensors(checkpoint("qwen2"), tmp_path / "model")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with wvindex.open(source) as db:
        for key in db:
            db[key].read()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_the_tokenizer_is_the_checkpoints(form: str, stores: Stores) -> None:
    path = stores.safetensors("llama") if form == "safetensors" else stores.gguf("llama")
    with wvindex.open(path) as bare, wvindex.open(stores.build(path)) as built:
        text = "the sand and the sea"
        ids = bare.tokenizer.encode(text)
        assert ids == built.tokenizer.encode(text)
        assert bare.tokenizer.decode(ids) == text


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    write_weights(checkpoint("qwen2").tensors, tmp_path)
    with wvindex.open(tmp_path) as db, pytest.raises(UnsupportedTokenizer):
        _ = db.tokenizer


def test_a_closed_checkpoint_is_not_read(stores: Stores) -> None:
    db = wvindex.open(stores.safetensors("llama"))
    db.close()
    with pytest.raises(WvindexError):
        db["lm_head.weight"].read()


def test_what_a_build_would_refuse_is_refused(tmp_path: Path) -> None:
    write_safetensors(checkpoint("qwen3_moe"), tmp_path)
    gone = "model.layers.0.mlp.experts.2.up_proj.weight"
    write_weights({k: t for k, t in checkpoint("qwen3_moe").tensors.items() if k != gone}, tmp_path)
    with pytest.raises(MetadataError, match="missing"):
        wvindex.open(tmp_path)


def test_what_is_neither_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    for path in (tmp_path / "empty", tmp_path / "text.txt", tmp_path / "missing"):
        with pytest.raises(SourceError):
            wvindex.open(path)


def test_a_zarr_group_of_someone_elses_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(NotAStore):
        wvindex.open(tmp_path)


def test_a_path_may_be_a_string(stores: Stores) -> None:
    with wvindex.open(str(stores.gguf("qwen2"))) as db:
        assert db.config.family == "qwen2"


def test_a_store_without_its_root_document_is_a_damaged_store(stores: Stores, tmp_path: Path) -> None:
    damaged = tmp_path / "x.zarr"
    shutil.copytree(stores.build(stores.gguf("qwen2")), damaged)
    (damaged / "zarr.json").unlink()
    with pytest.raises(NotAStore) as caught:
        wvindex.open(damaged)
    assert caught.value.expected is not None


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_checkpoint_is_found_after_the_working_directory_has_changed(
    form: str, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stores.gguf("qwen2") if form == "gguf" else stores.safetensors("qwen2")
    monkeypatch.chdir(path.parent)
    with open_source(path.name) as source:
        before = hash_files(source)
        tokenizer = source.tokenizer()
        monkeypatch.chdir(tmp_path)
        require_unchanged(source)
        assert hash_files(source) == before
        assert source.tokenizer() == tokenizer
        assert source.path == Path(path.name)
