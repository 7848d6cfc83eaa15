"""Vocabularies that llama.cpp's converter wrote give the ids of the tokenizers they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.golden import GOLDEN
from tests.support.tokenizer_texts import TEXTS
from tests.support.tokenizers_under_test import from_files, from_gguf_fields, gguf_tokenizer_fields, golden
from wvindex.tokenizer import Tokenizer

ALL_TEXTS = (*TEXTS, "<s>In the beginning</s>", "a<s>b", "<｜begin▁of▁sentence｜>x<｜end▁of▁sentence｜>")


def hugging_face(directory: Path) -> Tokenizer:
    return from_files(
        tokenizer=(directory / "tokenizer.json").read_bytes(),
        tokenizer_config=(directory / "tokenizer_config.json").read_bytes(),
    )


def assert_same_ids(found: Tokenizer, expected: Tokenizer) -> None:
    for text in ALL_TEXTS:
        ids = expected.encode(text, add_special_tokens=False)
        assert found.encode(text, add_special_tokens=False) == ids
        assert found.decode(ids) == expected.decode(ids)
        assert found.decode(ids, skip_special_tokens=False) == expected.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_K_M"])
def test_tiny_kjv(quantization: str) -> None:
    directory = GOLDEN / "tiny-kjv"
    found = from_gguf_fields(**gguf_tokenizer_fields(directory / f"tiny-kjv-{quantization}.gguf"))
    expected = hugging_face(directory / "hf")

    assert_same_ids(found, expected)
    assert (found.vocab_size, found.bos_token_id, found.eos_token_id) == (1024, 0, 1)
    # llama.cpp's converter follows tokenizer_config.json's add_bos_token; transformers ignores it.
    assert found.encode("And God said") == [0, *expected.encode("And God said")]


def test_deepseek_v3() -> None:
    """The pre-tokenizer in this tokenizer.json is DeepSeek-V3's own, and the file names it deepseek-v3."""
    fields = gguf_tokenizer_fields(GOLDEN / "dsv2lite-tiny" / "dsv2lite-tiny-Q4_K_M.gguf")

    assert fields["pre"] == "deepseek-v3"
    assert_same_ids(from_gguf_fields(**fields), hugging_face(GOLDEN / "dsv3-tiny"))


@pytest.mark.parametrize(("family", "pre"), [("llama", "llama-bpe"), ("qwen2", "qwen2"), ("qwen3", "qwen2")])
def test_a_family_with_a_filler_tokenizer(family: str, pre: str) -> None:
    """The filler tokenizer.json splits as DeepSeek-V3 does, whatever the file says: vocabularies agree."""
    directory = GOLDEN / "families" / family
    fields = gguf_tokenizer_fields(directory / f"{family}-BF16.gguf")

    assert fields["pre"] == pre
    assert from_gguf_fields(**fields).vocab_size == len(fields["tokens"])
    assert_same_ids(from_gguf_fields(**fields | {"pre": "deepseek-v3"}), hugging_face(directory / "hf"))


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("llama-tiny/llama-tiny-Q8_0.gguf", True),
        ("families/mixtral/mixtral-BF16.gguf", True),
        ("families/minicpm3/minicpm3-BF16.gguf", True),
        ("families/gemma2/gemma2-BF16.gguf", False),
    ],
)
def test_sentencepiece(file: str, prefix: bool) -> None:
    """All four have the pieces of llama-tiny's tokenizer.model; Gemma's has no space before the text."""
    fields = gguf_tokenizer_fields(GOLDEN / file)
    expected = golden("spm")["llama"]
    n_pieces = len(expected["tokens"])
    tokenizer = from_gguf_fields(**fields | {"add_space_prefix": True})

    assert fields["tokens"][:n_pieces] == expected["tokens"]
    assert fields["scores"][:n_pieces] == expected["scores"]
    assert fields["token_type"][:n_pieces] == expected["token_type"]
    for text, ids in zip(TEXTS, expected["ids"], strict=True):
        assert tokenizer.encode(text) == [1, *ids]
        assert tokenizer.decode([1, *ids]) == text
    assert fields.get("add_space_prefix", True) is prefix
