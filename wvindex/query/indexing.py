"""What an index asks for: NumPy's rules, worked out before anything is read."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import SelectionError

Positions = range | NDArray[np.int64]
"""Indices along one axis, in the order in which they are wanted."""


@dataclass(frozen=True)
class Selection:
    """Rows and columns that make up a result.

    Attributes
    ----------
    rows : range or array of int64
        Over all axes but the last, flattened; in the result's order. A range has a step of 1.
    columns : range or array of int64
        Along the last axis.
    shape : tuple of int
        Of ``(rows, columns)`` values once axes with a single index are dropped.
    array_first : bool
        Whether the last axis of `shape` goes to the front: NumPy's rule for an array that a slice parts
        from an integer.
    """

    rows: Positions
    columns: Positions
    shape: tuple[int, ...]
    array_first: bool = False


def parse_index(index: object, shape: tuple[int, ...]) -> Selection:
    """Work out what ``tensor[index]`` asks for.

    Parameters
    ----------
    index : object
        Integers, slices with any step, one ellipsis, and at most one one-dimensional array (or list) of
        integers, or of booleans as long as its axis.
    shape : tuple of int
        The tensor's.

    Raises
    ------
    SelectionError
        If it is anything else, has too many parts, or is out of range; the message names the shape.
    """
    items = _expand(index, shape)
    axes = [_positions(item, size, shape) for item, size in zip(items, shape, strict=True)]
    kinds = [_kind(item) for item in items]
    if kinds.count("array") > 1:
        raise SelectionError("at most one array may index a tensor", expected=f"an index of shape {shape}")
    rows: Positions = range(1)
    for positions, size in zip(axes[:-1], shape[:-1], strict=True):
        rows = _within(rows, positions, size)
    kept = tuple(len(axis) for axis, kind in zip(axes, kinds, strict=True) if kind != "integer")
    columns = axes[-1] if axes else range(1)
    return Selection(rows, columns, kept, _array_goes_first(kinds))


def _within(rows: Positions, positions: Positions, size: int) -> Positions:
    """Give the flattened indices of `positions`, of `size` there are, in each of `rows`."""
    if isinstance(rows, range) and isinstance(positions, range):
        if positions == range(size):
            return range(rows.start * size, rows.stop * size)
        if len(rows) == 1 and (positions.step == 1 or len(positions) == 1) and len(positions):
            first = rows.start * size + positions.start
            return range(first, first + len(positions))
    return (np.asarray(rows, np.int64)[:, None] * size + np.asarray(positions, np.int64)).reshape(-1)


def row_range(rows: tuple[int, int] | range | slice | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the indices [start, stop) of axis 0 that `rows` asks for; all of them for None.

    Raises
    ------
    SelectionError
        If they are out of range, or have a step.
    """
    size = shape[0] if shape else 1
    if rows is None:
        return 0, size
    if isinstance(rows, slice):
        chosen = _sliced(rows, size, shape)
        if chosen.step != 1:
            raise SelectionError("rows have no step", found=rows, expected=f"a range of {shape}")
        return chosen.start, max(chosen.start, chosen.stop)
    if isinstance(rows, range):
        if rows.step != 1:
            raise SelectionError("rows have no step", found=rows, expected=f"a range of {shape}")
        start, stop = rows.start, max(rows.start, rows.stop)
    elif isinstance(rows, tuple) and len(rows) == 2 and all(isinstance(row, SupportsIndex) for row in rows):
        start, stop = map(operator.index, rows)
    else:
        raise SelectionError("not a choice of rows", expected="(start, stop), a range or a slice", found=rows)
    if not 0 <= start <= stop <= size:
        raise SelectionError("rows are out of range", expected=f"0 to {size} of {shape}", found=(start, stop))
    return start, stop


