"""DuckDB over the tables: it decides which columns of which rows a query needs, and asks for those.

Every table is a view. What headers tell of its rows stands in a table of DuckDB's own, filled where a
query names the view. What must be computed is a function of the row, which DuckDB calls for the rows that its
filters leave, and not at all where a query uses no such column. Rows travel as JSON, the one form that takes
NaN, and is fast, in every version of DuckDB.

The database is in memory, and locked before the query runs: no file but the one that is to be written, no
extension, no setting, no Python variable is in its reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from wvindex.errors import StoreError, UsageError
from wvindex.extras import install_hint
from wvindex.inspection.sql.on_demand import Meter, Statistics
from wvindex.inspection.sql.relations import DIFFERENCE_RELATIONS, TABLES, Compute, Relation
from wvindex.inspection.sql.schema import Column, json_structure
from wvindex.inspection.sql.views import (
    COMPUTE,
    ID,
    KNOWN,
    SCHEMA,
    known_columns,
    quoted_name,
    quoted_text,
    table_name,
    view_query,
)
from wvindex.query.database import Store

if TYPE_CHECKING:
    import duckdb

_READS: Final = frozenset({"SELECT", "MULTI"})
"""Kinds of statement that may run. MULTI is a PIVOT, which first looks for its columns."""

_SPECIAL: Final[Any] = "special"
"""Have NULL passed as None. The enumeration that DuckDB has for it stands elsewhere in every version."""

_INTERRUPTED: Final = "Query interrupted"
"""What DuckDB's Python makes of Ctrl-C in the middle of its own work."""

