"""``wvindex neighbors``: the table of `Store.neighbors` for a vector of the model's own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, succeed

EMBEDDING = "model.embed_tokens.weight"
DOWN = "model.layers.1.mlp.experts.down_proj.weight"


@pytest.mark.parametrize(
    ("key", "index", "role"),
    [
        (f"{EMBEDDING}[342]", (342,), "model.embed_tokens"),
        ("token_embd.weight[-1]", (-1,), "model.embed_tokens"),
        (f"{DOWN}[3, :, 4]", (3, slice(None), 4), "mlp.experts.down_proj"),
        ("model.layers.2.self_attn.o_proj.weight[:, 7]", (slice(None), 7), "self_attn.o_proj"),
    ],
)
def test_json_is_the_librarys_table_of_the_keys_own_role(
    key: str, index: tuple[object, ...], role: str, kjv: Path
) -> None:
    with wv.open(kjv) as db:
        vector = db[key.partition("[")[0]][index]
        expected = db.neighbors(vector, role, k=6)
    assert document("neighbors", kjv, key, "-k", 6) == json.loads(json.dumps(expected.to_json()))


def test_a_bare_file_gives_what_its_store_gives(kjv: Path) -> None:
    arguments = (f"{EMBEDDING}[5]", "--role", "mlp.*gate_proj", "--csv")
    assert succeed("neighbors", EXAMPLE, *arguments) == succeed("neighbors", kjv, *arguments)


def test_text_shows_the_columns_that_say_something() -> None:
    result = invoke("neighbors", EXAMPLE, f"{EMBEDDING}[342]", "-k", "2")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["KEY", "ROW", "TEXT", "SCORE"],
        [EMBEDDING, "342", "ĠLORD", "1"],
        [EMBEDDING, "688", "ĠMoses", "0.5537"],
    ]
    assert "note: evidence from weights alone" in result.stderr


def test_several_rows_are_several_queries() -> None:
    rows = list(
        csv.DictReader(io.StringIO(succeed("neighbors", EXAMPLE, f"{EMBEDDING}[3:6]", "--csv", "-k", 1)))
    )
    assert [(row["query"], row["row"]) for row in rows] == [("0", "3"), ("1", "4"), ("2", "5")]


def test_layers_and_metric() -> None:
    arguments = (f"{EMBEDDING}[342]", "--role", "mlp.experts.*", "--layers", "2:", "--metric", "dot")
    with wv.open(EXAMPLE) as db:
        expected = db.neighbors(db[EMBEDDING][342], "mlp.experts.*", layers=[2], metric="dot")
    assert document("neighbors", EXAMPLE, *arguments) == json.loads(json.dumps(expected.to_json()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((f"{DOWN}[3, 4]",), "KEY[expert, :, column]"),
        ((EMBEDDING,), "KEY[row]"),
        ((f"{EMBEDDING}[1024]",), "0 to 1023"),
        (("model.norm.weight[3]",), "it is no matrix"),
        (("nothing.weight[3]",), "no tensor answers"),
        ((f"{EMBEDDING}[1]", "--role", "mlp.gat"), "no matrix of the model"),
        (("lm_head.weight[:,3]",), "found: [:, 3]"),
        ((f"{EMBEDDING}[1]", "--layers", "99"), "no such layer (expected: layers 0 to 2, found: 99)"),
        ((f"{EMBEDDING}[1]", "--layers", "x"), "not a choice of layers"),
        ((f"{EMBEDDING}[1]", "-k", "0"), "0 is not in the range"),
        ((f"{EMBEDDING}[1]", "--json", "--csv"), "one format at a time"),
    ],
)
def test_what_cannot_be_is_a_call_that_cannot_be(arguments: tuple[str, ...], words: str) -> None:
    result = invoke("neighbors", EXAMPLE, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("options", [["--sort", "nope"], ["--columns", "nope"], ["--json", "--csv"]])
def test_what_cannot_be_printed_is_refused_before_the_pass(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        pytest.fail("weights are read")

    monkeypatch.setattr("wvindex.query.database.Store.neighbors", never)
    result = invoke("neighbors", EXAMPLE, f"{EMBEDDING}[1]", *options)
    assert (result.exit_code, result.stdout) == (2, "")
