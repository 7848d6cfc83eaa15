"""``wv.sql``: what NumPy has on decoded arrays, over any sources, in the types that the columns have."""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.packed import REPO_GOLDEN
from tests.support.stores import Stores
from wvindex.errors import UsageError
from wvindex.inspection.sql.relations import DIFFERENCE_RELATIONS, TABLES

Q4, Q2 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", REPO_GOLDEN / "llama-tiny-Q2_K.gguf"

PYTHON_TYPES = {"VARCHAR": str, "BIGINT": int, "DOUBLE": float, "BOOLEAN": bool}


@pytest.fixture(scope="module")
def decoded() -> dict[str, Any]:
    with wv.open(Q4) as db:
        return {key: tensor[:].astype(np.float64) for key, tensor in db.items()}


def test_the_question_of_the_documentation(decoded: dict[str, Any]) -> None:
    found = wv.sql("SELECT key, layer, role, kurtosis FROM tensors ORDER BY 4 DESC NULLS LAST", Q4)
    assert sorted(found["key"]) == sorted(decoded)
    for key, layer, role, kurtosis in found.rows:
        values = decoded[key]
        deviations = values - values.mean()
        square = (deviations**2).mean()
        expected = (deviations**4).mean() / square**2 - 3 if square else math.nan
        assert kurtosis == pytest.approx(expected, rel=1e-9, nan_ok=True)
        place = key.removeprefix(f"model.layers.{layer}.")
        assert role == place.removesuffix(".weight")


def test_quantiles_and_moments_are_numpys(decoded: dict[str, Any]) -> None:
    found = wv.sql("SELECT key, mean, std, absmax, zeros, p0_1, p75 FROM tensors WHERE layer = 1", Q4)
    assert len(found) == sum(key.startswith("model.layers.1.") for key in decoded)
    for key, mean, std, absmax, zeros, p0_1, p75 in found.rows:
        values = decoded[key]
        assert mean == pytest.approx(values.mean(), abs=1e-12)
        assert std == pytest.approx(values.std(), rel=1e-12)
        assert (absmax, zeros) == (np.abs(values).max(), np.count_nonzero(values == 0))
        assert p0_1 == np.quantile(values, 0.001, method="inverted_cdf")
        assert p75 == np.quantile(values, 0.75, method="inverted_cdf")


