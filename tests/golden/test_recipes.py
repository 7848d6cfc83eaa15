"""The test checkpoints are remade bit for bit, and are what their files' readers take them for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFReader
from safetensors import deserialize
from tokenizers import Tokenizer

from tests.support.checkpoints import (
    GOLDEN_DIR,
    checkpoint,
    config_v5,
    golden,
    golden_path,
    names,
    tokens,
)
from tests.support.gguf_metadata import ARCHITECTURES
from tests.support.gguf_writer import gguf_tensors, write_gguf
from tests.support.random_weights import Array
from tests.support.safetensors_writer import Experts, fuse_experts, write_safetensors
from tests.support.tokenizer import vocabulary

DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "U8": np.uint8,
}


def _stored(directory: Path) -> dict[str, Array]:
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    parts = [read(file.read_bytes()) for file in sorted(directory.glob("*.safetensors"))]
    return {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for part in parts
        for name, tensor in part
    }


@pytest.mark.parametrize("name", names())
def test_weights_are_those_that_transformers_ran(name: str) -> None:
    with np.load(golden_path(name)) as saved:
        assert checkpoint(name).sha256() == str(saved["sha256"])


@pytest.mark.parametrize("name", names())
def test_golden_logits_are_a_fair_yardstick(name: str) -> None:
    ids, logits = golden(name)

    np.testing.assert_array_equal(ids, tokens(name))
    assert logits.shape == (80, 264)
    assert logits.dtype == np.float32
    assert 2.5 < logits.std() < 3.5
    ordered = np.sort(logits, axis=-1)
    assert (ordered[:, -1] - ordered[:, -2]).min() > 5e-3


def test_golden_versions_are_the_pinned_ones() -> None:
    for name in names():
        with np.load(golden_path(name)) as saved:
            assert json.loads(str(saved["versions"])) == {"torch": "2.13.0", "transformers": "5.23.0"}


@pytest.mark.parametrize("name", names())
def test_every_matrix_fits_float16_exactly(name: str) -> None:
    for key, tensor in checkpoint(name).tensors.items():
        if tensor.dtype == np.dtype("bfloat16"):
            values = tensor.astype(np.float32)
            np.testing.assert_array_equal(values.astype(np.float16).astype(np.float32), values, err_msg=key)


@pytest.mark.parametrize("name", names())
def test_norm_weights_are_not_trivial(name: str) -> None:
    trivial = 0.0 if name.startswith("gemma") else 1.0
    for key, tensor in checkpoint(name).tensors.items():
        if "norm" in key:
            assert np.abs(tensor.astype(np.float32) - trivial).mean() > 0.1, key


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", names())
def test_safetensors_directory_holds_the_checkpoint(name: str, shards: int, tmp_path: Path) -> None:
    model = checkpoint(name)
    write_safetensors(model, tmp_path, shards=shards)

    found = _stored(tmp_path)

    assert found.keys() == model.tensors.keys()
    for key, tensor in model.tensors.items():
        assert found[key].dtype == tensor.dtype
        np.testing.assert_array_equal(found[key].view(np.uint8), tensor.view(np.uint8), err_msg=key)
    assert json.loads((tmp_path / "config.json").read_text()) == model.config


def test_sharded_directory_has_an_index_of_every_tensor(tmp_path: Path) -> None:
    model = checkpoint("deepseek_v3")
    write_safetensors(model, tmp_path, shards=2)

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())

    assert index["weight_map"].keys() == model.tensors.keys()
    assert set(index["weight_map"].values()) == {file.name for file in tmp_path.glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) == 2


@pytest.mark.parametrize("name", names())
def test_config_v5_says_the_same_in_transformers_5s_words(name: str) -> None:
    hub, v5 = checkpoint(name).config, config_v5(name)

    assert v5["dtype"] == hub["torch_dtype"]
    assert "rope_parameters" in v5
    assert not {"rope_theta", "rope_scaling", "torch_dtype"} & v5.keys()
    layers = "num_layers" if name == "longcat_flash" else "num_hidden_layers"
    for field in ("hidden_size", layers, "num_attention_heads", "vocab_size", "rms_norm_eps"):
        assert v5[field] == hub[field]


@pytest.mark.parametrize("experts", ["fused", "mixed"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3-fp8"])
def test_fused_experts_hold_gate_rows_then_up_rows(name: str, experts: Experts) -> None:
    tensors = checkpoint(name).tensors
    block, gate, up, down = "mlp", "gate_proj", "up_proj", "down_proj"
    if name == "mixtral":
        block, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"

    fused = fuse_experts(tensors, experts)

    stacks = [key for key in fused if key.endswith("gate_up_proj")]
    each = [key for key in fused if f"{block}.experts.0.{gate}.weight" in key]
    assert stacks
    assert bool(each) == (experts == "mixed")
    for key in stacks:
        prefix = key.removesuffix("mlp.experts.gate_up_proj")
        one = f"{prefix}{block}.experts.1"
        for suffix in ("", "_scale_inv") if name.endswith("fp8") else ("",):
            halves = [tensors[f"{one}.{part}.weight{suffix}"] for part in (gate, up)]
            np.testing.assert_array_equal(fused[key + suffix][1], np.concatenate(halves))
            lower = fused[f"{prefix}mlp.experts.down_proj{suffix}"][1]
            np.testing.assert_array_equal(lower, tensors[f"{one}.{down}.weight{suffix}"])


@pytest.mark.parametrize("name", names(gguf=True))
def test_gguf_file_loads(name: str, tmp_path: Path) -> None:
    model = checkpoint(name)
    [path] = write_gguf(model, tmp_path / f"{name}.gguf")

    reader = GGUFReader(path)

    architecture = ARCHITECTURES[model.config["model_type"]]
    assert reader.fields["general.architecture"].contents() == architecture
    expected = gguf_tensors(model.config, model.decoded())
    assert [tensor.name for tensor in reader.tensors] == list(expected)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(values, expected[tensor.name], err_msg=tensor.name)


def test_gguf_file_has_the_directory_s_tokenizer(tmp_path: Path) -> None:
    model = checkpoint("llama")
    write_safetensors(model, tmp_path)
    [path] = write_gguf(model, tmp_path / "model.gguf")

    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reader = GGUFReader(path)

    assert reader.fields["tokenizer.ggml.tokens"].contents() == vocabulary()
    assert [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())] == vocabulary()
    assert tokenizer.decode(tokenizer.encode("the sand héllo 🦙").ids) == "the sand héllo 🦙"


def test_golden_directory_stays_under_8_megabytes() -> None:
    assert sum(file.stat().st_size for file in GOLDEN_DIR.rglob("*") if file.is_file()) < 8_000_000
