"""The test GGUF files are what llama.cpp would have written: same names, shapes, values and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader, GGUFValueType, dequantize
from safetensors.numpy import load_file

from tests.support.checkpoints import checkpoint, names
from tests.support.gguf_metadata import Value, metadata
from tests.support.gguf_writer import gguf_tensors, stored_type, write_gguf
from tests.support.golden import GOLDEN

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "mixtral")


def _model_keys(reader: GGUFReader) -> dict[str, Any]:
    apart = ("GGUF.", "general.", "tokenizer.")
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith(apart)}


def _as_float32(fields: Mapping[str, Value]) -> dict[str, Value]:
    """Round floats as a FLOAT32 field does."""
    return {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in fields.items()}


def _hugging_face(directory: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    config = json.loads((directory / "config.json").read_text())
    weights = load_file(directory / "model.safetensors")
    return config, {name: tensor.astype(np.float32) for name, tensor in weights.items()}


def _values(reader: GGUFReader) -> dict[str, npt.NDArray[np.float32]]:
    return {t.name: dequantize(t.data, t.tensor_type).reshape(t.shape[::-1].tolist()) for t in reader.tensors}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_equal_llama_cpps(family: str) -> None:
    config, tensors = _hugging_face(GOLDEN / "families" / family / "hf")
    expected = _values(GGUFReader(GOLDEN / "families" / family / f"{family}-BF16.gguf"))

    found = gguf_tensors(config, tensors)

    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6 if name.startswith("rope") else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_types_equal_llama_cpps(family: str) -> None:
    config, tensors = _hugging_face(GOLDEN / "families" / family / "hf")
    reader = GGUFReader(GOLDEN / "families" / family / f"{family}-BF16.gguf")

    found = {name: stored_type(name, t, "BF16") for name, t in gguf_tensors(config, tensors).items()}

    assert found == {tensor.name: tensor.tensor_type for tensor in reader.tensors}


@pytest.mark.parametrize("family", FAMILIES)
def test_metadata_equals_llama_cpps(family: str) -> None:
    config, _ = _hugging_face(GOLDEN / "families" / family / "hf")
    expected = _model_keys(GGUFReader(GOLDEN / "families" / family / f"{family}-BF16.gguf"))

    assert _as_float32(metadata(config)) == expected


def test_deepseek_names_and_shapes_equal_llama_cpps() -> None:
    config, tensors = _hugging_face(GOLDEN / "tiny-kjv" / "hf")
    reader = GGUFReader(GOLDEN / "tiny-kjv" / "tiny-kjv-Q8_0.gguf")

    found = gguf_tensors(config, tensors)

    assert {name: values.shape for name, values in found.items()} == {
        tensor.name: tuple(tensor.shape[::-1].tolist()) for tensor in reader.tensors
    }
    for name, values in _values(reader).items():
        np.testing.assert_allclose(found[name], values, atol=float(np.abs(values).max()) / 100)


def test_deepseek_metadata_equals_llama_cpps() -> None:
    config, _ = _hugging_face(GOLDEN / "tiny-kjv" / "hf")
    expected = _model_keys(GGUFReader(GOLDEN / "tiny-kjv" / "tiny-kjv-Q8_0.gguf"))

    assert _as_float32(metadata(config)) == expected


@pytest.mark.parametrize("name", names(gguf=True))
def test_file_holds_the_metadata_in_llama_cpps_types(name: str, tmp_path: Path) -> None:
    model = checkpoint(name)
    [path] = write_gguf(model, tmp_path / f"{name}.gguf")

    reader = GGUFReader(path)

    expected = metadata(model.config)
    kinds = {
        float: GGUFValueType.FLOAT32,
        int: GGUFValueType.UINT32,
        bool: GGUFValueType.BOOL,
        str: GGUFValueType.STRING,
    }
    assert _model_keys(reader) == _as_float32(expected)
    for key, value in expected.items():
        assert reader.fields[key].types == [kinds[type(value)]], key


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3"])
def test_every_plain_form_holds_the_same_values(name: str, dtype: str, tmp_path: Path) -> None:
    model = checkpoint(name)
    [path] = write_gguf(model, tmp_path / "model.gguf", dtype=dtype)

    found = _values(GGUFReader(path))

    for key, expected in gguf_tensors(model.config, model.decoded()).items():
        np.testing.assert_array_equal(found[key], expected, err_msg=key)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
def test_quantized_form_is_near(dtype: str, tmp_path: Path) -> None:
    model = checkpoint("deepseek_v2")
    [path] = write_gguf(model, tmp_path / "model.gguf", dtype=dtype)
    reader = GGUFReader(path)

    found = _values(reader)

    assert {t.tensor_type.name for t in reader.tensors} == {"F32", dtype}
    for key, expected in gguf_tensors(model.config, model.decoded()).items():
        error = np.sqrt(np.mean((found[key] - expected) ** 2) / np.mean(expected**2))
        assert error < {"Q8_0": 0.01, "Q4_0": 0.15}[dtype], key


def test_older_mla_form_keeps_kv_b_whole(tmp_path: Path) -> None:
    model = checkpoint("deepseek_v3")
    [path] = write_gguf(model, tmp_path / "model.gguf", mla="kv_b")

    reader = GGUFReader(path)

    fields = _model_keys(reader)
    kv_b = model.decoded()["model.layers.0.self_attn.kv_b_proj.weight"]
    np.testing.assert_array_equal(_values(reader)["blk.0.attn_kv_b.weight"], kv_b)
    assert fields["deepseek2.attention.key_length"] == 48
    assert fields["deepseek2.attention.value_length"] == 24
    assert fields["deepseek2.attention.head_count_kv"] == 4
    assert not any("mla" in key for key in fields)


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    model = checkpoint("llama")
    paths = write_gguf(model, tmp_path / "model.gguf", shards=2)

    readers = [GGUFReader(path) for path in paths]

    found = [tensor.name for reader in readers for tensor in reader.tensors]
    assert sorted(found) == sorted(gguf_tensors(model.config, model.decoded()))
    assert [reader.fields["split.no"].contents() for reader in readers] == [0, 1]
    assert readers[0].fields["split.count"].contents() == len(sorted(tmp_path.iterdir())) == 2
