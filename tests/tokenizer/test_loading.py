"""Where a tokenizer comes from, what is said where there is none, tokenizer.json as transformers has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.tokenizer import tokenizer_config, tokenizer_json
from tests.support.tokenizers_under_test import byte_level_fields, from_files, golden
from wvindex import limits
from wvindex.errors import LimitExceeded, MetadataError, UnsupportedTokenizer
from wvindex.sources.base import TokenizerData
from wvindex.tokenizer import huggingface, load_tokenizer

GOLDEN = golden("hugging_face")


@pytest.mark.parametrize("variant", GOLDEN["variants"])
def test_tokenizer_json_is_read_as_transformers_does(variant: str) -> None:
    """Reference: AutoTokenizer of transformers 5.23 (tests/golden/make_tokenizer_golden.py)."""
    expected = GOLDEN["variants"][variant]
    files = {name: json.dumps(value).encode() for name, value in expected["files"].items()}
    tokenizer = load_tokenizer(TokenizerData(files=files, gguf={}))

    assert [tokenizer.encode(text) for text in GOLDEN["texts"]] == expected["ids"]
    assert [tokenizer.decode(ids) for ids in expected["ids"]] == expected["decoded"]
    assert tokenizer.bos_token_id == expected["bos_token_id"]
    assert tokenizer.eos_token_id == expected["eos_token_id"]
    assert tokenizer.vocab_size == expected["vocab_size"]


def test_tokenizer_json_comes_before_the_gguf_vocabulary() -> None:
    files = {"tokenizer.json": json.dumps(tokenizer_json()).encode()}
    gguf = {f"tokenizer.ggml.{name}": value for name, value in byte_level_fields(model="bert").items()}

    assert load_tokenizer(TokenizerData(files=files, gguf=gguf)).vocab_size == 264


def test_no_tokenizer_at_all() -> None:
    with pytest.raises(UnsupportedTokenizer, match=r"^the store has no tokenizer; give --tokens$"):
        load_tokenizer(TokenizerData(files={}, gguf={}))


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "tiktoken.model"])
def test_other_files_are_named_in_the_refusal(name: str) -> None:
    files = {name: b"\x00", "tokenizer_config.json": b"{}"}

    with pytest.raises(UnsupportedTokenizer, match=f"found: .*{name}"):
        load_tokenizer(TokenizerData(files=files, gguf={}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"{", b"\xff\xfe", b'{"model": {"type": "Nonesuch"}}', b"[" * 100_000],
)
def test_a_malformed_tokenizer_json_is_named(content: bytes) -> None:
    with pytest.raises(MetadataError) as caught:
        from_files(tokenizer=content)

    assert caught.value.file == "tokenizer.json"


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_malformed_config_is_named(content: bytes) -> None:
    with pytest.raises(MetadataError) as caught:
        from_files(tokenizer=tokenizer_json(), tokenizer_config=content)

    assert caught.value.file == "tokenizer_config.json"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bos_token", 5),
        ("bos_token", {"lstrip": False}),
        ("eos_token", {"content": "</s>", "lstrip": 1}),
        ("added_tokens_decoder", []),
        ("added_tokens_decoder", {"x": {"content": "a"}}),
        ("added_tokens_decoder", {"9": 3}),
        ("additional_special_tokens", [1]),
        ("additional_special_tokens", 1),
        ("extra_special_tokens", "<image>"),
    ],
)
def test_a_malformed_special_token_is_named(field: str, value: Any) -> None:
    with pytest.raises(MetadataError) as caught:
        from_files(tokenizer=tokenizer_json(), tokenizer_config=tokenizer_config() | {field: value})

    assert caught.value.field == field


def test_a_file_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "MAX_JSON_BYTES", 100)

    with pytest.raises(LimitExceeded, match=r"tokenizer\.json"):
        from_files(tokenizer=tokenizer_json())
    assert limits.MAX_JSON_BYTES > 100


def test_listed_special_tokens_are_matched_whole() -> None:
    config = tokenizer_config() | {"additional_special_tokens": ["<a>", {"content": "<b>"}]}
    tokenizer = from_files(tokenizer=tokenizer_json(), tokenizer_config=config)

    assert tokenizer.encode("<a><b>") == [264, 265]
    assert tokenizer.decode([264, 265]) == ""
