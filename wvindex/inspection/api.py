"""``wvindex.stats``: statistics of weights as a table, exact over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Final, Literal

from wvindex.arch.keys import split_layer
from wvindex.errors import UsageError
from wvindex.inspection.experts import EXPERT, expert_rows
from wvindex.inspection.heads import HEAD, head_projections, head_rows
from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import scan
from wvindex.inspection.spectrum import SPECTRUM, Kind, spectrum
from wvindex.inspection.subjects import Compute, Grouping, SubjectRows
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import (
    COLUMN,
    LAYER,
    ROLE,
    ROW,
    TENSOR,
    Advance,
    Row,
    column_rows,
    group_row,
    role_of,
    row_rows,
    summarize,
    tensor_row,
)
from wvindex.opening import open as open_any
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.select import LayerChoice

By = Literal["tensor", "layer", "role", "head", "expert", "row", "column"]

Progress = Callable[[int, int], None]
"""Told the encoded bytes that were gone through, and of how many."""


def stats(
    source: Store | str | os.PathLike[str],
    selector: str | None = None,
    layers: LayerChoice = None,
    by: By = "tensor",
    *,
    role: str | None = None,
    spectrum: Kind | None = None,
    top: int = 8,
    keep: bool = True,
    progress: Progress | None = None,
) -> Table:
    """Take statistics of weights: exact over all of them, summed in float64, in bounded memory.

    ``count`` is of all values, ``nan`` and ``inf`` of those that are not finite; everything else is of the
    finite ones. ``std`` is of the population (``ddof=0``), ``kurtosis`` in excess of a normal
    distribution's, a quantile the smallest weight that at least its share of weights does not exceed
    (NumPy's ``inverted_cdf``), ``outliers`` weights whose magnitude is above 6 ``std``.

    Parameters
    ----------
    source : Store, path or URL
        A store, or a bare GGUF or safetensors checkpoint.
    selector : str, optional
        A glob for keys or aliases, as `Store.select` takes it; all tensors by default.
    layers : int, range, slice or iterable of int, optional
    by : {"tensor", "layer", "role", "head", "expert", "row", "column"}
        What a row of the table is. Layers and roles are taken over all values of their tensors; heads
        are those of whole layers whose attention is dense; experts those of stacks.
    role : str, optional
        A glob for what follows the layer in the key.
    spectrum : {"top", "full"}, optional
        For tensors: also singular values, the `top` largest, stable rank and effective rank.
    top : int
    keep : bool
        Whether to take what a store in a directory has in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``.

    Returns
    -------
    Table
        Rows in the order of the store.

    Raises
    ------
    UsageError
        If `by` or `spectrum` is none of these, or a spectrum is asked of anything but tensors.
    SelectionError
        If `layers` is no choice of layers.
    UndecodableType
        If nobody decodes the encoding of a chosen tensor.
    """
    if by not in GROUPINGS:
        raise UsageError("no such table", field="by", expected=", ".join(GROUPINGS), found=by)
    if spectrum is not None and by != "tensor":
        raise UsageError("a spectrum is a tensor's", field="spectrum", expected="by='tensor'", found=by)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        tensors = db.select(selector or "*", layer=layers, role=role)
        return _Run(db, keep, progress).table(by, tensors, spectrum, top)


class _Run:
    """Goes through subjects, and takes from the store what it has of them."""

    def __init__(self, db: Store, keep: bool, progress: Progress | None) -> None:
        self._db = db
        self._keep = keep
        self._progress = progress
        self._done = self._total = 0
        self._notes: dict[str, None] = {}

    def table(self, by: By, tensors: Sequence[Tensor], kind: Kind | None, top: int) -> Table:
        grouping = GROUPINGS[by]
        subjects = grouping.subjects(self._db, tensors)
        chosen: dict[str, Grouping] = {by: grouping}
        if kind is not None:
            chosen[spectral_name(kind, top)] = spectral(kind, top)
        self._total = sum(g.nbytes(some) for g in chosen.values() for some in subjects.values())
        rows = [self._rows(name, g, subjects) for name, g in chosen.items()]
        joined = rows[0] if kind is None else [row | more for row, more in zip(*rows, strict=True)]
        columns = [column for g in chosen.values() for column in g.columns]
        return Table.of_dicts(f"{by}s", columns, joined, self._notes)

    def _rows(self, name: str, grouping: Grouping, subjects: dict[str, list[Tensor]]) -> list[Row]:
        of = SubjectRows(self._db, name, grouping, self._advance, keep=self._keep)
        try:
            return [row for subject, tensors in subjects.items() for row in of.rows(subject, tensors)]
        finally:  # also what was done when somebody had enough
            self._notes |= dict.fromkeys(of.save())

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _tensor(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [tensor_row(tensor, summarize([tensor], advance)) for tensor in tensors]


def _layer(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [{"layer": split_layer(tensors[0].key)[0]} | group_row(tensors, summarize(tensors, advance))]


def _role(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    return [{"role": role_of(tensors[0].key)} | group_row(tensors, summarize(tensors, advance))]


def _heads(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    rows = head_rows(db, split_layer(tensors[0].key)[0] or 0)
    advance(2 * _nbytes(tensors))
    return rows


def _each(rows_of: Callable[[Tensor], list[Row]], passes: int) -> Compute:
    def compute(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
        rows = []
        for tensor in tensors:
            rows += rows_of(tensor)
            advance(passes * tensor.nbytes)
        return rows

    return compute


def _key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key


def _layer_name(db: Store, tensor: Tensor) -> str | None:
    number = split_layer(tensor.key)[0]
    return "" if number is None else str(number)


def _role_name(db: Store, tensor: Tensor) -> str | None:
    return role_of(tensor.key)


def _head_layer(db: Store, tensor: Tensor) -> str | None:
    """Give the layer of one of the four projections, where all are dense and divide into heads."""
    number, role = split_layer(tensor.key)
    if number is None or not role.startswith("self_attn.") or tensor.heads is None:
        return None
    return str(number) if head_projections(db.layers[number]) else None


def _projections(db: Store, tensors: list[Tensor]) -> list[Tensor]:
    """Give all four projections of a layer: heads are of all of them, whichever were chosen."""
    number = split_layer(tensors[0].key)[0] or 0
    return list((head_projections(db.layers[number]) or {}).values())


def _stack_key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key if tensor.ndim == 3 and len(tensor) else None


def _matrix_key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key if tensor.ndim > 1 else None


def spectral_name(kind: Kind, top: int) -> str:
    """Give the name by which a store keeps spectra."""
    return f"spectrum-{kind}-{top}"


def spectral(kind: Kind, top: int) -> Grouping:
    """Give the grouping whose rows are the columns that a spectrum adds to those of tensors."""

    def one(tensor: Tensor) -> list[Row]:
        if tensor.ndim != 2:
            return [{}]
        moments = Moments.of_state(scan(tensor).states[0]) if tensor.size else Moments()
        if moments.nan or moments.inf:
            return [{}]
        return [spectrum(tensor, moments.sum_of_squares, kind, top=top).to_row()]

    return Grouping(SPECTRUM, _each(one, 2), _key)


GROUPINGS: Final[dict[str, Grouping]] = {
    "tensor": Grouping(TENSOR, _tensor, _key),
    "layer": Grouping(LAYER, _layer, _layer_name),
    "role": Grouping(ROLE, _role, _role_name),
    "head": Grouping(HEAD, _heads, _head_layer, reads=_projections),
    "expert": Grouping(EXPERT, _each(expert_rows, 2), _stack_key),
    "row": Grouping(ROW, _each(row_rows, 1), _key, passes=1, is_kept=False),
    "column": Grouping(COLUMN, _each(column_rows, 1), _matrix_key, passes=1, is_kept=False),
}
"""What a row can be. A new table is one entry."""
