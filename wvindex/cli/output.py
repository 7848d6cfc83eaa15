"""What commands print: facts, tables and JSON on stdout, notes on stderr.

On a terminal rich lays tables out to its width; elsewhere they are plain aligned text, a row a line.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.errors import printable
from wvindex.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wvindex.inspection.table import Table

Row = Sequence[str]

_GAP: Final = 2
"""Spaces between columns."""

_LEAST_ROOM: Final = 16
"""Characters that the first column of a table has on any terminal."""


def emit(text: str = "") -> None:
    """Print text as data."""
    click.echo(printable(text, keep="\n"))


def emit_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, with ``NaN``, ``Infinity`` and ``-Infinity`` as strings."""
    click.echo(json.dumps(json_value(document), indent=2, allow_nan=False))


def note(text: str) -> None:
    """Tell the user something that is not data."""
    click.echo(printable(text), err=True)


def emit_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print labels and values, one pair a line; an empty label carries the value above on."""
    pairs = [(label, printable(value)) for label, value in facts]
    if sys.stdout.isatty():
        _print_rich(_rich_facts(pairs))
        return
    width = max((len(label) for label, _ in pairs), default=0)
    for label, value in pairs:
        click.echo(f"{label:<{width}}  {value}".rstrip())


def emit_table(columns: Row, rows: Iterable[Row], *, right: Sequence[str] = ()) -> None:
    """Print a table.

    Parameters
    ----------
    columns : sequence of str
        Titles. The first column may be folded where a terminal is narrow, the others are not.
    rows : iterable of sequence of str
    right : sequence of str
        Titles of columns that are aligned to the right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(_rich_table(columns, cells, right))
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in ([title.upper() for title in columns], *cells):
        padded = (
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(columns, row, widths, strict=True)
        )
        click.echo((" " * _GAP).join(padded).rstrip())


def require_result(known: Sequence[str], printing: Mapping[str, Any]) -> None:
    """Refuse the options of a table that cannot be printed so, before anything is computed for it.

    Parameters
    ----------
    known : sequence of str
        Columns that the table will have.
    printing : mapping
        What `wvindex.cli.options.table_options` take.

    Raises
    ------
    UsageError
        As `emit_result`.
    """
    from wvindex.inspection.table import Table

    if printing["as_json"] and printing["as_csv"]:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    options = {name: printing[name] for name in ("columns", "sort", "ascending")}
    arranged(Table("", tuple(known), ()), **options)


def emit_result(
    table: Table,
    *,
    shown: Sequence[str],
    columns: str | None = None,
    sort: str | None = None,
    ascending: bool = False,
    as_json: bool = False,
    as_csv: bool = False,
) -> Table:
    """Print what an inspection gives, as the options of `wvindex.cli.options.table_options` say.

    Parameters
    ----------
    table : Table
    shown : sequence of str
        Columns of the text table where `columns` names none; JSON and CSV have all.
    columns, sort, ascending, as_json, as_csv
        The options.

    Returns
    -------
    Table
        What was printed.

    Raises
    ------
    UsageError
        If there is no such column, or two formats are asked for.
    """
    if as_json and as_csv:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    table = arranged(table, columns=columns, sort=sort, ascending=ascending)
    if columns is None and not (as_json or as_csv):
        table = table.select([name for name in table.columns if name in shown])
    if as_json:
        emit_json(table.to_json())
    elif as_csv:
        click.echo(table.to_csv(), nl=False)
    elif not len(table):
        note("nothing matches")
    else:
        numbers = [name for name in table.columns if not any(map(_is_text, table[name]))]
        emit_table(table.columns, [[number_text(one) for one in row] for row in table.rows], right=numbers)
    for text in table.notes:
        note(f"note: {text}")
    return table


def _is_text(value: Any) -> bool:
    """Whether a cell is text, or a list of texts."""
    return isinstance(value, str) or (isinstance(value, list) and any(isinstance(one, str) for one in value))


def arranged(
    table: Table, *, columns: str | None = None, sort: str | None = None, ascending: bool = False
) -> Table:
    """Sort a table and choose its columns, as the options say; raises as `emit_result`."""
    if sort is not None:
        table = table.sorted(sort, descending=False if ascending else None)
    if columns is None or columns == "all":
        return table
    return table.select([name.strip() for name in columns.split(",")])


def number_text(value: Any) -> str:
    """Write a cell: floats with four significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return " ".join(map(number_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def json_value(value: Any) -> Any:
    """Give plain JSON values for mappings, sequences and numbers."""
    if isinstance(value, Mapping):
        return {str(name): json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _rich_facts(pairs: Sequence[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for label, value in pairs:
        grid.add_row(Text(label), Text(value))
    return grid


def _rich_table(columns: Row, cells: Sequence[Row], right: Sequence[str]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    room = shutil.get_terminal_size().columns - sum(widths[1:]) - _GAP * len(widths[1:])
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for position, title in enumerate(columns):
        justify: Any = "right" if title in right else "left"
        least = None if position else min(widths[0], _LEAST_ROOM)
        table.add_column(title, justify=justify, no_wrap=position > 0, overflow="fold", min_width=least)
    for first, *others in cells:
        table.add_row(Text(_broken(first, max(room, _LEAST_ROOM))), *map(Text, others))
    return table


def _broken(name: str, width: int) -> str:
    """Break a name after its dots into lines of at most `width`, so far as it has dots."""
    lines = [""]
    for part in re.split(r"(?<=\.)", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _print_rich(renderable: RenderableType) -> None:
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(renderable)
