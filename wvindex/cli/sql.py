"""``wvindex sql``: questions in SQL over the statistics of stores and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from wvindex.cli.options import csv_option, json_option, out_option
from wvindex.cli.output import emit, emit_result, note
from wvindex.cli.progress import scan_progress
from wvindex.errors import UsageError

if TYPE_CHECKING:
    from wvindex.inspection.table import Table

_NAMED: Final = re.compile(r"([\w.-]*)=(.+)", re.DOTALL)
"""A source with a name; a path that holds a ``=`` has a ``/`` before it, or is not named so."""


@click.command("sql")
@click.argument("arguments", nargs=-1, metavar="[QUERY] [[NAME=]PATH]...")
@click.option("--recipe", metavar="NAME", help="Run a saved query; all arguments are paths then.")
@out_option("Write the rows to FILE.parquet, FILE.csv or FILE.json.")
@click.option("--overwrite", is_flag=True, help="Replace FILE where it is there already.")
@click.option("--no-keep", is_flag=True, help="Compute all of it, and leave the stores' stats/ alone.")
@click.option("--schema", is_flag=True, help="List the tables and their columns, with types and meanings.")
@click.option("--recipes", is_flag=True, help="List the saved queries; with --json, also their text.")
@json_option
@csv_option
def command(
    arguments: tuple[str, ...],
    recipe: str | None,
    out: str | None,
    overwrite: bool,
    no_keep: bool,
    schema: bool,
    recipes: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Answer QUERY, in DuckDB's SQL, over each PATH.

    PATH is a store, or a bare GGUF or safetensors checkpoint; NAME is what the column `store` says, instead
    of the file's name. Without a PATH it is the one store (*.zarr) in the working directory. What a query
    needs of the weights is computed, and nothing else.
    """
    import wvindex as wv

    if schema or recipes:
        _emit(wv.sql_schema() if schema else wv.sql_recipes(), as_json=as_json, as_csv=as_csv)
        return
    query, sources = _question(arguments, recipe)
    with scan_progress() as progress:
        if out is None:
            table = wv.sql(query, *sources, keep=not no_keep, progress=progress)
        else:
            _refuse_formats(as_json=as_json, as_csv=as_csv)
            path = wv.export_sql(
                query, out, *sources, overwrite=overwrite, keep=not no_keep, progress=progress
            )
    if out is None:
        _emit(table, as_json=as_json, as_csv=as_csv)
    else:
        emit(str(path))


def _question(arguments: Sequence[str], recipe: str | None) -> tuple[str, list[Mapping[str, str] | str]]:
    """Give the query, and what it is of."""
    if recipe is not None:
        from wvindex.inspection.sql.recipes import recipe as saved

        query, paths = saved(recipe).query, list(arguments)
    elif arguments:
        query, *paths = arguments
        if Path(query).exists():
            raise UsageError("the query comes before the paths", field="query", found=query)
    else:
        raise UsageError("there is no query", field="query", expected="QUERY, --recipe NAME or --schema")
    return query, [_source(path) for path in paths] or [_only_store()]


def _source(text: str) -> Mapping[str, str] | str:
    named = _NAMED.fullmatch(text)
    return text if named is None or Path(text).exists() else {named[1]: named[2]}


def _only_store() -> str:
    found = sorted(str(path) for path in Path().glob("*.zarr"))
    if len(found) != 1:
        raise UsageError(
            "a query is of something: name a store or a checkpoint",
            field="path",
            expected="one *.zarr in the working directory",
            found=", ".join(found) or "none",
        )
    note(f"note: of {found[0]}, the one store here")
    return found[0]


def _refuse_formats(*, as_json: bool, as_csv: bool) -> None:
    if as_json or as_csv:
        raise UsageError("the format of a file is its name's", field="out", found="--json or --csv")


def _emit(table: Table, *, as_json: bool, as_csv: bool) -> None:
    """Print a table; in text a truth is a word, for an empty cell is NULL."""
    if not as_json and not as_csv:
        words = {True: "true", False: "false"}
        rows = tuple(tuple(words[one] if isinstance(one, bool) else one for one in row) for row in table.rows)
        table = replace(table, rows=rows)
    hidden = {"query"} if table.name == "recipes" else set()
    shown = [name for name in table.columns if name not in hidden]
    emit_result(table, shown=shown, as_json=as_json, as_csv=as_csv)
