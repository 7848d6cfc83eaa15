"""The tokenizer that the rest of wvindex sees: text to ids and back, over the `tokenizers` library."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from wvindex.errors import UnsupportedTokenizer, UsageError
from wvindex.limits import MAX_TEXT_CHARS, MAX_TOKEN_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Result = TypeVar("Result")


class Tokenizer:
    """Text to token ids and back. Made by `load_tokenizer`.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Its post-processor adds BOS and EOS where the model wants them.
    vocab_size : int
        Number of ids that stand for a token, added ones included.
    bos_token_id, eos_token_id : int or None
    """

    def __init__(
        self, backend: Backend, *, vocab_size: int, bos_token_id: int | None, eos_token_id: int | None
    ) -> None:
        self._backend = backend
        self._vocab_size = vocab_size
        self._bos_token_id = bos_token_id
        self._eos_token_id = eos_token_id

    def __repr__(self) -> str:
        """Name the sizes, not the vocabulary."""
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, "
            f"bos_token_id={self.bos_token_id}, eos_token_id={self.eos_token_id})"
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids that stand for a token, added ones included."""
        return self._vocab_size

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a sequence, whether or not `encode` adds it."""
        return self._bos_token_id

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a sequence, whether or not `encode` adds it."""
        return self._eos_token_id

    def to_json(self) -> str:
        """Give it as the text of a ``tokenizer.json``."""
        text: str = self._backend.to_str(pretty=True)
        return text

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Turn text into token ids.

        Special tokens that are written out in `text` become their ids, as in transformers.

        Parameters
        ----------
        text : str
        add_special_tokens : bool
            Whether to put BOS and EOS around it where the model was trained with them.

        Returns
        -------
        list of int

        Raises
        ------
        UsageError
            If the text is longer than `MAX_TEXT_CHARS`, or cannot be encoded as UTF-8.
        UnsupportedTokenizer
            If the tokenizer's own regular expression gives up on the text.
        """
        if len(text) > MAX_TEXT_CHARS:
            raise UsageError("text is too long to tokenize", expected=MAX_TEXT_CHARS, found=len(text))
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("text holds a lone surrogate", offset=error.start) from error
        return _guarded(
            lambda: list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids),
            "the tokenizer cannot encode this text",
        )

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Turn token ids into text; ids that stand for no token give nothing.

        Nothing is cleaned up: spaces before punctuation stay. Bytes that are not UTF-8 (a character cut
        in two) become U+FFFD.

        Parameters
        ----------
        ids : iterable of int
        skip_special_tokens : bool
            Whether to leave out BOS, EOS and the other control tokens.

        Returns
        -------
        str

        Raises
        ------
        UsageError
            If an id is negative or over 32 bits.
        """
        numbers = [_token_id(i) for i in ids]
        return _guarded(
            lambda: self._backend.decode(numbers, skip_special_tokens=skip_special_tokens),
            "the tokenizer cannot decode these ids",
        )

    def id_to_token(self, token_id: int) -> str | None:
        """Give the vocabulary's own spelling of an id, or None where the id stands for no token.

        Byte-level vocabularies spell a space as ``Ġ``, SentencePiece as ``▁``.
        """
        return self._backend.id_to_token(_token_id(token_id))


def _token_id(value: int) -> int:
    """Check one id: any integer type, 0 to 2^32 - 1."""
    token_id = operator.index(value)
    if not 0 <= token_id <= MAX_TOKEN_ID:
        raise UsageError("a token id is out of range", expected=f"0 to {MAX_TOKEN_ID}", found=token_id)
    return token_id


def _guarded(call: Callable[[], Result], failure: str) -> Result:
    """Run a call into the `tokenizers` library, whose Rust panics are not of class Exception.

    A regular expression that backtracks too long ends in one, and the library has no class for it.
    """
    try:
        return call()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UnsupportedTokenizer(f"{failure}: {error}") from error
        raise
