"""Indices as NumPy spells them: ``[0, :4, ...]``."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

Item = int | slice | EllipsisType


def items_text(items: Sequence[Item]) -> str:
    """Write an index: ``[0, :4, ...]``."""
    return f"[{', '.join(map(item_text, items))}]"


def item_text(item: Item | range) -> str:
    """Write an integer, an ellipsis or a slice: ``0``, ``...``, ``:4``; a range as the slice it is like."""
    if isinstance(item, EllipsisType):
        return "..."
    if not isinstance(item, slice | range):
        return str(item)
    step = None if isinstance(item, range) and item.step == 1 else item.step
    bounds = ["" if bound is None else str(bound) for bound in (item.start, item.stop, step)]
    return ":".join(bounds if bounds[2] else bounds[:2])
