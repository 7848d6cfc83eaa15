"""GGUF's vocabulary metadata, read and checked field by field before anything is built from it.

Keys and defaults: the GGUF specification (ggml, docs/gguf.md) and llama.cpp's ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

from wvindex.errors import LimitExceeded, MetadataError
from wvindex.limits import MAX_TOKEN_BYTES

PREFIX: Final = "tokenizer.ggml."

Kind = TypeVar("Kind")


class TokenType(IntEnum):
    """What ``tokenizer.ggml.token_type`` says of a token; the numbers are SentencePiece's."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF vocabulary, checked.

    Attributes
    ----------
    tokens : tuple of str
        Each once, none empty. A token's id is its place.
    token_types : tuple of int
        As many as tokens; every one `TokenType.NORMAL` where the file has none.
    scores : tuple of float or None
        As many as tokens, none NaN.
    merges : tuple of (str, str) or None
        First merge first; both halves and their union are tokens.
    bos_token_id, eos_token_id, unknown_token_id : int or None
        Within the vocabulary.
    add_bos, add_eos, add_space_prefix : bool or None
        None where the file leaves it to the vocabulary's kind.
    """

    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[tuple[str, str], ...] | None
    bos_token_id: int | None
    eos_token_id: int | None
    unknown_token_id: int | None
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of the tokens of these types, lowest first."""
        return [i for i, token_type in enumerate(self.token_types) if token_type in types]


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Check ``tokenizer.ggml.*`` metadata and give it a shape.

    Raises
    ------
    MetadataError
        Naming the field, if one is missing, of the wrong type, or contradicts another.
    LimitExceeded
        If a token is longer than `MAX_TOKEN_BYTES`.
    """
    tokens = _tokens(metadata)
    n_tokens = len(tokens)
    return Vocabulary(
        tokens=tokens,
        token_types=_token_types(metadata, n_tokens),
        scores=_scores(metadata, n_tokens),
        merges=_merges(metadata, frozenset(tokens)),
        bos_token_id=_token_id(metadata, "bos_token_id", n_tokens),
        eos_token_id=_token_id(metadata, "eos_token_id", n_tokens),
        unknown_token_id=_token_id(metadata, "unknown_token_id", n_tokens),
        add_bos=_scalar(metadata, "add_bos_token", bool),
        add_eos=_scalar(metadata, "add_eos_token", bool),
        add_space_prefix=_scalar(metadata, "add_space_prefix", bool),
    )


def text_field(metadata: Mapping[str, Any], name: str) -> str | None:
    """Give ``tokenizer.ggml.<name>``, a string, or None where it is missing.

    Raises
    ------
    MetadataError
        If it is there and no string.
    """
    return _scalar(metadata, name, str)


def _scalar(metadata: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind | None:
    """Give a scalar of exactly one type (a bool is no int), or None where it is missing."""
    value = metadata.get(PREFIX + name)
    if value is None or type(value) is kind:
        return value
    raise MetadataError(
        "tokenizer field has the wrong type",
        field=PREFIX + name,
        expected=kind.__name__,
        found=type(value).__name__,
    )


def _token_id(metadata: Mapping[str, Any], name: str, n_tokens: int) -> int | None:
    """Give a token id, within the vocabulary, or None where it is missing."""
    token_id = _scalar(metadata, name, int)
    if token_id is not None and not 0 <= token_id < n_tokens:
        raise MetadataError(
            "token id lies outside the vocabulary",
            field=PREFIX + name,
            expected=f"0 to {n_tokens - 1}",
            found=token_id,
        )
    return token_id


def _items(metadata: Mapping[str, Any], name: str, kinds: Collection[type]) -> Sequence[Any] | None:
    """Give an array whose items are all of the given types, or None where it is missing."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    expected = f"an array of {' or '.join(kind.__name__ for kind in kinds)}"
    if not isinstance(value, list | tuple):
        raise MetadataError(
            "tokenizer field has the wrong type",
            field=PREFIX + name,
            expected=expected,
            found=type(value).__name__,
        )
    for index, item in enumerate(value):
        if type(item) not in kinds:
            raise MetadataError(
                f"item {index} has the wrong type",
                field=PREFIX + name,
                expected=expected,
                found=type(item).__name__,
            )
    return value


def _check_length(name: str, items: Sequence[Any], n_tokens: int) -> None:
    """Refuse a per-token array that has not one item a token."""
    if len(items) != n_tokens:
        raise MetadataError(
            "array has not one item for each token",
            field=PREFIX + name,
            expected=n_tokens,
            found=len(items),
        )


def _tokens(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the tokens; an empty one gets the name that llama.cpp gives it, ``[EMPTY_<id>]``."""
    field = PREFIX + "tokens"
    items = _items(metadata, "tokens", (str,))
    if not items:
        raise MetadataError("the vocabulary has no tokens", field=field)
    tokens = tuple(token or f"[EMPTY_{index}]" for index, token in enumerate(items))
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if token in seen:
            raise MetadataError(f"token {index} stands twice in the vocabulary", field=field, found=token)
        seen.add(token)
        _check_token(index, token)
    return tokens


def _check_token(index: int, token: str) -> None:
    """Refuse a token that is no UTF-8, or far longer than any real one."""
    field = PREFIX + "tokens"
    try:
        size = len(token) if token.isascii() else len(token.encode())
    except UnicodeEncodeError as error:
        raise MetadataError(f"token {index} is not UTF-8", field=field, found=ascii(token)) from error
    if size > MAX_TOKEN_BYTES:
        raise LimitExceeded(
            f"token {index} is too long", field=field, expected=f"at most {MAX_TOKEN_BYTES} bytes", found=size
        )


def _token_types(metadata: Mapping[str, Any], n_tokens: int) -> tuple[int, ...]:
    """Give each token's type; all normal where the file has none."""
    items = _items(metadata, "token_type", (int,))
    if items is None:
        return (int(TokenType.NORMAL),) * n_tokens
    _check_length("token_type", items, n_tokens)
    return tuple(items)


def _scores(metadata: Mapping[str, Any], n_tokens: int) -> tuple[float, ...] | None:
    """Give each token's score, or None where the file has none."""
    items = _items(metadata, "scores", (float, int))
    if items is None:
        return None
    _check_length("scores", items, n_tokens)
    scores = tuple(map(float, items))
    for index, score in enumerate(scores):
        if math.isnan(score):
            raise MetadataError(f"score {index} is not a number", field=PREFIX + "scores", found=score)
    return scores


def _merges(metadata: Mapping[str, Any], tokens: frozenset[str]) -> tuple[tuple[str, str], ...] | None:
    """Give the merges, each pair once at its first rank, or None where the file has none.

    A merge is two tokens with a space between; the space is the first one after the first character.
    """
    items = _items(metadata, "merges", (str,))
    if items is None:
        return None
    pairs: dict[tuple[str, str], None] = {}
    for index, merge in enumerate(items):
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space < 0 or left not in tokens or right not in tokens or left + right not in tokens:
            raise MetadataError(
                f"merge {index} does not join two tokens into a third",
                field=PREFIX + "merges",
                expected="two tokens with a space between them, whose union is a token",
                found=merge,
            )
        pairs.setdefault((left, right))
    return tuple(pairs)
