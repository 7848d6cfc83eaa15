"""``wvindex.diff``: how two models differ, tensor by tensor, whatever files they came from."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from wvindex.errors import UsageError
from wvindex.formats.blas import one_thread
from wvindex.inspection import difference_rows as rows_of
from wvindex.inspection.aligned import Alignment, Pair, align, selected
from wvindex.inspection.config_difference import CONFIG, config_differences
from wvindex.inspection.difference_rows import Compared
from wvindex.inspection.gap import METRICS, Gap
from wvindex.inspection.progress import Progress
from wvindex.inspection.selected import nothing_matches
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import Row
from wvindex.opening import open as open_any
from wvindex.query.choice import LayerChoice
from wvindex.query.database import Store

Metric = Literal["rel_l2", "max_abs", "mean_abs", "rmse", "cosine", "sqnr_db"]


@dataclass(frozen=True)
class Diff:
    """What is known of how two models differ; a is the one that the other is held against.

    Attributes
    ----------
    a, b : str
        What was compared.
    metric : str
        What damage is ranked by, and held against the threshold.
    threshold : float or None
        None where any difference is one.
    tensors : Table
        A row each tensor that both have, the most damaged first.
    roles, layers, model : Table
        All values of their tensors together; roles the most damaged first, layers in their order, and one
        row of everything.
    experts : Table
        Every expert of each stack that differs, the most damaged first.
    rows : Table
        The rows of each tensor that suffered most, the most damaged first.
    missing, extra : Table
        What a has and b lacks; what b has besides.
    unlike : Table
        What has another shape in each.
    config : Table
        Fields of the configuration that differ.
    notes : tuple of str
    """

    a: str
    b: str
    metric: str
    threshold: float | None
    tensors: Table
    roles: Table
    layers: Table
    model: Table
    experts: Table
    rows: Table
    missing: Table
    extra: Table
    unlike: Table
    config: Table
    notes: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether anything is beyond the threshold, lacks a partner or fits none, or computes otherwise."""
        alone = len(self.missing) + len(self.extra) + len(self.unlike)
        return bool(alone or any(self.tensors["over"]) or any(self.config["matters"]))

    def tables(self) -> dict[str, Table]:
        """Give the tables by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Table)}

    def to_dict(self) -> dict[str, Any]:
        """Give plain values: each table as a list of dictionaries, and `differs`."""
        return {
            "a": self.a,
            "b": self.b,
            "metric": self.metric,
            "threshold": self.threshold,
            "differs": self.differs,
            **{name: table.to_dicts() for name, table in self.tables().items()},
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values: as `to_dict`, with each table as `Table.to_json` gives it."""
        return self.to_dict() | {name: table.to_json() for name, table in self.tables().items()}


def diff(
    a: Store | str | os.PathLike[str],
    b: Store | str | os.PathLike[str],
    selector: str | None = None,
    layers: LayerChoice = None,
    *,
    role: str | None = None,
    metric: Metric = "rel_l2",
    threshold: float | None = None,
    worst: int = 5,
    progress: Progress | None = None,
) -> Diff:
    """Compare two models, value by value, whatever files they are in: sums in float64, in bounded memory.

    Tensors are aligned by standard key and Hugging Face's conventions, so that neither the order of rotary
    rows, nor stacking, fusing, packing, scales or a tied head count as difference: values do. A store that
    has absorbed latent attention compares with one that keeps its factors by their product; there a
    difference that the rounding of float32 products explains is called ``rounding``, and is none.

    With d = a - b over all values that are finite on both sides: ``rel_l2`` = ‖d‖ / ‖a‖, ``sqnr_db`` =
    20 log10(‖a‖ / ‖d‖), ``cosine`` = a·b / (‖a‖ ‖b‖), ``rmse`` = √(mean d²), ``mean_abs`` and ``max_abs``
    of |d|. ``changed`` values are not equal; ``nonfinite`` are those of them that are NaN or infinite on
    one side, or otherwise on the other. The same NaN or infinity on both sides is equal.

    Parameters
    ----------
    a, b : Store, path or URL
        Stores, or bare GGUF or safetensors checkpoints. `a` is what the other is held against.
    selector : str, optional
        A glob for keys or aliases of either, as `Store.select` takes it; all tensors by default.
    layers : int, range, slice or several of them, optional
    role : str, optional
        A glob for what follows the layer in the key.
    metric : {"rel_l2", "max_abs", "mean_abs", "rmse", "cosine", "sqnr_db"}
        What damage is ranked by. Tensors with `nonfinite` values come before all others.
    threshold : float, optional
        A tensor whose `metric` is worse is ``over``: greater, or less for ``cosine`` and ``sqnr_db``. By
        default any difference is. Values that are not finite on one side are always.
    worst : int
        Rows of each tensor that are named.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``, of both sides.

    Returns
    -------
    Diff

    Raises
    ------
    UsageError
        If `metric` is none of these, or a number is out of range.
    SelectionError
        If `layers` is no choice of layers, or means none that there is, or nothing matches.
    UndecodableType
        If nobody decodes the encoding of a tensor, and its bytes differ.
    """
    _check(metric, threshold, worst)
    with ExitStack() as opened:
        left, right = (
            side if isinstance(side, Store) else opened.enter_context(open_any(side)) for side in (a, b)
        )
        found = align(left, right)
        if selector is not None or layers is not None or role is not None:
            found = found.chosen(*selected(left, right, selector, layers, role))
            if found.is_empty:
                raise nothing_matches(left, right, selector=selector, layers=layers, role=role)
        return _Run(found, metric, threshold, worst, progress).result(left, right)


