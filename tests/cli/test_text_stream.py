"""Pieces of text join to the text of all tokens, whatever a character takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wvindex
from tests.support.cli import EXAMPLE
from wvindex.cli.text_stream import text_pieces
from wvindex.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with wvindex.open(EXAMPLE) as db:
        return db.tokenizer


@given(text=st.text(min_size=1, max_size=60), cut=st.integers(1, 40))
@settings(deadline=None)
def test_pieces_join_to_the_whole(text: str, cut: int, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a {text}")
    prompt, rest = ids[:cut], ids[cut:]
    whole = tokenizer.decode(ids)
    if "\ufffd" not in tokenizer.decode(prompt):
        assert tokenizer.decode(prompt) + "".join(text_pieces(tokenizer, prompt, rest)) == whole


def test_a_character_in_several_tokens_comes_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x名前")
    assert len(ids) >= 6
    prompt, rest = ids[:2], ids[2:]
    assert tokenizer.decode(prompt).endswith("x")
    assert list(text_pieces(tokenizer, prompt, rest)) == ["名", "前"]


def test_a_character_that_never_ends_comes_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x名")[:-1]
    assert "".join(text_pieces(tokenizer, ids[:2], ids[2:])) == "\ufffd"


def test_control_tokens_give_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_token_id is not None
    assert list(text_pieces(tokenizer, tokenizer.encode("x"), [tokenizer.eos_token_id])) == []


def test_a_piece_is_given_before_the_next_token_is_asked_for(tokenizer: Tokenizer) -> None:
    asked = []

    def tokens() -> Iterator[int]:
        for token in tokenizer.encode(" the earth", add_special_tokens=False):
            asked.append(token)
            yield token

    next(text_pieces(tokenizer, tokenizer.encode("x"), tokens()))
    assert len(asked) == 1


def test_few_tokens_are_decoded_again(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, lengths = tokenizer.decode, []

    def counted(ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode(ids)

    monkeypatch.setattr(tokenizer, "decode", counted)
    list(text_pieces(tokenizer, tokenizer.encode("x" * 100), tokenizer.encode("the earth " * 100)))
    assert max(lengths) < 16
