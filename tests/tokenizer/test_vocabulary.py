"""Malformed GGUF vocabularies are refused, and the field is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tokenizers_under_test import byte_level_fields, from_gguf_fields, sentencepiece_fields
from wvindex.errors import LimitExceeded, MetadataError
from wvindex.limits import MAX_TOKEN_BYTES

TOKENS = byte_level_fields()["tokens"]
TYPES = byte_level_fields()["token_type"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", 3, "wrong type"),
        ("pre", ["gpt-2"], "wrong type"),
        ("tokens", None, "no tokens"),
        ("tokens", [], "no tokens"),
        ("tokens", "abc", "wrong type"),
        ("tokens", [*TOKENS[:-1], 7], "item 263 has the wrong type"),
        ("tokens", [*TOKENS[:-1], "!"], "token 263 stands twice"),
        ("tokens", [*TOKENS[:-1], "\ud800"], "token 263 is not UTF-8"),
        ("token_type", TYPES[:-1], "not one item for each token"),
        ("token_type", [*TYPES, 1], "not one item for each token"),
        ("token_type", [*TYPES[:-1], "1"], "item 263 has the wrong type"),
        ("token_type", 1, "wrong type"),
        ("scores", [0.0], "not one item for each token"),
        ("merges", None, "needs merges"),
        ("merges", ["t h", 5], "item 1 has the wrong type"),
        ("merges", ["th"], "merge 0 does not join"),
        ("merges", [""], "merge 0 does not join"),
        ("merges", [" h"], "merge 0 does not join"),
        ("merges", ["t "], "merge 0 does not join"),
        ("merges", ["t h", "t h e"], "merge 1 does not join"),
        ("merges", ["z z"], "merge 0 does not join"),
        ("bos_token_id", len(TOKENS), "outside the vocabulary"),
        ("bos_token_id", -1, "outside the vocabulary"),
        ("bos_token_id", True, "wrong type"),
        ("eos_token_id", 2**40, "outside the vocabulary"),
        ("eos_token_id", "1", "wrong type"),
        ("unknown_token_id", len(TOKENS), "outside the vocabulary"),
        ("add_bos_token", 1, "wrong type"),
        ("add_eos_token", "yes", "wrong type"),
        ("add_space_prefix", 0, "wrong type"),
    ],
)
def test_a_malformed_field_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(MetadataError, match=message) as caught:
        from_gguf_fields(**byte_level_fields(**{field: value}))

    assert caught.value.field == f"tokenizer.ggml.{field}"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", None, "needs scores"),
        ("scores", ["0"] * 265, "item 0 has the wrong type"),
        ("scores", [0.0] * 264 + [float("nan")], "score 264 is not a number"),
    ],
)
def test_a_malformed_sentencepiece_field_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(MetadataError, match=message) as caught:
        from_gguf_fields(**sentencepiece_fields(**{field: value}))

    assert caught.value.field == f"tokenizer.ggml.{field}"


def test_a_vocabulary_that_could_lose_text_is_refused() -> None:
    fields = {"model": "llama", "tokens": ["a", "b", "<0x00>"], "scores": [0.0, -1.0, 0.0]}

    with pytest.raises(MetadataError, match=r"no unknown token and lacks bytes.*255 bytes"):
        from_gguf_fields(**fields, token_type=[1, 1, 6])


def test_a_token_of_absurd_length_is_over_the_limit() -> None:
    tokens = [*TOKENS[:-1], "é" * (MAX_TOKEN_BYTES // 2 + 1)]

    with pytest.raises(LimitExceeded, match="token 263 is too long"):
        from_gguf_fields(**byte_level_fields(tokens=tokens))


def test_a_merge_that_stands_twice_counts_at_its_first_rank() -> None:
    once = from_gguf_fields(**byte_level_fields())
    twice = from_gguf_fields(**byte_level_fields(merges=[*byte_level_fields()["merges"], "t h"]))

    assert twice.encode("in the land") == once.encode("in the land")


def test_whole_numbers_may_be_scores() -> None:
    scores = [int(score) for score in sentencepiece_fields()["scores"]]

    assert from_gguf_fields(**sentencepiece_fields(scores=scores)).vocab_size == 265
