"""``wvindex tokens``: the table of `Store.tokens` for a vector of the model's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE, document, invoke, succeed
from tests.support.stores import Stores

KEY = "model.layers.2.mlp.shared_experts.down_proj.weight"


@pytest.mark.parametrize("no_norm", [False, True])
def test_json_is_the_librarys_table(no_norm: bool, kjv: Path) -> None:
    with wv.open(kjv) as db:
        expected = db.tokens(db[KEY][:, 154], 4, norm=not no_norm)
    options = ["--no-norm"] if no_norm else []
    assert document("tokens", kjv, f"{KEY}[:,154]", "-k", 4, *options) == json.loads(
        json.dumps(expected.to_json())
    )


def test_text_says_both_ends_and_what_it_is_evidence_of() -> None:
    result = invoke("tokens", EXAMPLE, f"{KEY}[:,154]", "-k", "2")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["END", "RANK", "TOKEN", "TEXT", "LOGIT"],
        ["top", "1", "672", "Ġway", "0.3748"],
        ["top", "2", "476", "Ġhand", "0.3155"],
        ["bottom", "1", "485", "ok", "-0.4405"],
        ["bottom", "2", "80", "o", "-0.4361"],
    ]
    assert "note: evidence from weights alone" in result.stderr
    assert "note: logits are W_U · (γ ⊙ v)" in result.stderr


def test_several_columns_are_several_queries() -> None:
    assert len(succeed("tokens", EXAMPLE, f"{KEY}[:,3:6]", "-k", 2, "--csv").splitlines()) == 1 + 3 * 4


def test_gemmas_norm_after_the_branch_is_folded_in_and_named(stores: Stores) -> None:
    source, key = stores.safetensors("gemma2"), "model.layers.1.mlp.down_proj.weight"
    with wv.open(source) as db:
        norm = "model.layers.1.post_feedforward_layernorm.weight"
        vector = (1 + db[norm][:].astype(np.float64)) * db[key][:, 5].astype(np.float64)
        expected = db.tokens(vector, 3)
    result = invoke("tokens", source, f"{key}[:,5]", "-k", "3", "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(expected.to_json()))
    assert f"passes {norm}, whose weight is folded in" in result.stderr


def test_a_row_of_what_writes_is_refused() -> None:
    result = invoke("tokens", EXAMPLE, f"{KEY}[154]")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "KEY[:, column]" in result.stderr


@pytest.mark.parametrize("options", [["--sort", "nope"], ["--columns", "nope"], ["--json", "--csv"]])
def test_what_cannot_be_printed_is_refused_before_the_pass(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        pytest.fail("weights are read")

    monkeypatch.setattr("wvindex.query.database.Store.tokens", never)
    result = invoke("tokens", EXAMPLE, f"{KEY}[:,3]", *options)
    assert (result.exit_code, result.stdout) == (2, "")
