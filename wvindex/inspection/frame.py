"""``Store.frame``: a table of statistics as Arrow or pandas, with the types of its columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Literal

from wvindex.errors import UsageError
from wvindex.extras import install_hint
from wvindex.inspection.collect import Progress
from wvindex.inspection.sql.on_demand import Meter, Statistics
from wvindex.inspection.sql.relations import RELATIONS, Relation
from wvindex.inspection.sql.schema import Column
from wvindex.inspection.tensor_stats import Row
from wvindex.opening import open as open_any
from wvindex.query.database import Store

Kind = Literal["auto", "arrow", "pandas"]

_MODULES: Final = {"arrow": "pyarrow", "pandas": "pandas"}

_ARROW: Final = {"VARCHAR": "string", "BIGINT": "int64", "DOUBLE": "float64", "BOOLEAN": "bool_"}
_PANDAS: Final = {"VARCHAR": "object", "BIGINT": "Int64", "DOUBLE": "float64", "BOOLEAN": "boolean"}


def frame(
    source: Store | str | os.PathLike[str],
    table: str = "tensors",
    kind: Kind = "auto",
    *,
    keep: bool = True,
    progress: Progress | None = None,
) -> Any:
    """Give a whole table of `wvindex.sql` for one store, without its column ``store``.

    Parameters
    ----------
    source : Store, path or URL
    table : str
        ``tensors``, ``spectra``, ``layers``, ``roles``, ``heads``, ``experts``, ``features``, ``channels``,
        ``rows``, ``stores``, ``config``, ``aliases`` or ``sources``; see `wvindex.sql_schema`.
    kind : {"auto", "arrow", "pandas"}
        A ``pyarrow.Table`` or a ``pandas.DataFrame``; by default Arrow where it is installed, else pandas.
    keep : bool
        Whether to take what the store has in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``.

    Returns
    -------
    pyarrow.Table or pandas.DataFrame
        Numbers are 64 bits wide; NaN is NaN. What is missing is null, or in pandas ``<NA>`` for integers and
        booleans, None for text, and NaN for floats.

    Raises
    ------
    UsageError
        If there is no such table or kind, or what it takes is not installed.
    UndecodableType
        If nobody decodes the encoding of a tensor that the table needs.
    """
    if table not in RELATIONS:
        raise UsageError("no such table", field="table", expected=", ".join(RELATIONS), found=table)
    chosen = _installed(kind)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        statistics = Statistics(db, keep=keep, meter=Meter(progress))
        try:
            rows = _rows(RELATIONS[table], statistics)
        finally:
            statistics.save()
    columns = [column for column in RELATIONS[table].columns if column.name != "store"]
    return _arrow(columns, rows) if chosen == "arrow" else _pandas(columns, rows)


def _installed(kind: str) -> str:
    if kind not in ("auto", *_MODULES):
        raise UsageError("no such kind", field="kind", expected="auto, arrow, pandas", found=kind)
    wanted = list(_MODULES) if kind == "auto" else [kind]
    for name in wanted:
        if find_spec(_MODULES[name]) is not None:
            return name
    needed = " or ".join(_MODULES[name] for name in wanted)
    raise UsageError(f"frames need {needed}: {install_hint(_MODULES[wanted[0]])}", field="kind", found=kind)


def _rows(relation: Relation, statistics: Statistics) -> list[Row]:
    if relation.by is not None:
        statistics.expect(relation.by)
    return [
        base.cells | computed
        for base in relation.base(statistics)
        for computed in (base.compute() if base.compute is not None else [{}])
    ]


def _arrow(columns: Sequence[Column], rows: Sequence[Row]) -> Any:
    arrow = import_module("pyarrow")

    def typed(column: Column) -> Any:
        one = getattr(arrow, _ARROW[column.type.removesuffix("[]")])()
        return arrow.list_(one) if column.type.endswith("[]") else one

    schema = arrow.schema([(column.name, typed(column)) for column in columns])
    cells = [[row.get(column.name) for row in rows] for column in columns]
    return arrow.table(cells, schema=schema)


def _pandas(columns: Sequence[Column], rows: Sequence[Row]) -> Any:
    pandas = import_module("pandas")
    return pandas.DataFrame(
        {
            column.name: pandas.Series(
                [row.get(column.name) for row in rows], dtype=_PANDAS.get(column.type, "object")
            )
            for column in columns
        }
    )
