"""What is asked of directions, and said about them: vectors, counts, notes, how tokens are spelled."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import SelectionError, UsageError, WvindexError
from wvindex.inspection.progress import Progress
from wvindex.inspection.progress import advance_of as counting
from wvindex.inspection.search import Field, Found
from wvindex.query.database import Store

EVIDENCE: Final = "evidence from weights alone, not what the model does with a text"
"""What every table says that reads directions as if nothing else were in the model."""


def query_vectors(vector: NDArray[Any], hidden: int) -> NDArray[np.float64]:
    """Give one vector or several as (n, hidden_size) float64, or refuse them.

    Raises
    ------
    UsageError
        If they are no real numbers, NaN or infinite; SelectionError if they have another length.
    """
    try:
        array = np.asarray(vector)
    except ValueError as error:  # rows of different lengths
        raise UsageError(f"not vectors: {error}", field="vector") from error
    is_real = array.dtype.kind in "biuf" or array.dtype.name.startswith(("bfloat", "float"))
    if array.ndim not in {1, 2} or not is_real:
        raise UsageError(
            "not vectors",
            field="vector",
            expected=f"({hidden},) or (n, {hidden}) real numbers",
            found=f"{array.shape} {array.dtype}",
        )
    if array.shape[-1] != hidden:
        raise SelectionError(
            "the vector is not of the residual stream",
            field="vector",
            expected=f"{hidden} values",
            found=array.shape[-1],
        )
    if not array.size:
        raise UsageError("there is no vector", field="vector", expected="one or more", found="none")
    with np.errstate(invalid="ignore"):
        vectors = array.astype(np.float64).reshape(-1, hidden)
    if not np.isfinite(vectors).all():
        raise UsageError("the vector holds NaN or infinity", field="vector", expected="finite values")
    return vectors


def count(name: str, value: int) -> int:
    """Check how many are asked for.

    Raises
    ------
    UsageError
        If that is no positive integer.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise _no_count(name, "is no integer", repr(value)) from None
    if isinstance(value, bool):
        raise _no_count(name, "is no integer", value)
    if number < 1:
        raise _no_count(name, "is out of range", value)
    return number


def _no_count(name: str, problem: str, found: object) -> UsageError:
    return UsageError(f"{name} {problem}", field=name, expected="1 or more", found=found)


def advance_of(fields: list[Field], progress: Progress | None) -> Callable[[int], None]:
    """Give what tells `progress` of all bytes when it is told of some."""
    return counting(sum(field.tensor.nbytes for field in fields), progress)


def left_out(found: Found) -> list[str]:
    """Say which vectors a search could not score."""
    notes = []
    if found.not_finite:
        notes.append(f"vectors left out, for they hold NaN or infinity: {found.not_finite}")
    if found.zero:
        notes.append(f"vectors left out, for they are zero and have no direction: {found.zero}")
    return notes


def spelling(db: Store) -> tuple[Callable[[int], str | None], list[str]]:
    """Give what spells a token as the vocabulary does, and a note where nothing can."""
    try:
        return db.tokenizer.id_to_token, []
    except WvindexError as error:
        return lambda token: None, [f"no tokenizer, so ids alone: {error.message}"]
