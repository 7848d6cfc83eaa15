"""``Store.neighbors``: the vectors of a model most like one, by cosine or dot product, exactly."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.keys import split_layer
from wvindex.errors import SelectionError, UsageError
from wvindex.inspection.residual import hidden_size, side_of
from wvindex.inspection.search import Field, Found, Metric, search
from wvindex.inspection.table import Table
from wvindex.query.database import Store
from wvindex.query.select import LayerChoice

NEIGHBORS: Final = ("layer", "key", "expert", "row", "column", "score")

EVIDENCE: Final = "evidence from weights alone, not what the model does with a text"
"""What every table says that reads directions as if nothing else were in the model."""

Progress = Callable[[int, int], None]
"""Told the encoded bytes that were gone through, and of how many."""


def neighbors(
    db: Store,
    vector: NDArray[Any],
    role: str | None = None,
    *,
    layers: LayerChoice = None,
    k: int = 10,
    metric: Metric = "cosine",
    progress: Progress | None = None,
) -> Table:
    """Find the vectors of the residual stream most like one: see `Store.neighbors`."""
    if metric not in get_args(Metric):
        raise UsageError("no such metric", field="metric", expected="cosine or dot", found=metric)
    hidden, k = hidden_size(db), count("k", k)
    vectors = query_vectors(vector, hidden)
    if metric == "cosine":
        _require_directions(vectors)
    fields, notes = _fields(db, role, layers, hidden)
    found = search(fields, vectors, k, metric, advance_of(fields, progress))
    many = np.ndim(vector) > 1
    rows = [
        ({"query": query} if many else {}) | _row(fields[hit.place], hit.vector) | {"score": hit.score}
        for query, hits in enumerate(found.hits)
        for hit in hits
    ]
    columns = ("query", *NEIGHBORS) if many else NEIGHBORS
    return Table.of_dicts("neighbors", columns, rows, (EVIDENCE, *notes, *left_out(found)))


def query_vectors(vector: NDArray[Any], hidden: int) -> NDArray[np.float64]:
    """Give one vector or several as (n, hidden_size) float64, or refuse them.

    Raises
    ------
    UsageError
        If they are no real numbers, NaN or infinite; SelectionError if they have another length.
    """
    array = np.asarray(vector)
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
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UsageError(f"{name} is out of range", field=name, expected="1 or more", found=value)
    return number


def advance_of(fields: list[Field], progress: Progress | None) -> Callable[[int], None]:
    """Give what tells `progress` of all bytes when it is told of some."""
    done, total = 0, sum(field.tensor.nbytes for field in fields)

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return advance


def left_out(found: Found) -> list[str]:
    """Say which vectors a search could not score."""
    notes = []
    if found.not_finite:
        notes.append(f"vectors left out, for they hold NaN or infinity: {found.not_finite}")
    if found.zero:
        notes.append(f"vectors left out, for they are zero and have no direction: {found.zero}")
    return notes


def _require_directions(vectors: NDArray[np.float64]) -> None:
    zero = np.flatnonzero(~vectors.any(axis=1))
    if zero.size:
        raise UsageError(
            "a zero vector has no direction, and no cosine",
            field="vector",
            expected="another vector, or metric dot",
            found=f"zeros in vector {zero[0]}",
        )


def _fields(db: Store, role: str | None, layers: LayerChoice, hidden: int) -> tuple[list[Field], list[str]]:
    """Give what is searched. What has no side is refused by name; where no role was asked for, named."""
    fields: list[Field] = []
    others: dict[str, None] = {}
    is_exact = role is not None and not set(role) & set("*?[")
    for tensor in db.select(layer=layers, role=role):
        if tensor.ndim < 2 and not is_exact:
            continue
        try:
            fields.append(Field(tensor, side_of(tensor, hidden)))
        except UsageError:
            if role is not None:
                raise
            others[split_layer(tensor.key)[1].removesuffix(".weight")] = None
    if not fields:
        have = dict.fromkeys(split_layer(key)[1].removesuffix(".weight") for key in db if db[key].ndim > 1)
        raise SelectionError(
            "no matrix of these layers has this role", field="role", expected=", ".join(have), found=role
        )
    return fields, [
        f"not searched, for they are not of the residual stream: {', '.join(others)}"
    ] if others else []


def _row(field: Field, vector: int) -> dict[str, Any]:
    """Say where a vector stands."""
    expert, index = field.place(vector)
    where = "row" if field.side == "rows" else "column"
    key = field.tensor.key
    return {"layer": split_layer(key)[0], "key": key, "expert": expert, where: index}
