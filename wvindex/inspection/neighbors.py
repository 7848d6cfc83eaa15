"""``Store.neighbors``: the vectors of a model most like one, by cosine or dot product, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.keys import split_layer
from wvindex.errors import SelectionError, UsageError
from wvindex.inspection.asking import EVIDENCE, advance_of, count, left_out, query_vectors, spelling
from wvindex.inspection.progress import Progress
from wvindex.inspection.residual import VOCABULARY, has_side, hidden_size, role_of_stack, side_of
from wvindex.inspection.search import Field, Metric, search
from wvindex.inspection.table import Table
from wvindex.query.choice import LayerChoice
from wvindex.query.database import Store

NEIGHBORS: Final = ("layer", "key", "expert", "row", "column", "text", "score")


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
    spell = spelling(db)[0] if any(_is_vocabulary(field) for field in fields) else None
    rows = [
        ({"query": query} if many else {}) | _row(fields[hit.place], hit.vector, spell) | {"score": hit.score}
        for query, hits in enumerate(found.hits)
        for hit in hits
    ]
    columns = ("query", *NEIGHBORS) if many else NEIGHBORS
    return Table.of_dicts("neighbors", columns, rows, (EVIDENCE, *notes, *left_out(found)))


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
    is_exact = isinstance(role, str) and not set(role) & set("*?[")
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
        raise _no_role(db, role, layers, hidden)
    return fields, [
        f"not searched, for they are not of the residual stream: {', '.join(others)}"
    ] if others else []


def _no_role(db: Store, role: str | None, layers: LayerChoice, hidden: int) -> SelectionError:
    """Give the error for a role that nothing has, with all that are: what is `expected` would be cut."""
    have = dict.fromkeys(
        split_layer(tensor.key)[1].removesuffix(".weight")
        for tensor in db.select(layer=layers)
        if has_side(tensor, hidden)
    )
    there = ", ".join(name if name.isprintable() else ascii(name) for name in have) or "none"
    where = "the model" if layers is None else "these layers"
    return SelectionError(
        f"no matrix of {where} has this role; those that have vectors of the residual stream: {there}",
        field="role",
        found=role,
    )


def _is_vocabulary(field: Field) -> bool:
    return role_of_stack(field.tensor.key) in VOCABULARY


def _row(field: Field, vector: int, spell: Callable[[int], str | None] | None) -> dict[str, Any]:
    """Say where a vector stands, and of which token it is."""
    expert, index = field.place(vector)
    where = "row" if field.side == "rows" else "column"
    key = field.tensor.key
    text = spell(index) if spell is not None and _is_vocabulary(field) else None
    return {"layer": split_layer(key)[0], "key": key, "expert": expert, where: index, "text": text}