def test_channels_and_rows_are_columns_and_rows(decoded: dict[str, Any]) -> None:
    key = "model.layers.2.mlp.down_proj.weight"
    of = f"WHERE key = '{key}' ORDER BY"
    channels = wv.sql(f"SELECT absmax, l2 FROM channels {of} channel", Q4)
    rows = wv.sql(f"SELECT l2, max FROM rows {of} row", Q4)
    values = decoded[key]
    assert channels["absmax"] == np.abs(values).max(axis=0).tolist()
    np.testing.assert_allclose(channels["l2"], np.linalg.norm(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(rows["l2"], np.linalg.norm(values, axis=1), rtol=1e-12)
    assert rows["max"] == values.max(axis=1).tolist()


def test_singular_values_are_a_list(decoded: dict[str, Any]) -> None:
    key = "model.layers.0.self_attn.k_proj.weight"
    (row,) = wv.sql(f"SELECT singular_values, spectral_norm FROM spectra WHERE key = '{key}'", Q4)
    expected = np.linalg.svd(decoded[key], compute_uv=False)[:8]
    np.testing.assert_allclose(row["singular_values"], expected, rtol=1e-6)
    assert row["spectral_norm"] == row["singular_values"][0]


def test_heads_and_their_products(stores: Stores) -> None:
    with wv.open(stores.gguf("llama")) as db:
        q, k = (db[f"model.layers.1.self_attn.{one}_proj.weight"] for one in "qk")
        found = wv.sql("SELECT head, kv_head, qk_norm FROM heads WHERE layer = 1", db)
        assert found["head"] == list(range(q.heads or 0))
        for head, kv_head, norm in found.rows:
            product = q.head(head)[:].astype(np.float64).T @ k.head(kv_head)[:].astype(np.float64)
            assert norm == pytest.approx(np.linalg.norm(product), rel=1e-6)


def test_experts(stores: Stores) -> None:
    with wv.open(stores.safetensors("mixtral")) as db:
        found = wv.sql("SELECT key, expert, count, l2, dead FROM experts", db)
        assert len(found) == sum(len(t) for t in db.values() if t.ndim == 3)
        for key, expert, count, l2, dead in found.rows:
            values = db[key].expert(expert)[:].astype(np.float64)
            assert (count, dead) == (values.size, False)
            assert l2 == pytest.approx(np.linalg.norm(values), rel=1e-9)


@pytest.mark.parametrize("name", ["layers", "roles"])
def test_layers_and_roles_are_those_of_stats(name: str) -> None:
    by: Any = name.removesuffix("s")
    expected = wv.stats(Q4, by=by)
    found = wv.sql(f"SELECT {', '.join(expected.columns)} FROM {name}", Q4)
    assert found.to_dicts() == expected.to_dicts()


def test_what_headers_tell() -> None:
    with wv.open(EXAMPLE) as db:
        bits = wv.sql("SELECT role, sum(nbytes), sum(count) FROM tensors GROUP BY role", db)
        expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for key, tensor in db.items():
            role = key.split(".", 3)[3] if key.startswith("model.layers.") else key
            expected[role.removesuffix(".weight")] += Counter(nbytes=tensor.nbytes, size=tensor.size)
        assert {role: (n, s) for role, n, s in bits.rows} == {
            role: (one["nbytes"], one["size"]) for role, one in expected.items()
        }
        shapes = wv.sql("SELECT key, dims, encoding, exactness, dtype FROM tensors", db)
        assert shapes.rows == tuple(
            (t.key, list(t.shape), t.encoding, t.exactness, str(t.dtype)) for t in db.values()
        )
        aliases = wv.sql("SELECT key, alias FROM aliases", db)
        assert aliases.rows == tuple((t.key, alias) for t in db.values() for alias in t.aliases)
        settings: dict[str, str] = dict(wv.sql("SELECT key, value FROM config", db).rows)
        assert settings["model_type"] == db.config.model_type
        assert int(settings["hidden_size"]) == db.config.hidden_size


@pytest.mark.parametrize("built", [True, False])
def test_the_ledger_has_every_source_tensor(stores: Stores, built: bool) -> None:
    source = stores.safetensors("mixtral")
    ledger = wv.plan(source, mla="keep").ledger
    found = wv.sql("SELECT source, key, file, reason FROM sources", stores.build(source) if built else source)
    expected = {(one.tensor, key, one.file, one.reason) for one in ledger for key in one.keys or (None,)}
    assert set(found.rows) == expected
    assert {one.tensor for one in ledger} == set(found["source"])


def test_several_sources_are_one_table(stores: Stores) -> None:
    found = wv.sql("SELECT store, count(*) FROM tensors GROUP BY 1 ORDER BY 1", {"four": Q4}, Q2)
    with wv.open(Q4) as db:
        assert found.rows == (("four", len(db)), ("llama-tiny-Q2_K", len(db)))


def test_a_store_answers_from_what_it_keeps(stores: Stores, tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores.build(stores.gguf("llama")), tmp_path / "model.zarr"))
    query = "SELECT key, std, p50 FROM tensors"
    first = wv.sql(query, store)
    assert (store / "stats" / "tensor.json").is_file()
    with wv.open(store) as db:
        assert db.stats is not None
        assert wv.sql(query, db).rows == first.rows == wv.stats(db).select(first.columns).rows
        assert db.stats.bytes_read == 0
    shutil.rmtree(store / "stats")
    assert wv.sql(query, store, keep=False).rows == first.rows
    assert not (store / "stats").exists()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_the_columns_and_types_of_the_schema(name: str) -> None:
    schema = [row for row in wv.sql_schema() if row["table"] == name]
    names = [row["column"] for row in schema]
    sources = [Q4, Q2] if name in DIFFERENCE_RELATIONS else [Q4]
    found = wv.sql(f"SELECT {', '.join(names)} FROM {name} LIMIT 20", *sources)  # none has to be quoted
    assert len(found) or name == "experts"
    for row in schema:
        kind = PYTHON_TYPES.get(row["type"], list)
        assert all(value is None or type(value) is kind for value in found[row["column"]])


def test_duckdb_describes_the_schema() -> None:
    query = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
    found = wv.sql(f"{query} AND schema_name = 'main' ORDER BY ALL", Q4, Q2)
    assert found.rows == tuple(sorted((row["table"], row["column"], row["type"]) for row in wv.sql_schema()))


def test_every_column_says_what_it_means() -> None:
    assert all(row["meaning"] for row in wv.sql_schema())
    assert {row["table"] for row in wv.sql_schema()} == set(TABLES)


def test_nan_stays_nan_and_null_is_none(stores: Stores) -> None:
    """Of weights that are all one, kurtosis is no number; of a vector nothing is an outlier."""
    with wv.open(stores.gguf("llama")) as db:
        constant = {t.key for t in db.values() if np.ptp(t[:]) == 0}
        found = wv.sql("SELECT key, kurtosis, outliers, layer FROM tensors", db)
        for key, kurtosis, outliers, layer in found.rows:
            assert math.isnan(kurtosis) == (key in constant)
            assert (outliers is None) == (db[key].ndim == 1)
            assert (layer is None) == (not key.startswith("model.layers."))
    found = wv.sql("SELECT 'nan'::DOUBLE, NULL, 'inf'::DOUBLE, ['nan'::DOUBLE, NULL]", Q4)
    nan, null, inf, (one, other) = found.rows[0]
    assert math.isnan(nan) and null is None and inf == math.inf and math.isnan(one) and other is None


def test_kinds_of_values_that_tables_lack() -> None:
    query = (
        "SELECT 1.25 AS decimal, DATE '2020-02-29' AS day, {'a': 1, 'b': [1, 2]} AS struct, 1 AS a, 2 AS A"
    )
    found = wv.sql(query, Q4)
    assert found.columns == ("decimal", "day", "struct", "a", "A_1")
    assert found.rows == ((1.25, "2020-02-29", '{"a": 1, "b": [1, 2]}', 1, 2),)


def test_differences_are_those_of_diff() -> None:
    expected = wv.diff(Q4, Q2)
    names = ("key", "rel_l2", "sqnr_db", "cosine", "changed")
    found = wv.sql(f"SELECT {', '.join(names)} FROM diff", Q4, Q2)
    assert found.rows == expected.tensors.select(names).rows
    for name, table in (("role", expected.roles), ("layer", expected.layers)):
        found = wv.sql(f"SELECT {name}, tensors, rel_l2 FROM diff_{name}s", Q4, Q2)
        assert found.rows == table.select([name, "tensors", "rel_l2"]).rows


def test_each_source_is_held_against_the_first() -> None:
    found = wv.sql("SELECT DISTINCT reference, store FROM diff ORDER BY ALL", {"a": Q4}, {"b": Q2}, {"c": Q4})
    assert found.rows == (("a", "b"), ("a", "c"))
    same = wv.sql("SELECT sum(changed) FROM diff WHERE store = 'c'", {"a": Q4}, {"b": Q2}, {"c": Q4})
    assert same.rows == ((0,),)


@pytest.mark.parametrize(
    "query", ["SELECT * FROM diff", "SELECT * FROM diff_roles", "SELECT * FROM query_table('diff')"]
)
def test_a_difference_takes_two(query: str) -> None:
    with pytest.raises(UsageError):
        wv.sql(query, Q4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [((), "give a store"), ((Q4, Q4), "one name"), (({"a": Q4}, {"a": Q2}), "one name")],
)
def test_sources_have_names_of_their_own(sources: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wv.sql("SELECT 1", *sources)
