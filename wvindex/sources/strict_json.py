"""Strict JSON (RFC 8259): bounded depth, no duplicate keys, no NaN, no lone surrogates."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NoReturn

from wvindex.errors import DuplicateName, LimitExceeded, MalformedHeader
from wvindex.limits import MAX_JSON_DEPTH

# One string literal, or the rest of the text where a string never ends. Possessive, and with an
# optional end, so that no input makes it go back: it is linear in the text.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS: Final = bytes(code for code in range(256) if code not in _STEPS)
_NOT_MARKS: Final = bytes(code for code in _NOT_BRACKETS if code not in b'":\\')
_COMMON_DEPTH: Final = 3
"""A safetensors header's, and less than half of `MAX_JSON_DEPTH`."""
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(
    data: bytes | bytearray, *, file: Path, base: int = 0, constants: bool = False
) -> dict[str, Any]:
    """Parse a JSON object, refusing what parsers disagree about.

    Parameters
    ----------
    data : bytes
        UTF-8 text.
    file : Path
        For messages.
    base : int
        Offset of `data` in `file`, for messages.
    constants : bool
        Take ``NaN`` and ``Infinity`` as Python's own parser does: some configurations of the hub hold them.

    Raises
    ------
    MalformedHeader
        If it is not UTF-8, not JSON, not an object, or holds NaN, an infinity (also as ``1e999``) or a
        lone surrogate.
    LimitExceeded
        If it nests deeper than `MAX_JSON_DEPTH`; found before it is parsed.
    DuplicateName
        If an object has a key twice.
    """
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedHeader(
            "not UTF-8",
            file=file,
            offset=base + error.start,
            expected="UTF-8",
            found=error.object[error.start : error.start + 8],
        ) from error
    structure = _structure(data)
    _check_depth(structure, file)
    value = _loads(text, structure, file, base, constants=constants)
    if not isinstance(value, dict):
        raise MalformedHeader(
            "not a JSON object", file=file, offset=base, expected="an object", found=type(value).__name__
        )
    if "\\" in text and _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value, file)
    return value


def _structure(data: bytes | bytearray) -> bytes | bytearray:
    """Give the brackets and colons (at least) that stand outside of strings."""
    marks = data.translate(None, _NOT_MARKS)
    # Most strings hold none of these, nor a backslash: what is left of them is two quotes side by side. Where
    # such pairs are all the quotes there are, every string was one; elsewhere a quote is left over.
    structure = marks.replace(b'""', b"")
    return structure if b'"' not in structure and b"\\" not in structure else _STRING.sub(b"", data)


def _check_depth(structure: bytes | bytearray, file: Path) -> None:
    brackets = structure.translate(None, _NOT_BRACKETS)
    if not _without_innermost(brackets):
        return
    depth = max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
    if depth > MAX_JSON_DEPTH:
        raise LimitExceeded(
            "JSON is nested too deeply", file=file, expected=f"at most {MAX_JSON_DEPTH}", found=depth
        )


def _without_innermost(brackets: bytes | bytearray) -> bytes | bytearray:
    """Leave out brackets that hold nothing, then those that held only these; few have others."""
    for _ in range(_COMMON_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return brackets


def _loads(text: str, structure: bytes | bytearray, file: Path, base: int, *, constants: bool) -> object:
    members = 0

    def count(value: dict[str, Any]) -> dict[str, Any]:
        nonlocal members
        members += len(value)
        return value

    def refuse(constant: str) -> NoReturn:
        raise MalformedHeader("a number is not finite", file=file, expected="a finite number", found=constant)

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits)

    try:
        if constants:
            value = json.loads(text, object_hook=count)
        else:
            value = json.loads(text, object_hook=count, parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        offset = base + len(text[: error.pos].encode())
        found = text[error.pos : error.pos + 8] or "the end"
        raise MalformedHeader(
            f"not JSON: {error.msg}", file=file, offset=offset, expected="JSON", found=found
        ) from error
    except ValueError as error:  # an integer of more digits than Python converts
        most = sys.get_int_max_str_digits()
        raise MalformedHeader(
            "a number is too long", file=file, expected=f"at most {most} digits", found="more"
        ) from error
    if members != structure.count(b":"):  # every member has its colon, also one that another replaced
        _refuse_duplicates(text, file)
    return value


def _refuse_duplicates(text: str, file: Path) -> None:
    """Raise for the first object that has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise DuplicateName(
                "a JSON key stands twice", file=file, field=name, expected="every key once", found=name
            )
        return members

    json.loads(text, object_pairs_hook=unique)


def _check_surrogates(value: object, file: Path) -> None:
    for string in _strings(value):
        try:
            string.encode()
        except UnicodeEncodeError as error:
            raise MalformedHeader(
                "a string holds a lone surrogate", file=file, expected="pairs", found=string
            ) from error


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)


def json_type(value: object) -> str:
    """Name a parsed value's type as JSON does."""
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")
