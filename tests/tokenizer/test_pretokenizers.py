"""Byte-level vocabularies split text as the tokenizers do that their pre-tokenizers' names stand for."""

from __future__ import annotations

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from tests.support.tokenizer_texts import TEXTS
from tests.support.tokenizers_under_test import byte_level_fields, from_gguf_fields, golden
from wvindex.errors import UnsupportedTokenizer
from wvindex.tokenizer.pretokenizers import PRE_TOKENIZERS

GOLDEN = golden("byte_level")


@pytest.mark.parametrize("pre", GOLDEN["ids"])
def test_ids_equal_those_of_the_reference(pre: str) -> None:
    """References: transformers 5.23, and the regex package (tests/golden/make_tokenizer_golden.py)."""
    tokens = GOLDEN["tokens"]
    tokenizer = from_gguf_fields(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        merges=GOLDEN["merges"],
        token_type=[3 if token.startswith("<|") else 1 for token in tokens],
        bos_token_id=0,
    )

    found = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]

    assert dict(zip(TEXTS, found, strict=True)) == dict(zip(TEXTS, GOLDEN["ids"][pre], strict=True))


def test_the_golden_vocabulary_tells_the_pre_tokenizers_apart() -> None:
    same = {("command-r", "smollm"), ("command-r", "starcoder"), ("smollm", "starcoder")}
    names = sorted(GOLDEN["ids"])
    equal = {(a, b) for a in names for b in names if a < b and GOLDEN["ids"][a] == GOLDEN["ids"][b]}

    assert equal == same


def pieces(pre: str, text: str) -> list[str]:
    splits = [Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[pre].patterns]
    return [piece for piece, _ in Sequence(list(splits)).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        # llama.cpp's fallback: punctuation apart, digits in threes from the left.
        ("default", "Hi, it's 12345!", ["Hi", ",", " it", "'", "s", " ", "123", "45", "!"]),
        ("gpt-2", "it's 12345 A", ["it", "'s", " 12345", " A"]),
        ("smollm", "x 12", ["x", " ", "1", "2"]),
        ("llama-bpe", "it'S 12345\n\n x", ["it", "'S", " ", "123", "45", "\n\n", " x"]),
        ("qwen2", " 12\n", [" ", "1", "2", "\n"]),
        ("qwen2", "e\u0301t", ["e", "\u0301t"]),
        ("qwen35", "e\u0301t", ["e\u0301t"]),
        ("tekken", "XMLHttp/\n12", ["XMLHttp", "/\n", "1", "2"]),
        ("gpt-4o", "aB DON'T", ["a", "B", " DON'T"]),
        ("kimi-k2", "aB中文x", ["a", "B", "中文", "x"]),
        # Its marks are the range from ":" to "~", which cuts ASCII letters off from the others.
        ("deepseek-llm", "Hé 世界 12,3\n", ["H", "é", " ", "世界", " ", "12", ",", "3", "\n"]),
        ("deepseek-llm", "end  \t", ["end", "  \t"]),
        ("deepseek-coder", " א 12+", [" א", " ", "1", "2", "+"]),
        ("deepseek-v3", "a+b 1234カタ世", ["a", "+b", " ", "123", "4", "カタ世"]),
    ],
)
def test_what_each_pre_tokenizer_does(pre: str, text: str, expected: list[str]) -> None:
    assert pieces(pre, text) == expected


@pytest.mark.parametrize(
    "names",
    [
        ("gpt-2", "gpt2"),
        ("llama-bpe", "llama3", "llama-v3"),
        ("qwen2", "deepseek-r1-qwen"),
        ("smollm", "starcoder", "command-r"),
    ],
)
def test_aliases_stand_for_the_same(names: tuple[str, ...]) -> None:
    assert len({PRE_TOKENIZERS[name] for name in names}) == 1


def test_an_unknown_pre_tokenizer_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedTokenizer, match=r"'my-own-bpe' is not known.*tokenizer\.ggml\.pre"):
        from_gguf_fields(**byte_level_fields(pre="my-own-bpe"))


def test_a_pre_tokenizer_that_is_not_named_is_not_guessed() -> None:
    with pytest.raises(UnsupportedTokenizer, match="does not name its pre-tokenizer"):
        from_gguf_fields(**byte_level_fields(pre=None))


def test_a_whole_word_in_the_vocabulary_needs_no_merges_where_the_name_says_so() -> None:
    extra = byte_level_fields()
    fields = {"tokens": [*extra["tokens"], "zzz"], "token_type": [*extra["token_type"], 1]}

    whole = from_gguf_fields(**byte_level_fields(pre="llama-bpe", **fields))
    merged = from_gguf_fields(**byte_level_fields(pre="qwen2", **fields))

    assert whole.encode("zzz", add_special_tokens=False) == [264]
    assert len(merged.encode("zzz", add_special_tokens=False)) == 3
