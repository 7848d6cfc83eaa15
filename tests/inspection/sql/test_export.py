"""``wv.export_sql``: files that others read, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pyarrow.parquet
import pytest

import wvindex as wv
from tests.support.packed import REPO_GOLDEN
from wvindex.errors import StoreError, TargetExists, UsageError
from wvindex.inspection.sql.on_demand import Statistics

Q4 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf"

QUERY = (
    "SELECT key, layer, std, outliers, dims, mapped, 'nan'::DOUBLE AS nan FROM tensors WHERE layer IS NULL"
)

ARROW = {
    "key": "string",
    "layer": "int64",
    "std": "double",
    "outliers": "int64",
    "dims": "list<element: int64>",
    "mapped": "bool",
    "nan": "double",
}


def test_parquet_is_read_by_pyarrow_with_types_nulls_and_nan(tmp_path: Path) -> None:
    path = wv.export_sql(QUERY, tmp_path / "out.parquet", Q4)
    expected = wv.sql(QUERY, Q4)
    found = pyarrow.parquet.read_table(path)
    assert {field.name: str(field.type) for field in found.schema} == ARROW
    for name in expected.columns[:-1]:
        assert found[name].to_pylist() == expected[name]
    assert all(math.isnan(value) for value in found["nan"].to_pylist())
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]


def test_parquet_has_a_name_for_each_column(tmp_path: Path) -> None:
    query = "SELECT * FROM layers JOIN roles USING (store) LIMIT 3"
    found = pyarrow.parquet.read_table(wv.export_sql(query, tmp_path / "out.parquet", Q4))
    assert tuple(found.column_names) == wv.sql(query, Q4).columns
    assert "nbytes_1" in found.column_names


def test_csv_and_json_are_the_tables_own(tmp_path: Path) -> None:
    expected = wv.sql(QUERY, Q4)
    text = wv.export_sql(QUERY, tmp_path / "out.csv", Q4).read_text()
    names, *rows = csv.reader(text.splitlines())
    assert (tuple(names), [row[0] for row in rows]) == (expected.columns, expected["key"])
    assert json.loads(wv.export_sql(QUERY, tmp_path / "out.JSON", Q4).read_text()) == json.loads(
        json.dumps(expected.to_json())
    )


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_what_is_there_is_replaced_only_when_told(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    target.write_text("mine")
    with pytest.raises(TargetExists):
        wv.export_sql(QUERY, target, Q4)
    assert target.read_text() == "mine"
    wv.export_sql(QUERY, target, Q4, overwrite=True)
    assert target.stat().st_size > 100
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_directory_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.parquet").mkdir()
    with pytest.raises(TargetExists):
        wv.export_sql(QUERY, tmp_path / "out.parquet", Q4, overwrite=True)


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
@pytest.mark.parametrize("query", ["SELECT nothing FROM tensors", "SELECT error('late') FROM range(3)"])
def test_a_query_that_fails_leaves_nothing(name: str, query: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        wv.export_sql(query, tmp_path / name, Q4)
    assert list(tmp_path.iterdir()) == []


def test_statistics_that_fail_leave_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.parquet"
    target.write_text("mine")

    def interrupted(self: Statistics, by: str, subject: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Statistics, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wv.export_sql(QUERY, target, Q4, overwrite=True)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("out.parquet", "mine")]


def test_no_other_file_is_in_reach_of_a_query_that_writes(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="disabled"):
        wv.export_sql(f"SELECT * FROM read_csv('{tmp_path}/secret.csv')", tmp_path / "out.parquet", Q4)


def test_formats_and_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such format"):
        wv.export_sql(QUERY, tmp_path / "out.xlsx", Q4)
    with pytest.raises(StoreError):
        wv.export_sql(QUERY, tmp_path / "nowhere" / "out.parquet", Q4)