_SETTINGS: Final = {
    "threads": 1,  # statistics have threads of their own, and Ctrl-C reaches this one
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class Engine:
    """Runs one query over some stores, then is closed.

    Parameters
    ----------
    stores : mapping of str to Store
        By the names that queries see.
    keep : bool
        Whether to take what the stores have in ``stats/``, and to leave there what is new.
    meter : Meter
    output : Path, optional
        The directory that may be written.

    Raises
    ------
    UsageError
        If DuckDB is not installed.
    """

    def __init__(
        self, stores: Mapping[str, Store], *, keep: bool, meter: Meter, output: Path | None = None
    ) -> None:
        self._duckdb = _duckdb()
        self._output = output
        self._statistics: dict[str, Statistics] = {}
        for name, db in stores.items():
            first = next(iter(self._statistics.values()), None)
            self._statistics[name] = Statistics(db, keep=keep, meter=meter, name=name, reference=first)
        self._tables = dict(TABLES)
        self._computes: dict[str, list[Compute | None]] = {}
        self._failure: BaseException | None = None
        self._connection: duckdb.DuckDBPyConnection = self._duckdb.connect(":memory:", config=_SETTINGS)

    def __enter__(self) -> Self:
        """Give itself, with every table known."""
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for relation in self._tables.values():
            self._declare(relation)
        if self._output is not None:
            self._connection.execute(f"SET allowed_directories = [{quoted_text(f'{self._output}/')}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was computed, also where somebody had enough."""
        self._connection.close()
        for statistics in self._statistics.values():
            statistics.save()

    @property
    def notes(self) -> list[str]:
        """What whoever reads a result should know, once the engine is closed."""
        return list(dict.fromkeys(note for one in self._statistics.values() for note in one.notes))

    def rows(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query; give the names of its columns, no two alike, and its rows.

        Raises
        ------
        UsageError
            If it is no single query, or DuckDB refuses it.
        WvindexError
            If statistics that it needs cannot be computed.
        """
        with self._reported():
            result = self._result(query)
            return result.columns, result.fetchall()

    def write_parquet(self, query: str, path: Path) -> None:
        """Run a query and write its rows as they come; raises as `rows` does."""
        with self._reported():
            self._result(query).write_parquet(str(path), compression="zstd")

    def _declare(self, relation: Relation) -> None:
        """Have DuckDB know a table and its columns, so that it tells which tables a query names."""
        self._make_table(relation, relation.columns)
        names = ", ".join(quoted_name(one.name) for one in relation.columns)
        self._make_view(relation, f"SELECT {names} FROM {table_name(relation)}")

    def _make_table(self, relation: Relation, columns: Iterable[Column]) -> None:
        typed = ", ".join(f"{quoted_name(one.name)} {one.type}" for one in columns)
        self._connection.execute(f"CREATE OR REPLACE TABLE {table_name(relation)} ({typed})")

    def _make_view(self, relation: Relation, query: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE VIEW {quoted_name(relation.name)} AS {query}")

    def _result(self, query: str) -> duckdb.DuckDBPyRelation:
        self._require_query(query)
        self._load_named(query)
        try:
            result = self._connection.sql(query)
        except self._duckdb.CatalogException:  # a table was named where DuckDB does not look for names
            self._load(self._tables.values())
            result = self._connection.sql(query)
        return self._distinct(result)

    def _distinct(self, result: duckdb.DuckDBPyRelation | None) -> duckdb.DuckDBPyRelation:
        """Give a result whose columns have different names."""
        if result is None:
            raise UsageError("the query gives no rows", field="query")
        names = _distinct(result.columns)
        if names == result.columns:
            return result
        quoted = ", ".join(map(quoted_name, names))
        named = f"SELECT * FROM wvindex_result AS wvindex_result({quoted})"
        return self._distinct(result.query("wvindex_result", named))

    def _require_query(self, query: str) -> None:
        statements = self._connection.extract_statements(query)
        kinds = [_kind(statement) for statement in statements if _text(statement)]
        if len(kinds) < len(statements):  # what DuckDB 1 makes of a PIVOT has no text
            kinds.append("MULTI")
        if len(kinds) != 1:
            raise UsageError("one query at a time", field="query", expected=1, found=len(kinds))
        if kinds[0] not in _READS:
            raise UsageError("only queries are run", field="query", expected="SELECT", found=kinds[0])

    def _load_named(self, query: str) -> None:
        """Fill the tables that a query names, and remove the others: none is read that was not filled."""
        try:
            named = self._connection.get_table_names(query)
        except self._duckdb.Error:  # a PIVOT, or what is refused once it is run
            named = set()
        chosen = [one for one in self._tables.values() if f"{KNOWN}{one.name}" in named]
        if len(self._statistics) < 2:
            self._forget_differences(chosen)
        for relation in self._tables.values():
            self._connection.execute(f"DROP TABLE {table_name(relation)}")
        self._load(chosen or self._tables.values())  # all of them for SHOW TABLES and the like

    def _forget_differences(self, chosen: Sequence[Relation]) -> None:
        """Remove the tables that take two sources, and refuse a query that names one."""
        if any(relation.name in DIFFERENCE_RELATIONS for relation in chosen):
            raise UsageError("a difference is of two sources", field="sources", found=len(self._statistics))
        for name in DIFFERENCE_RELATIONS:
            self._connection.execute(f"DROP VIEW {quoted_name(name)}")
            del self._tables[name]

    def _load(self, relations: Iterable[Relation]) -> None:
        for relation in relations:
            if relation.name not in self._computes:
                self._fill(relation)

    def _fill(self, relation: Relation) -> None:
        """Write down what headers tell of a table's rows, and how the rest is computed."""
        rows: list[dict[str, Any]] = []
        computes = self._computes[relation.name] = []
        for store, statistics in self._statistics.items():
            for base in relation.base(statistics):
                cells = {column.name: base.cells.get(column.name) for column in relation.known}
                rows.append(cells | {ID: len(rows), "store": store})
                computes.append(base.compute)
            if relation.by is not None:
                statistics.expect(relation.by)
        structure = json_structure(known_columns(relation))
        self._make_table(relation, known_columns(relation))
        self._connection.execute(
            f"INSERT INTO {table_name(relation)} BY NAME "
            f"SELECT unnest(from_json($1, {quoted_text(f'[{structure}]')}), recursive := true)",
            [json.dumps(rows)],
        )
        if relation.computed:
            self._connection.create_function(
                f"{COMPUTE}{relation.name}",
                partial(self._computed, relation),
                [self._connection.type("BIGINT")],
                self._connection.type("VARCHAR"),
                null_handling=_SPECIAL,
            )
        self._make_view(relation, view_query(relation))

    def _computed(self, relation: Relation, row: int | None) -> str | None:
        """Give what is computed of a row, as JSON; DuckDB calls this."""
        computes = self._computes[relation.name]
        call = computes[row] if row is not None and 0 <= row < len(computes) else None
        if call is None:
            return None
        try:
            found = [{column.name: one.get(column.name) for column in relation.computed} for one in call()]
        except BaseException as error:
            self._failure = error  # DuckDB makes an error of its own of it
            raise
        return json.dumps(found if relation.many else found[0])

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Give errors as ours: those of statistics as they were, those of DuckDB with its message."""
        try:
            yield
        except self._duckdb.Error as error:
            if self._failure is not None:
                raise self._failure from None
            if isinstance(error, self._duckdb.IOException) and self._output is not None:
                raise StoreError(f"the output cannot be written: {_message(error)}") from error
            raise UsageError(_message(error), field="query") from error
        except RuntimeError as error:
            if str(error) == _INTERRUPTED:
                raise KeyboardInterrupt from error
            raise


def _duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ImportError as error:
        raise UsageError(f"queries need DuckDB: {install_hint('duckdb')}", field="query") from error


def _text(statement: duckdb.Statement) -> str:
    try:
        return statement.query
    except IndexError:  # DuckDB 1 loses the text of what stands before a PIVOT
        return "lost"


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # DuckDB knows statements that its Python does not
        return "another statement"


def _message(error: Exception) -> str:
    """Give DuckDB's message on one line, without the picture of where it stands."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that stand several times, as DuckDB does in data frames: ``key``, ``key_1``."""
    found: dict[str, str] = {}  # by what DuckDB takes for the same name
    given = {name.lower() for name in names}
    for name in names:
        fresh, number = name, 0
        while fresh.lower() in found or (number and fresh.lower() in given):
            number += 1
            fresh = f"{name}_{number}"
        found[fresh.lower()] = fresh
    return list(found.values())
