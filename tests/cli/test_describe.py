"""``wvindex describe``: the table of `Store.describe`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, succeed
from tests.support.stores import Stores


def test_json_is_the_librarys_table(kjv: Path) -> None:
    with wv.open(kjv) as db:
        expected = db.describe("Jerusalem", layers=[1, 2], k=2, writes=3, token="last", norm=False)
    options = ("-k", 2, "--layers", "1:", "--writes", 3, "--token", "last", "--no-norm")
    assert document("describe", kjv, "Jerusalem", *options) == json.loads(json.dumps(expected.to_json()))


def test_text_shows_what_each_feature_writes() -> None:
    result = invoke("describe", EXAMPLE, " Moses", "-k", "1", "--layers", "2")
    header, row = result.stdout.splitlines()
    assert header.split() == ["TEXT", "LAYER", "PART", "FEATURE", "ACTIVATION", "WRITES"]
    assert row.split() == [
        "ĠMoses",
        "2",
        "mlp.shared_experts",
        "201",
        "-10.71",
        "ed",
        "ent",
        "ish",
        "if",
        "ad",
    ]
    assert "note: evidence from weights alone" in result.stderr


def test_experts_and_their_weights_are_shown_where_there_are_some(stores: Stores) -> None:
    header, *rows = succeed("describe", stores.safetensors("mixtral"), "B", "-k", 2).splitlines()
    assert header.split()[:6] == ["TEXT", "LAYER", "PART", "EXPERT", "FEATURE", "WEIGHT"]
    assert len(rows) == 4


def test_several_tokens_are_named() -> None:
    result = invoke("describe", EXAMPLE, "Jerusalem", "-k", "1")
    assert "the text is 3 tokens: J (43), er (268), usalem (697); each is described" in result.stderr
    assert len(result.stdout.splitlines()) == 1 + 3 * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "1 to 64"),
        (("x" * 300,), "1 to 64"),
        ((" Moses", "--layers", "7"), "no such layer (expected: layers 0 to 2, found: 7)"),
        ((" Moses", "--token", "middle"), "is not one of"),
    ],
)
def test_what_cannot_be_is_a_call_that_cannot_be(arguments: tuple[str, ...], words: str) -> None:
    result = invoke("describe", EXAMPLE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize("options", [["--sort", "nope"], ["--columns", "nope"], ["--json", "--csv"]])
def test_what_cannot_be_printed_is_refused_before_the_pass(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        pytest.fail("weights are read")

    monkeypatch.setattr("wvindex.query.database.Store.describe", never)
    result = invoke("describe", EXAMPLE, " Moses", *options)
    assert (result.exit_code, result.stdout) == (2, "")
