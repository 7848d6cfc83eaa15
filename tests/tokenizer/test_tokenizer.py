"""The tokenizer's public face: text to ids and back, whatever the text."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tokenizer import tokenizer_json, vocabulary
from tests.support.tokenizer_texts import TEXTS
from tests.support.tokenizers_under_test import (
    byte_level_fields,
    from_files,
    from_gguf_fields,
    golden,
    sentencepiece_fields,
)
from wvindex.errors import UnsupportedTokenizer, UsageError
from wvindex.limits import MAX_TEXT_CHARS
from wvindex.tokenizer.pretokenizers import PRE_TOKENIZERS

BYTE_LEVEL = golden("byte_level")
ROUND_TRIP = {
    pre: from_gguf_fields(
        model="gpt2", pre=pre, tokens=BYTE_LEVEL["tokens"], merges=BYTE_LEVEL["merges"], add_bos_token=False
    )
    for pre in PRE_TOKENIZERS
}
SPM = from_gguf_fields(**sentencepiece_fields())
MARKS = ["'s", "\u017f", "  ", "\r\n", "12345", "中文", "\u3000", "🙂", "é", "<|end|>", "\x00"]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join)))
def test_a_byte_level_vocabulary_gives_every_text_back(pre: str, text: str) -> None:
    tokenizer = ROUND_TRIP[pre]

    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_a_sentencepiece_vocabulary_with_bytes_gives_every_text_back(text: str) -> None:
    # "▁" itself is the one character that SentencePiece cannot tell from a space.
    assert SPM.decode(SPM.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize("text", TEXTS)
def test_each_text_of_the_corpus_comes_back(text: str) -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_may_be_numpy_integers() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())
    ids = np.array(tokenizer.encode("in the land"), dtype=np.int32)

    assert tokenizer.decode(ids) == "in the land"
    assert tokenizer.id_to_token(ids[0]) == tokenizer.id_to_token(int(ids[0]))


def test_special_tokens_are_left_out_only_on_request() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    assert tokenizer.encode("<s>a</s>")[0] == tokenizer.bos_token_id
    assert tokenizer.decode([0, *tokenizer.encode("a"), 1]) == "a"
    assert tokenizer.decode([0, *tokenizer.encode("a"), 1], skip_special_tokens=False) == "<s>a</s>"


def test_ids_beyond_the_vocabulary_stand_for_nothing() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    assert tokenizer.vocab_size == len(vocabulary())
    assert tokenizer.id_to_token(tokenizer.vocab_size) is None
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.vocab_size]) == "a"


@pytest.mark.parametrize("token_id", [-1, 1 << 32])
def test_an_id_that_cannot_be_one_is_refused(token_id: int) -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    with pytest.raises(UsageError, match="token id is out of range"):
        tokenizer.decode([token_id])
    with pytest.raises(UsageError, match="token id is out of range"):
        tokenizer.id_to_token(token_id)


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_a_text_that_is_too_long_is_refused() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    with pytest.raises(UsageError, match="too long"):
        tokenizer.encode("a" * (MAX_TEXT_CHARS + 1))


def test_a_lone_surrogate_is_refused() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    with pytest.raises(UsageError, match=r"lone surrogate.*offset: 2"):
        tokenizer.encode("ab\ud800")


def test_a_regular_expression_that_explodes_is_an_error_of_ours() -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = from_files(tokenizer=tokenizer_json() | {"pre_tokenizer": split})

    with pytest.raises(UnsupportedTokenizer, match="retry-limit"):
        tokenizer.encode("a" * 40 + "b")


def test_importing_the_package_does_not_load_the_tokenizers_library() -> None:
    code = "import sys, wvindex.tokenizer; sys.exit('tokenizers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_repr_shows_sizes_and_not_the_vocabulary() -> None:
    tokenizer = from_gguf_fields(**byte_level_fields())

    assert repr(tokenizer) == "Tokenizer(vocab_size=264, bos_token_id=0, eos_token_id=1)"
