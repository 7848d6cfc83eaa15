"""``Store.frame``: whole tables as Arrow and pandas, with the types and values of `wv.sql`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pandas
import pyarrow
import pytest

import wvindex as wv
from tests.support.packed import REPO_GOLDEN
from tests.support.stores import Stores
from wvindex.errors import UsageError
from wvindex.inspection.sql.relations import RELATIONS
from wvindex.query.database import Store

Q4 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf"


@pytest.fixture
def db() -> Iterator[Store]:
    with wv.open(Q4) as opened:
        yield opened


@pytest.mark.parametrize("name", ["tensors", "heads", "layers", "spectra", "aliases", "stores", "config"])
def test_both_kinds_hold_what_sql_gives(name: str, db: Store) -> None:
    columns = [column.name for column in RELATIONS[name].columns if column.name != "store"]
    expected = wv.sql(f"SELECT {', '.join(columns)} FROM {name}", db)
    arrow = db.frame(name, "arrow")
    assert isinstance(arrow, pyarrow.Table)
    assert arrow.column_names == columns
    assert repr([tuple(row.values()) for row in arrow.to_pylist()]) == repr(list(expected.rows))
    frame = db.frame(name, "pandas")
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == columns
    for column in columns:
        missing = [repr(value) in {"None", "nan"} for value in expected[column]]
        assert frame[column].isna().tolist() == missing
        assert [v for v, gone in zip(frame[column].tolist(), missing, strict=True) if not gone] == [
            v for v, gone in zip(expected[column], missing, strict=True) if not gone
        ]


def test_channels_are_many_rows_of_each_matrix(db: Store) -> None:
    frame = db.frame("channels", "arrow")
    assert len(frame) == sum(t.shape[-1] for t in db.values() if t.ndim > 1)


def test_types_do_not_depend_on_the_values(db: Store, stores: Stores) -> None:
    with wv.open(stores.safetensors("mixtral")) as other:
        for name in ("tensors", "experts"):
            assert db.frame(name, "arrow").schema == other.frame(name, "arrow").schema
            assert db.frame(name, "pandas").dtypes.equals(other.frame(name, "pandas").dtypes)


def test_automatic_is_arrow_else_pandas(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(wv.frame(Q4, "config"), pyarrow.Table)
    without(monkeypatch, "pyarrow")
    assert isinstance(db.frame("config"), pandas.DataFrame)


@pytest.mark.parametrize(
    ("kind", "gone", "message"),
    [
        ("arrow", ["pyarrow"], "pip install pyarrow"),
        ("pandas", ["pandas"], "pip install pandas"),
        ("auto", ["pyarrow", "pandas"], "pyarrow or pandas"),
    ],
)
def test_what_is_not_installed_is_named(
    kind: Any, gone: list[str], message: str, db: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *gone)
    with pytest.raises(UsageError, match=message):
        db.frame("tensors", kind)


def test_it_does_not_take_duckdb(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert len(db.frame("layers", "arrow")) == 4


@pytest.mark.parametrize(("table", "kind"), [("tensor", "auto"), ("diff", "auto"), ("tensors", "polars")])
def test_unknown_tables_and_kinds_are_refused(table: str, kind: Any, db: Store) -> None:
    with pytest.raises(UsageError, match="no such"):
        db.frame(table, kind)


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have modules not be found."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "wvindex.inspection.frame.find_spec", lambda name: None if name in modules else find(name)
    )
