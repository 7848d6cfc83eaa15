"""A plain table: names of columns, and rows of plain values. What every inspection gives."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wvindex.errors import UsageError

Value = Any
"""A str, int, float, bool, None, or a list of numbers or of str."""

_NOT_IN_JSON: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Table:
    """Rows of values by column.

    Attributes
    ----------
    name : str
        What a row is: ``tensors``, ``layers``, ``heads``.
    columns : tuple of str
    rows : tuple of tuple
        As long as `columns` each.
    notes : tuple of str
        What whoever reads the table should know.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of_dicts(
        cls, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Value]], notes: Iterable[str] = ()
    ) -> Table:
        """Make a table of mappings, which may have more than these columns, or lack some."""
        cells = tuple(tuple(row.get(column) for column in columns) for row in rows)
        return cls(name, tuple(columns), cells, tuple(notes))

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Value]]:
        """Give the rows as dictionaries."""
        return iter(self.to_dicts())

    def __getitem__(self, column: str) -> list[Value]:
        """Give a column.

        Raises
        ------
        UsageError
            If there is none of this name.
        """
        place = self._place(column)
        return [row[place] for row in self.rows]

    def to_dicts(self) -> list[dict[str, Value]]:
        """Give the rows as dictionaries."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def select(self, columns: Sequence[str]) -> Table:
        """Give a table of some columns, in the order given; raises as indexing does."""
        places = [self._place(column) for column in columns]
        return replace(
            self, columns=tuple(columns), rows=tuple(tuple(row[i] for i in places) for row in self.rows)
        )

    def sorted(self, column: str, *, descending: bool | None = None) -> Table:
        """Sort by a column; rows that have nothing there, or NaN, come last.

        Parameters
        ----------
        column : str
        descending : bool, optional
            By default numbers fall, and text rises.

        Raises
        ------
        UsageError
            If there is no such column.
        """
        place = self._place(column)
        have = [row for row in self.rows if not _is_missing(row[place])]
        lack = [row for row in self.rows if _is_missing(row[place])]
        falls = not any(isinstance(row[place], str) for row in have) if descending is None else descending
        return replace(self, rows=(*sorted(have, key=lambda row: row[place], reverse=falls), *lack))

    def head(self, n: int) -> Table:
        """Give the first rows."""
        return replace(self, rows=self.rows[:n])

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values: the name, the columns, a dictionary a row, notes.

        Floats that JSON lacks are the strings ``NaN``, ``Infinity`` and ``-Infinity``.
        """
        rows = [{name: to_json(value) for name, value in row.items()} for row in self]
        return {
            "table": self.name,
            "columns": list(self.columns),
            "rows": rows,
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """Give RFC 4180 text: a line of names, a line a row. None is empty; lists are parted by spaces."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return text.getvalue()

    def _place(self, column: str) -> int:
        if column not in self.columns:
            raise UsageError("no such column", field="column", expected=", ".join(self.columns), found=column)
        return self.columns.index(column)


def to_json(value: Value) -> Value:
    """Give a value as JSON has it."""
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Value) -> Value:
    """Read what `to_json` gave of a number or a list of them."""
    if isinstance(value, list):
        return [from_json(one) for one in value]
    return _NOT_IN_JSON.get(value, value) if isinstance(value, str) else value


def _is_missing(value: Value) -> bool:
    return value is None or isinstance(value, list) or (isinstance(value, float) and math.isnan(value))


def _cell(value: Value) -> Value:
    if isinstance(value, list | tuple):
        return " ".join(one if isinstance(one, str) else repr(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else value
