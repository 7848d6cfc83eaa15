"""Text from tokens as they come, though a character may take several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wvindex.tokenizer import Tokenizer

_CONTEXT: Final = 8
"""Tokens of the prompt that the first pieces are decoded with: some tokenizers drop a leading space."""

_CUT: Final = "\ufffd"
"""What decoders give for bytes that are no whole character."""


def text_pieces(tokenizer: Tokenizer, prompt: list[int], tokens: Iterable[int]) -> Iterator[str]:
    """Give the text that each token adds; joined, it is the continuation of the prompt.

    Only the tokens since the last piece, and those of the piece before it, are decoded again, so time does
    not grow with the square of the length.

    Parameters
    ----------
    tokenizer : Tokenizer
    prompt : list of int
        What comes before; at least one token.
    tokens : iterable of int
    """
    ids = list(prompt)
    begin, shown = max(len(ids) - _CONTEXT, 0), len(ids)
    for token in tokens:
        ids.append(token)
        text = _added(tokenizer, ids, begin, shown)
        if text and not text.endswith(_CUT):
            yield text
            begin, shown = shown, len(ids)
    rest = _added(tokenizer, ids, begin, shown)
    if rest:
        yield rest


def _added(tokenizer: Tokenizer, ids: list[int], begin: int, shown: int) -> str:
    return tokenizer.decode(ids[begin:])[len(tokenizer.decode(ids[begin:shown])) :]
