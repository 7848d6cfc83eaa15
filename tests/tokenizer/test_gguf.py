"""Tokenizers from GGUF metadata: merges by score, special tokens, BOS and EOS."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.tokenizer_texts import TEXTS
from tests.support.tokenizers_under_test import (
    byte_level_fields,
    from_gguf_fields,
    golden,
    sentencepiece_fields,
)
from wvindex.errors import MetadataError, UnsupportedTokenizer

SPM = golden("spm")


@pytest.mark.parametrize("kind", SPM)
def test_a_sentencepiece_vocabulary_encodes_as_sentencepiece_does(kind: str) -> None:
    """Reference: sentencepiece 0.2.3 (tests/golden/make_tokenizer_golden.py)."""
    fields = SPM[kind] | {"model": "llama"}
    expected = fields.pop("ids")
    tokenizer = from_gguf_fields(**fields)

    found = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]

    assert dict(zip(TEXTS, found, strict=True)) == dict(zip(TEXTS, expected, strict=True))
    assert [tokenizer.decode(ids) for ids in found] == list(TEXTS)


def names(fields: dict[str, Any], text: str) -> list[str | None]:
    tokenizer = from_gguf_fields(**fields)
    return [tokenizer.id_to_token(i) for i in tokenizer.encode(text)]


def test_the_best_scoring_pair_is_merged_first() -> None:
    fields = sentencepiece_fields()
    better = [*fields["scores"][:-2], -0.5, -3.0]  # "▁a" before "ab"
    without_whole = [*fields["tokens"][:-1], "▁b"]

    assert names(fields | {"tokens": without_whole}, "ab") == ["<s>", "▁", "ab"]
    assert names(fields | {"tokens": without_whole, "scores": better}, "ab") == ["<s>", "▁a", "b"]


def test_a_character_without_a_piece_becomes_its_bytes() -> None:
    assert names(sentencepiece_fields(), "é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]


def test_without_bytes_a_run_of_unknown_characters_is_one_unknown_token() -> None:
    fields = {"model": "llama", "tokens": ["<unk>", "<s>", "a", "▁"], "token_type": [2, 3, 1, 1]}

    assert names(fields | {"scores": [0.0, 0.0, -1.0, -2.0]}, "éxa") == ["<s>", "▁", "<unk>", "a"]


@pytest.mark.parametrize(
    ("add_space_prefix", "expected"),
    [
        (None, ["<s>", "▁a", "<s>", "▁a"]),
        (True, ["<s>", "▁a", "<s>", "▁a"]),
        (False, ["<s>", "a", "<s>", "a"]),
    ],
)
def test_a_space_goes_before_each_stretch_of_text(add_space_prefix: bool | None, expected: list[str]) -> None:
    assert names(sentencepiece_fields(add_space_prefix=add_space_prefix), "a<s>a") == expected


def test_unused_pieces_are_never_produced() -> None:
    fields = sentencepiece_fields()
    fields["token_type"][-3] = 5  # "ab"

    assert names(fields, "bab") == ["<s>", "▁", "b", "a", "b"]


@pytest.mark.parametrize("fields", [byte_level_fields(), sentencepiece_fields()])
@pytest.mark.parametrize(("token_type", "special"), [(3, True), (4, False)])
def test_control_and_user_defined_tokens_are_matched_whole(
    fields: dict[str, Any], token_type: int, special: bool
) -> None:
    fields = fields | {
        "tokens": [*fields["tokens"], "<a b>"],
        "token_type": [*fields["token_type"], token_type],
        "add_bos_token": False,
        "add_space_prefix": False,
    }
    if "scores" in fields:
        fields["scores"] = [*fields["scores"], 0.0]
    tokenizer = from_gguf_fields(**fields)
    new_id = len(fields["tokens"]) - 1

    ids = tokenizer.encode("b<a b>b")

    assert ids.count(new_id) == 1
    assert len(ids) == 3
    assert tokenizer.decode(ids) == ("bb" if special else "b<a b>b")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (byte_level_fields(), "a"),
        (byte_level_fields(pre="llama-bpe"), "<s>a"),
        (byte_level_fields(pre="llama-bpe", add_bos_token=False), "a"),
        (byte_level_fields(pre="tekken", add_eos_token=True), "<s>a</s>"),
        (byte_level_fields(add_bos_token=True, add_eos_token=True), "<s>a</s>"),
        (sentencepiece_fields(), "<s> a"),
        (sentencepiece_fields(add_bos_token=False, add_eos_token=True), "a</s>"),
        (sentencepiece_fields(bos_token_id=None), "<s> a"),
    ],
)
def test_bos_and_eos_are_added_as_the_file_or_else_the_kind_says(
    fields: dict[str, Any], expected: str
) -> None:
    tokenizer = from_gguf_fields(**fields)

    assert tokenizer.decode(tokenizer.encode("a"), skip_special_tokens=False) == expected
    assert tokenizer.decode(tokenizer.encode("a", add_special_tokens=False)) == "a"


@pytest.mark.parametrize("token", ["$A", "bos:0", "a b", "{x}"])
def test_the_text_of_bos_may_be_anything(token: str) -> None:
    fields = byte_level_fields(add_bos_token=True)
    tokenizer = from_gguf_fields(**fields | {"tokens": [token, *fields["tokens"][1:]]})

    assert tokenizer.encode("x")[0] == 0
    assert len(tokenizer.encode("x")) == 2


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_token_that_is_to_be_added_must_have_an_id(name: str) -> None:
    fields = byte_level_fields(**{f"add_{name}_token": True, f"{name}_token_id": None})

    with pytest.raises(MetadataError, match=f"{name.upper()} is to be added"):
        from_gguf_fields(**fields)


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "gemma4", "none", "no_vocab"])
def test_other_kinds_are_refused_by_name(model: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=f"'{model}'"):
        from_gguf_fields(model=model, tokens=["a"])


def test_metadata_without_a_vocabulary_is_said_to_have_none() -> None:
    with pytest.raises(UnsupportedTokenizer, match="has no vocabulary; give --tokens"):
        from_gguf_fields(chat_template="{{ messages }}")


def test_empty_tokens_are_kept_apart() -> None:
    fields = byte_level_fields()
    extra = {"tokens": [*fields["tokens"], "", ""], "token_type": [*fields["token_type"], 5, 5]}
    tokenizer = from_gguf_fields(**fields | extra)

    assert tokenizer.vocab_size == 266
    assert tokenizer.id_to_token(265) == "[EMPTY_265]"


def large_vocabulary(n_words: int) -> list[str]:
    """Give words that grow letter by letter: every prefix of a word is a word too."""
    letters = "abcdefghijklmnop"
    words = [*letters]
    for word in words:
        words.extend(word + letter for letter in letters)
        if len(words) >= n_words:
            break
    return words[:n_words]


def test_150_thousand_tokens_load_within_seconds() -> None:
    words = large_vocabulary(150_000)
    fields = byte_level_fields()
    tokens = list(dict.fromkeys([*fields["tokens"], *words]))
    merges = [f"{word[:-1]} {word[-1]}" for word in words if len(word) > 1]
    byte_level = fields | {"tokens": tokens, "merges": merges, "token_type": None}
    pieces = list(dict.fromkeys([*sentencepiece_fields()["tokens"], *words]))
    scores = [-float(i) for i in range(len(pieces))]
    spm = {"model": "llama", "tokens": pieces, "scores": scores}
    spm["token_type"] = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 259)]

    start = time.perf_counter()
    loaded = [from_gguf_fields(**byte_level), from_gguf_fields(**spm)]
    seconds = time.perf_counter() - start

    assert all(tokenizer.vocab_size > 150_000 for tokenizer in loaded)
    assert seconds < 10
