"""Every reference file comes back byte for byte, and what llama.cpp converted is what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

import wvindex
from tests.exporting.reading import gguf_fields, gguf_tensors
from tests.support.golden import golden
from tests.support.trees import contents

GGUF = golden("**/*.gguf")
HUB = [path.parent for path in golden("**/hf/model.safetensors")]
CONVERTED = golden("families/*/*-BF16.gguf")
BYTE_LEVEL = [path for path in CONVERTED if path.parent.name in ("llama", "qwen3")]
"""Those with a tokenizer.json; to Qwen2's llama.cpp adds a token of its own."""


@pytest.mark.parametrize("path", GGUF, ids=lambda path: path.stem)
def test_gguf_files_come_back(path: Path, tmp_path: Path) -> None:
    store = wvindex.build(path, tmp_path / "store.zarr", mla="keep")
    assert wvindex.export(store, tmp_path / "out.gguf", format="gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("directory", HUB, ids=lambda path: path.parent.name)
def test_checkpoints_come_back(directory: Path, tmp_path: Path) -> None:
    store = wvindex.build(directory, tmp_path / "store.zarr", mla="keep")
    assert contents(wvindex.export(store, tmp_path / "out", format="safetensors")) == contents(directory)


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.parent.name)
def test_a_checkpoint_becomes_what_llama_cpp_makes_of_it(path: Path, tmp_path: Path) -> None:
    out = wvindex.export(path.parent / "hf", tmp_path / "out.gguf", format="gguf", tokenizer=False)
    found, expected = gguf_tensors(out), gguf_tensors(path)
    for tensors in (found, expected):
        tensors.pop("rope_freqs.weight", None)  # worked out in float32 there
    assert found == expected


@pytest.mark.parametrize("path", BYTE_LEVEL, ids=lambda path: path.parent.name)
def test_a_tokenizer_becomes_what_llama_cpp_makes_of_it(path: Path, tmp_path: Path) -> None:
    out = wvindex.export(path.parent / "hf", tmp_path / "out.gguf", format="gguf")
    found, expected = gguf_fields(out), gguf_fields(path)
    for key in ("model", "tokens", "merges", "bos_token_id", "eos_token_id"):
        assert found[f"tokenizer.ggml.{key}"] == expected[f"tokenizer.ggml.{key}"], key
    with wvindex.open(out) as db, wvindex.open(path.parent / "hf") as source:
        text = "In the beginning, 1234 days\n\n  don't"
        assert db.tokenizer.encode(text) == source.tokenizer.encode(text)


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.parent.name)
def test_keys_have_the_values_that_llama_cpp_gives_them(path: Path, tmp_path: Path) -> None:
    out = wvindex.export(path.parent / "hf", tmp_path / "out.gguf", format="gguf", tokenizer=False)
    found, expected = gguf_fields(out), gguf_fields(path)
    arch = expected["general.architecture"][1]
    for key, (kinds, value) in expected.items():
        if key.startswith(f"{arch}."):
            assert key in found, key
            assert found[key] == (kinds, pytest.approx(value, rel=1e-6) if kinds == ("FLOAT32",) else value)
