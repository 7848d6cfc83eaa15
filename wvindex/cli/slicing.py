"""Indices as text: ``[0:4, ..., -1]`` behind a key, ``3:7,9`` for layers."""

from __future__ import annotations

import re
from collections.abc import Container
from types import EllipsisType
from typing import Final

from wvindex.errors import UsageError
from wvindex.spelling import Item

_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_EXPECTED: Final = "integers, slices such as 0:4 or ::2, and one ellipsis, parted by commas"


def split_key(text: str, keys: Container[str]) -> tuple[str, tuple[Item, ...] | None]:
    """Split ``key[index]`` into a key and an index; (text, None) where there is no index.

    Parameters
    ----------
    text : str
    keys : container of str
        What is one of these is a key as it stands, brackets and all.

    Raises
    ------
    UsageError
        If what stands in the brackets is no index.
    """
    if text in keys or not text.endswith("]") or "[" not in text:
        return text, None
    key, _, index = text[:-1].rpartition("[")
    return key.rstrip(), parse_items(index)


def parse_items(text: str) -> tuple[Item, ...]:
    """Read ``0:4, ..., -1`` as NumPy would.

    Raises
    ------
    UsageError
        If a part is neither an integer, nor a slice, nor an ellipsis.
    """
    return tuple(_item(part.strip(), text) for part in text.split(","))


def parse_layers(text: str) -> list[int | slice]:
    """Read a choice of layers: ``3``, ``3:7`` (3 to 6), ``1,4``, ``-1`` (the last), ``0,8:12``.

    Raises
    ------
    UsageError
        If a part is neither a number of a layer nor a range.
    """
    try:
        items = parse_items(text)
    except UsageError:
        items = (...,)
    layers = [item for item in items if not isinstance(item, EllipsisType)]
    if len(layers) < len(items):
        raise UsageError(
            "not a choice of layers", field="layer", expected="such as 3, 3:7, 1,4 or -1", found=text
        )
    return layers


def _item(part: str, text: str) -> Item:
    if part == "...":
        return ...
    bounds = [_bound(bound.strip(), text) for bound in part.split(":")]
    if len(bounds) == 1 and bounds[0] is not None:
        return bounds[0]
    if len(bounds) not in {2, 3} or bounds[2:] == [0]:
        raise UsageError("not an index", field="index", expected=_EXPECTED, found=text)
    return slice(*bounds)


def _bound(text: str, whole: str) -> int | None:
    if not text:
        return None
    if not _INTEGER.fullmatch(text):
        raise UsageError("not an index", field="index", expected=_EXPECTED, found=whole)
    return int(text)
