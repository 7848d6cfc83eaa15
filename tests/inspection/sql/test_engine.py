"""What a query computes, counted in bytes that are read; and what it can't reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wvindex as wv
from tests.support.packed import REPO_GOLDEN
from tests.support.stores import Stores
from wvindex.errors import UndecodableType, UsageError
from wvindex.inspection.sql.engine import Engine
from wvindex.inspection.sql.on_demand import Statistics
from wvindex.query.database import Store

Q4 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf"


@pytest.fixture
def db(stores: Stores) -> Iterator[Store]:
    """Give a store that keeps nothing, and counts what is read."""
    with wv.open(stores.build(stores.safetensors("mixtral"))) as opened:
        yield opened


def bytes_read(db: Store, query: str) -> int:
    assert db.stats is not None
    before = db.stats.bytes_read
    wv.sql(query, db, keep=False)
    return db.stats.bytes_read - before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT role, sum(nbytes) FROM tensors GROUP BY 1",
        "SELECT key, layer, shape, dims, encoding, count, bits_per_weight FROM tensors ORDER BY nbytes DESC",
        "SELECT layer, tensors, nbytes FROM layers",
        "SELECT count(*) FROM heads",
        "SELECT key, expert, count FROM experts",
        "FROM aliases",
        "FROM config",
        "FROM sources",
        "FROM stores",
        "SHOW TABLES",
        "DESCRIBE tensors",
        "SELECT t.key, a.alias FROM tensors t JOIN aliases a USING (store, key) WHERE t.layer = 0",
        "WITH big AS (SELECT * FROM tensors WHERE nbytes > 100) SELECT count(*), max(nbytes) FROM big",
        "PIVOT tensors ON layer USING sum(nbytes) GROUP BY role",
        "SELECT table_name, column_name FROM duckdb_columns() WHERE table_name = 'tensors'",
        "SELECT kurtosis FROM tensors WHERE layer = 99",
        "SELECT * FROM channels WHERE key = 'none'",
    ],
)
def test_what_headers_tell_reads_no_weight(db: Store, query: str) -> None:
    assert bytes_read(db, query) == 0


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ("SELECT max(kurtosis) FROM tensors WHERE layer = 1", 2),
        ("SELECT key, kurtosis, std FROM tensors WHERE layer = 1 AND kurtosis > -9 ORDER BY std", 2),
        ("WITH t AS (SELECT * FROM tensors) SELECT min(p50) FROM t WHERE layer = 1", 2),
        ("SELECT std FROM tensors JOIN (SELECT 1 AS layer) USING (layer) WHERE layer = 1", 2),
        (
            "SELECT a.std + b.mean FROM tensors a JOIN tensors b USING (layer, key) WHERE layer = 1",
            2,
        ),
        ("SELECT max(l2) FROM rows WHERE layer = 1", 1),
    ],
)
def test_only_the_rows_that_filters_leave_are_computed(db: Store, query: str, passes: int) -> None:
    of_layer = sum(t.nbytes for t in db.select(layer=1))
    assert 0 < bytes_read(db, query) <= passes * of_layer


def test_one_channel_table_of_one_matrix_reads_that_matrix(db: Store) -> None:
    tensor = db["model.layers.1.self_attn.q_proj.weight"]
    read = bytes_read(db, f"SELECT max(absmax) FROM channels WHERE key = '{tensor.key}'")
    assert read == tensor.nbytes


def test_tables_that_are_not_named_are_not_computed(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    rows = Statistics.rows

    def noted(self: Statistics, by: str, subject: str) -> Any:
        asked.append(by)
        return rows(self, by, subject)

    monkeypatch.setattr(Statistics, "rows", noted)
    wv.sql("SELECT avg(std) FROM roles", db, keep=False)
    assert set(asked) == {"role"}


def test_a_table_that_only_a_function_names_is_there(db: Store) -> None:
    for query in ("FROM query_table('layers')", "FROM query('FROM layers')"):
        assert len(wv.sql(query, db, keep=False)) == len(wv.sql("FROM layers", db, keep=False)) > 0


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ATTACH 'other.db'", "ATTACH"),
        ("COPY tensors TO 'stolen.csv'", "COPY"),
        ("INSTALL httpfs", "LOAD"),
        ("LOAD httpfs", "LOAD"),
        ("SET enable_external_access = true", "SET"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("DROP VIEW tensors", "DROP"),
        ("EXPORT DATABASE 'here'", "EXPORT"),
        ("CALL duckdb_functions()", "CALL"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        ("DELETE FROM tensors", "DELETE"),
    ],
)
def test_what_is_no_query_is_refused_by_name(
    query: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        wv.sql(query, Q4)
    assert raised.value.found == found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{}')",
        "SELECT * FROM read_text('{}')",
        "SELECT * FROM read_blob('{}')",
        "SELECT * FROM '{}'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://localhost/x.parquet')",
        "SELECT * FROM secret",
        "SELECT * FROM sqlite_scan('{}', 'x')",
    ],
)
def test_no_file_no_address_and_no_variable_is_in_reach(query: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(UsageError):
        wv.sql(query.format(secret), Q4)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nothing FROM tensors", "nothing"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT 1; SELECT 2", "one query"),
        ("ATTACH 'x'; PIVOT tensors ON layer USING count(*)", "one query"),
        ("", "one query"),
        ("-- nothing", "one query"),
        ("SELECT error('of its own')", "of its own"),
        ("SELECT * FROM tensors WHERE key = ?", "parameter"),
    ],
)
def test_a_bad_query_is_told_in_duckdbs_words_on_one_line(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        wv.sql(query, Q4)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug"), UndecodableType("nobody can")])
def test_what_goes_wrong_in_a_function_is_not_duckdbs(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Statistics, by: str, subject: str) -> Any:
        raise error

    monkeypatch.setattr(Statistics, "rows", fail)
    with pytest.raises(type(error)) as raised:
        wv.sql("SELECT max(std) FROM tensors", Q4)
    assert raised.value is error


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UsageError, match=r"pip install 'wvindex\[sql\]'"):
        wv.sql("SELECT 1", Q4)


def test_progress_never_passes_its_end(db: Store) -> None:
    told: list[tuple[int, int]] = []
    wv.sql("SELECT std FROM tensors", db, keep=False, progress=lambda done, total: told.append((done, total)))
    total = 2 * sum(t.nbytes for t in db.values())
    assert told == sorted(told)
    assert told[-1] == (total, total)


def test_duckdbs_interruption_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Engine, query: str) -> Any:
        raise RuntimeError("Query interrupted")  # what DuckDB's Python raises after SIGINT

    monkeypatch.setattr(Engine, "_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wv.sql("SELECT 1", Q4)