def _expand(index: object, shape: tuple[int, ...]) -> list[Any]:
    """Give one item for each axis."""
    items = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    missing = len(shape) - (len(items) - len(dots))
    if missing < 0 or len(dots) > 1:
        raise SelectionError(
            "an index has too many parts", expected=f"at most {len(shape)} for {shape}", found=len(items)
        )
    fill = [slice(None)] * missing
    at = dots[0] if dots else len(items)
    return items[:at] + fill + items[at + len(dots) :]


def _kind(item: object) -> str:
    if isinstance(item, slice):
        return "slice"
    return "array" if isinstance(item, list) or (isinstance(item, np.ndarray) and item.ndim) else "integer"


def _positions(item: Any, size: int, shape: tuple[int, ...]) -> Positions:
    kind = _kind(item)
    if kind == "slice":
        return _sliced(item, size, shape)
    if kind == "array":
        return _array_positions(_as_array(item, shape), size, shape)
    try:
        position = operator.index(item)
    except TypeError:
        position = None
    if position is None or isinstance(item, bool | np.bool_):
        raise SelectionError("not an index", expected=f"integers and slices of {shape}", found=item)
    if not -size <= position < size:
        raise SelectionError("an index is out of range", expected=f"within {shape}", found=position)
    return range(position % size, position % size + 1)


def _sliced(item: slice, size: int, shape: tuple[int, ...]) -> range:
    try:
        return range(*item.indices(size))
    except (TypeError, ValueError) as error:
        raise SelectionError(f"not a slice: {error}", expected=f"a slice of {shape}", found=item) from None


def _as_array(item: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.asarray(item)
    except ValueError:  # lists of several lengths
        raise SelectionError(
            "not an array of indices", expected=f"integers or booleans for {shape}", found=item
        ) from None


def _array_positions(array: NDArray[Any], size: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    if array.dtype == np.bool_ and array.shape == (size,):
        return np.flatnonzero(array).astype(np.int64)
    if array.size == 0 and array.ndim == 1 and array.dtype != np.bool_:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SelectionError(
            "not an array of indices",
            found=f"{array.dtype} {array.shape}",
            expected=f"integers, or {size} booleans, for {shape}",
        )
    if int(array.min()) < -size or int(array.max()) >= size:
        raise SelectionError(
            "an index is out of range", expected=f"within {shape}", found=f"{array.min()} to {array.max()}"
        )
    return cast("NDArray[np.int64]", np.where(array < 0, array + size, array).astype(np.int64))


def _array_goes_first(kinds: list[str]) -> bool:
    """Tell whether NumPy puts a last axis that an array indexes first: a slice parts it from an integer."""
    if "array" not in kinds or kinds[-1] != "array":
        return False
    before = kinds[:-1]
    return "integer" in before and "slice" in before[before.index("integer") :]


def covering(columns: Positions) -> tuple[int, int]:
    """Give the shortest range [start, stop) that holds every one of `columns`, which are not empty."""
    if isinstance(columns, range):
        ends = (columns[0], columns[-1])
        return min(ends), max(ends) + 1
    return int(columns.min()), int(columns.max()) + 1


def relative(columns: Positions, start: int) -> slice | NDArray[np.int64]:
    """Give what selects `columns` in an array whose first column is `start`."""
    if not isinstance(columns, range):
        return columns - start
    after = columns[-1] - start + (1 if columns.step > 0 else -1)
    return slice(columns[0] - start, after if after >= 0 else None, columns.step)


def moved(positions: Positions, by: int) -> Positions:
    """Give the positions, each `by` further on."""
    if isinstance(positions, range):
        return range(positions.start + by, positions.stop + by, positions.step)
    return positions + by


def ascending(rows: Positions) -> tuple[Positions, slice | NDArray[np.intp] | None]:
    """Give the rows to read, strictly ascending, and what puts them in the order that was asked for."""
    if isinstance(rows, range):
        return rows, None
    steps = np.diff(rows)
    if bool(np.all(steps > 0)):
        return rows, None
    if bool(np.all(steps < 0)):
        return rows[::-1], slice(None, None, -1)
    unique, order = np.unique(rows, return_inverse=True)
    return unique, order
