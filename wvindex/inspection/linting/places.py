"""Where findings are, and how they name several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from wvindex.inspection.linting.look import FEW, height_of, is_stack
from wvindex.query.lazy import Tensor


class PlaceFields(TypedDict):
    """Where a value is, as fields of what a rule finds."""

    tensor: str
    expert: int | None
    row: int
    column: int


def place_of(tensor: Tensor, row: int, column: int) -> PlaceFields:
    """Give the place of a value; `row` is of all dimensions but the last, flattened."""
    matrix, within = divmod(row, height_of(tensor))
    return {
        "tensor": tensor.key,
        "expert": matrix if is_stack(tensor) else None,
        "row": within,
        "column": column,
    }


def listed(names: Sequence[object], count: int) -> str:
    """Name the first few of `count`: ``3, 4, 7 and 12 more``."""
    shown = [str(name) for name in names[:FEW]]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
