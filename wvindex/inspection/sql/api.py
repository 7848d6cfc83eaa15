"""``wvindex.sql``: a query over the statistics of stores and checkpoints."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from wvindex.errors import UsageError
from wvindex.inspection.collect import Progress
from wvindex.inspection.sql.engine import Engine
from wvindex.inspection.sql.export import TEXTS, write_text
from wvindex.inspection.sql.on_demand import Meter
from wvindex.inspection.sql.relations import TABLES
from wvindex.inspection.table import Table
from wvindex.opening import open as open_any
from wvindex.query.database import Store
from wvindex.store.outputs import output_file

FORMATS: Final = (".parquet", *TEXTS)

Source = Store | str | os.PathLike[str]


def sql(
    query: str,
    *sources: Source | Mapping[str, Source],
    keep: bool = True,
    progress: Progress | None = None,
) -> Table:
    """Ask a question in SQL, in DuckDB's dialect.

    `sql_schema` tells the tables and their columns. All have a column ``store``, and the rows of every
    source. Only what a query needs of its rows is computed, exactly as `wvindex.stats` does: a query for
    keys, shapes, encodings, bytes and counts reads no weight.

    Parameters
    ----------
    query : str
        One SELECT (or FROM, WITH, PIVOT, DESCRIBE, SUMMARIZE).
    *sources : Store, path, URL, or mapping of str to these
        Stores and bare checkpoints. A mapping gives their names; else a source's name is its file's,
        without the suffix.
    keep : bool
        Whether to take what stores have in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_at_most)``.

    Returns
    -------
    Table
        Of int, float, str, bool, None and lists; decimals are floats, structs are JSON, dates and the
        like are text. Columns of one name are numbered: ``key``, ``key_1``.

    Raises
    ------
    UsageError
        If DuckDB refuses the query, it is no single query, there is no source, one has an empty name, two
        have one name, or DuckDB is not installed.
    UndecodableType
        If statistics are asked of a tensor that nobody decodes.
    """
    with _opened(sources) as stores:
        engine = Engine(stores, keep=keep, meter=Meter(progress))
        with engine:
            columns, rows = engine.rows(query)
    cells = tuple(tuple(map(_plain, row)) for row in rows)
    return Table("result", tuple(columns), cells, tuple(engine.notes))


def export_sql(
    query: str,
    output: str | os.PathLike[str],
    *sources: Source | Mapping[str, Source],
    overwrite: bool = False,
    keep: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write what a query gives to a file: whole, or not at all.

    Parameters
    ----------
    query, *sources, keep, progress
        As `sql` takes them.
    output : path
        ``.parquet`` (written by DuckDB as rows come), ``.csv``, or ``.json`` (what ``wvindex sql --json``
        prints).
    overwrite : bool
        Whether a file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        As `sql`; or if the name ends otherwise.
    TargetExists
        If something is there, and may not be replaced.
    StoreError
        If it cannot be written.
    """
    target = Path(output)
    if target.suffix.lower() not in FORMATS:
        raise UsageError("no such format", file=target, field="output", expected=", ".join(FORMATS))
    with output_file(target, overwrite=overwrite) as path:
        if path.suffix.lower() in TEXTS:
            write_text(sql(query, *sources, keep=keep, progress=progress), path)
        else:
            with (
                _opened(sources) as stores,
                Engine(stores, keep=keep, meter=Meter(progress), output=path.parent) as engine,
            ):
                engine.write_parquet(query, path)
    return target


def sql_schema() -> Table:
    """Give the tables that queries may name, and their columns.

    Returns
    -------
    Table
        ``table``, ``column``, ``type``, ``computed`` (whether it takes a pass over weights), ``meaning``.
    """
    rows = [
        {
            "table": relation.name,
            "column": column.name,
            "type": column.type,
            "computed": column in relation.computed,
            "meaning": column.meaning,
        }
        for relation in TABLES.values()
        for column in relation.columns
    ]
    return Table.of_dicts("schema", ("table", "column", "type", "computed", "meaning"), rows)


@contextmanager
def _opened(sources: Sequence[Source | Mapping[str, Source]]) -> Iterator[dict[str, Store]]:
    """Open what is not open, and close that again."""
    named = _named(sources)
    with ExitStack() as stack:
        yield {
            name: source if isinstance(source, Store) else stack.enter_context(open_any(source))
            for name, source in named
        }


def _named(sources: Sequence[Source | Mapping[str, Source]]) -> list[tuple[str, Source]]:
    named: list[tuple[str, Source]] = []
    for one in sources:
        if isinstance(one, Store | str | os.PathLike):
            named.append((source_name(one), one))
        else:
            named += one.items()
    if not named:
        raise UsageError("a query is of something: give a store or a checkpoint", field="sources")
    if any(not name for name, _ in named):
        raise UsageError("a source has an empty name", field="sources", expected="NAME=PATH", found="=PATH")
    name, count = Counter(name for name, _ in named).most_common(1)[0]
    if count > 1:
        raise UsageError(
            "several sources have one name: name them apart",
            field="sources",
            expected="NAME=PATH",
            found=name,
        )
    return named


def source_name(source: Source) -> str:
    """Give the name of a source that was given none: its file's, without the suffix."""
    text = str(source.path) if isinstance(source, Store) else os.fspath(source)
    path = Path(urlsplit(text).path) if "://" in text else Path(text)
    named = path if path.name not in {"", ".."} else path.resolve()
    return named.stem or text


def _plain(value: Any) -> Any:
    """Give a value of DuckDB's as a table holds it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return json.dumps({str(name): _plain(one) for name, one in value.items()})
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
