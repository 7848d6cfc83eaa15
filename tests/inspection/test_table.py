"""A table: columns by name, sorting with what is missing last, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from wvindex.errors import UsageError
from wvindex.inspection.table import Table, from_json

ROWS = (
    {"key": "b", "std": 1.5, "n": 2, "dead": False, "values": [1.0, 0.5]},
    {"key": "a", "std": math.nan, "n": 3, "dead": True, "values": []},
    {"key": 'c,"d"', "std": math.inf, "n": 1, "dead": False},
)
TABLE = Table.of_dicts("things", ("key", "std", "n", "dead", "values"), ROWS, ["a note"])


def test_rows_are_dictionaries_and_columns_lists() -> None:
    assert TABLE.to_dicts()[0] == ROWS[0]
    assert TABLE["n"] == [2, 3, 1]
    assert list(TABLE)[2]["values"] is None
    assert len(TABLE) == 3


def test_numbers_fall_and_text_rises() -> None:
    assert TABLE.sorted("n")["n"] == [3, 2, 1]
    assert TABLE.sorted("key")["key"] == ["a", "b", 'c,"d"']
    assert TABLE.sorted("n", descending=False)["n"] == [1, 2, 3]


@pytest.mark.parametrize("descending", [True, False])
def test_what_is_missing_comes_last(descending: bool) -> None:
    assert TABLE.sorted("std", descending=descending)["key"][-1] == "a"


def test_some_columns_in_another_order() -> None:
    assert TABLE.select(["n", "key"]).rows == ((2, "b"), (3, "a"), (1, 'c,"d"'))


@pytest.mark.parametrize("ask", [lambda t: t["x"], lambda t: t.sorted("x"), lambda t: t.select(["x"])])
def test_an_unknown_column_is_named(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UsageError, match=r"no such column .* found: x"):
        ask(TABLE)


def test_json_is_strict_and_reads_back() -> None:
    document = json.loads(json.dumps(TABLE.to_json(), allow_nan=False))
    assert [row["std"] for row in document["rows"]] == [1.5, "NaN", "Infinity"]
    assert from_json(document["rows"][2]["std"]) == math.inf
    assert document["columns"] == list(TABLE.columns)
    assert document["notes"] == ["a note"]


def test_csv_reads_back() -> None:
    names, *lines = csv.reader(io.StringIO(TABLE.to_csv()))
    assert names == list(TABLE.columns)
    assert lines == [
        ["b", "1.5", "2", "false", "1.0 0.5"],
        ["a", "nan", "3", "true", ""],
        ['c,"d"', "inf", "1", "false", ""],
    ]
