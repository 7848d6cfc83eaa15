"""Changes to bytes that a fuzzer makes, as data: drawn by Hypothesis, or by chance over a long run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

INTEGERS: Final = tuple(
    sorted(
        {
            (base + step) % 2**64
            for base in (0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 48, 1 << 62, 1 << 63)
            for step in (-1, 0, 1, 2)
        }
        | {4, 8, 9, 13, 32, 64, 256, 4096}
    )
)
"""Values at which parsers break: about the powers of two, signs, block sizes and alignments."""

TOKENS: Final = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"null", b"true", b"NaN", b"1e999", b"-1", b"0.5"),
    *(b"9" * 40, b'"a"', rb'"\ud800"', b"\xff", b"\0", b"[" * 80, b"../", b"/", b'"":', b"1,1,", b"[0]"),
)
"""Pieces of JSON and of paths that parsers break at."""

VALUES: Final = (
    *(b"null", b"true", b"false", b"{}", b"[]", b'""', b'"x"', b"-1", b"0", b"1", b"2", b"1.5", b"1e308"),
    *(b"1e-308", b"NaN", b"[0]", b"[[1,2]]", b'{"a":1}', b'"default"', b'"F16"', b'"Q4_K"', b"[1,2]"),
)
"""What may stand in a JSON value's place."""

_BYTES: Final = ("flip", "overwrite", "insert", "delete", "copy", "integer32", "integer64", "token")

BINARY: Final = (*_BYTES, "integer32", "integer64")
"""Kinds of change to a file of bytes."""

TEXT: Final = ("flip", "delete", "copy", "token", *("digits", "value", "drop") * 4)
"""Kinds of change to JSON, most of which leave it JSON."""


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes
    ----------
    kind : str
        One of `BINARY` or `TEXT`.
    place : int
        Where, counted round the end.
    value : int
        What: a bit, a byte, a length, or which of `INTEGERS`, `TOKENS` or `VALUES`.
    """

    kind: str
    place: int
    value: int

    @classmethod
    def drawn(cls, rng: Random, kinds: Sequence[str]) -> Mutation:
        """Draw one by chance."""
        return cls(rng.choice(kinds), rng.randrange(1 << 20), rng.randrange(1 << 16))

    def apply(self, data: bytes) -> bytes:
        """Give the changed bytes."""
        return _CHANGES[self.kind](data, self.place % (len(data) + 1), self.value)


def _integer(value: int) -> int:
    return INTEGERS[value % len(INTEGERS)]


def _put(data: bytes, at: int, piece: bytes) -> bytes:
    """Overwrite, without a change of length."""
    return (data[:at] + piece + data[at + len(piece) :])[: len(data)]


def _number(data: bytes, at: int, integer: int) -> bytes:
    """Write another number in the place of the next one that is spelled in digits."""
    start = next((i for i in range(at, len(data)) if data[i : i + 1].isdigit()), len(data))
    stop = next((i for i in range(start, len(data)) if not data[i : i + 1].isdigit()), len(data))
    return data[:start] + str(integer).encode() + data[stop:]


def _member(data: bytes, at: int, piece: bytes, opening: bytes = b":") -> bytes:
    """Put `piece` in the place of the next `opening` and what follows it, up to a comma or a bracket."""
    start = data.find(opening, at)
    if start < 0:
        return data
    ends = [end for mark in (b",", b"}", b"]") if (end := data.find(mark, start + 1)) >= 0]
    return data[:start] + piece + data[min(ends, default=len(data)) :]


_CHANGES: Final[dict[str, Callable[[bytes, int, int], bytes]]] = {
    "flip": lambda data, at, n: _put(data, at, bytes(byte ^ 1 << n % 8 for byte in data[at : at + 1])),
    "overwrite": lambda data, at, n: _put(data, at, bytes([n % 256])),
    "integer32": lambda data, at, n: _put(data, at, (_integer(n) % 2**32).to_bytes(4, "little")),
    "integer64": lambda data, at, n: _put(data, at, _integer(n).to_bytes(8, "little")),
    "insert": lambda data, at, n: data[:at] + bytes([n % 256]) + data[at:],
    "delete": lambda data, at, n: data[:at] + data[at + 1 + n % 64 :],
    "copy": lambda data, at, n: data[:at] + data[at : at + 1 + n % 64] + data[at:],
    "token": lambda data, at, n: data[:at] + TOKENS[n % len(TOKENS)] + data[at:],
    "digits": lambda data, at, n: _number(data, at, _integer(n)),
    "value": lambda data, at, n: _member(data, at, b":" + VALUES[n % len(VALUES)]),
    "drop": lambda data, at, n: _member(data, at, b"", opening=b","),
}


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    """Apply changes one after another."""
    for mutation in mutations:
        data = mutation.apply(data)
    return data