_SIGNED: Final = frozenset({"cosine", "sqnr_db"})


def _check(metric: str, threshold: float | None, worst: int) -> None:
    if metric not in get_args(Metric):
        raise UsageError("no such metric", field="metric", expected=", ".join(METRICS), found=metric)
    if threshold is not None and math.isnan(threshold):
        raise UsageError("a threshold is a number", field="threshold", found=threshold)
    if threshold is not None and threshold < 0 and metric not in _SIGNED:
        expected = f"0 or more, as {metric} is"
        raise UsageError("a threshold out of range", field="threshold", expected=expected, found=threshold)
    if worst < 0:
        raise UsageError("a number of rows is not negative", field="worst", found=worst)


COLUMNS: Final = {
    "tensors": rows_of.TENSOR,
    "roles": rows_of.ROLE,
    "layers": rows_of.LAYER,
    "model": rows_of.GROUP,
    "experts": rows_of.EXPERT,
    "rows": rows_of.ROW,
    "missing": rows_of.ONE_SIDED,
    "extra": rows_of.ONE_SIDED,
    "unlike": rows_of.UNLIKE,
    "config": CONFIG,
}
"""Columns of the tables of a `Diff`, by name."""


class _Run:
    """Goes through pairs, and makes tables of what it finds."""

    def __init__(
        self,
        found: Alignment,
        metric: Metric,
        threshold: float | None,
        n_worst: int,
        progress: Progress | None,
    ) -> None:
        self._found = found
        self._metric = metric
        self._threshold = threshold
        self._n_worst = n_worst
        self._progress = progress
        self._done = 0
        self._total = sum(map(_nbytes, found.pairs))

    def result(self, a: Store, b: Store) -> Diff:
        compared = [self._compared(pair) for pair in self._found.pairs]
        rows = [rows_of.tensor_row(one, self._metric, self._threshold) for one in compared]
        every = list(zip(compared, self._gaps(compared), rows, strict=True))
        return Diff(
            a=str(a.path),
            b=str(b.path),
            metric=self._metric,
            threshold=self._threshold,
            tensors=self._ranked("tensors", rows),
            roles=self._ranked("roles", _grouped("role", every)),
            layers=_table("layers", _grouped("layer", every)),
            model=_table("model", [rows_of.group_row(every)] if every else []),
            experts=self._ranked("experts", _all(rows_of.expert_rows, compared)),
            rows=self._ranked("rows", _all(rows_of.row_rows, compared)),
            missing=_table("missing", map(rows_of.one_sided_row, self._found.missing)),
            extra=_table("extra", map(rows_of.one_sided_row, self._found.extra)),
            unlike=_table("unlike", (rows_of.unlike_row(*two) for two in self._found.unlike)),
            config=config_differences(a.config, b.config, self._found.pairs),
            notes=self._found.notes,
        )

    def _compared(self, pair: Pair) -> Compared:
        with one_thread():  # of products: each thread that compares has its own
            one = rows_of.compare(pair, self._n_worst)
        self._advance(_nbytes(pair))
        return one

    def _gaps(self, compared: Sequence[Compared]) -> list[Gap]:
        """Give the gaps, with the norms of equal tensors where they count: beside one that is not."""
        gaps = [one.gap for one in compared]
        same = [i for i, one in enumerate(compared) if one.seen is None]
        if len(same) == len(compared):
            return gaps
        self._total += sum(compared[i].pair.a.tensor.nbytes for i in same)
        for i in same:
            tensor = compared[i].pair.a.tensor
            gaps[i] = rows_of.complete(gaps[i], tensor)
            self._advance(tensor.nbytes)
        return gaps

    def _ranked(self, name: str, rows: list[Row]) -> Table:
        return _table(name, rows_of.ranked(rows, self._metric))

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _grouped(name: str, every: Sequence[tuple[Compared, Gap, Row]]) -> list[Row]:
    groups: dict[Any, list[tuple[Compared, Gap, Row]]] = {}
    for one in every:
        groups.setdefault(one[2][name], []).append(one)
    return [{name: value} | rows_of.group_row(some) for value, some in groups.items()]


def _nbytes(pair: Pair) -> int:
    return sum(tensor.nbytes for side in (pair.a, pair.b) for tensor in side.sources)


def _all(rows: Callable[[Compared], list[Row]], compared: Sequence[Compared]) -> list[Row]:
    return [row for one in compared for row in rows(one)]


def _table(name: str, rows: Iterable[Row]) -> Table:
    return Table.of_dicts(name, COLUMNS[name], rows)
