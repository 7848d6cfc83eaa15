"""SARIF 2.1.0: what the standard requires of the parts that are written, and fingerprints that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import wvindex as wv
from tests.support.planted import planted, put
from tests.support.sarif_schema import SARIF
from wvindex.inspection.linting.table import RULES

EXPERT = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
DOWN = "model.layers.1.mlp.experts.down_proj.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    changes = {EXPERT: put((9, 4), float("nan")), "model.layers.0.input_layernorm.weight": put(5, -0.5)}
    return planted(tmp_path / "a", "mixtral", changes, config={"eos_token_id": 500})


def only_run(report: wv.Report) -> dict[str, Any]:
    log = json.loads(json.dumps(report.to_sarif(), allow_nan=False))
    jsonschema.Draft202012Validator(SARIF).validate(log)
    (run,) = log["runs"]
    return dict(run)


def test_results(path: Path) -> None:
    run = only_run(wv.check(path))
    first, second, third = run["results"]
    assert (first["ruleId"], first["level"]) == ("WV101", "error")
    assert first["message"]["text"] == f"{DOWN}: 1 NaN and 0 infinite of {4 * 128 * 192} values."
    (location,) = first["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "model.safetensors", "uriBaseId": "MODEL"}
    }
    assert location["logicalLocations"] == [{"name": EXPERT, "fullyQualifiedName": DOWN, "kind": "array"}]
    expected = {"layer": 1, "expert": 3, "row": 9, "column": 4, "value": "NaN", "count": 1}
    assert first["properties"] == expected
    assert (second["ruleId"], third["ruleId"], third["level"]) == ("WV503", "WV302", "note")
    assert "MODEL" in run["originalUriBaseIds"]


def test_rules_are_described(path: Path) -> None:
    run = only_run(wv.check(path))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.id for rule in RULES]
    for result in run["results"]:
        rule = rules[result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert rule["defaultConfiguration"]["level"] == result["level"]


def test_only_the_rules_that_were_applied_are_there(path: Path) -> None:
    run = only_run(wv.check(path, rules=["WV3"]))
    assert {rule["id"][:3] for rule in run["tool"]["driver"]["rules"]} == {"WV3"}
    assert [result["ruleId"] for result in run["results"]] == ["WV302"]


def fingerprints(path: Path) -> list[str]:
    results = only_run(wv.check(path))["results"]
    return [result["partialFingerprints"]["placeHash/v1"] for result in results]


def test_fingerprints_are_of_the_place_and_not_of_the_numbers(path: Path, tmp_path: Path) -> None:
    first = fingerprints(path)
    assert len(set(first)) == len(first) == 3
    changes = {EXPERT: put((8, 1), float("inf")), "model.layers.0.input_layernorm.weight": put(6, -0.1)}
    other = planted(tmp_path / "b", "mixtral", changes, config={"eos_token_id": 501})
    assert fingerprints(path) == first == fingerprints(other)


def test_findings_of_one_rule_at_one_place_are_told_apart(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", config={"eos_token_id": [300, 301]})
    assert len(set(fingerprints(path))) == 2


def test_a_healthy_model_has_no_results(tmp_path: Path) -> None:
    run = only_run(wv.check(planted(tmp_path, "llama")))
    assert run["results"] == []
    assert run["invocations"] == [{"executionSuccessful": True}]


def test_what_could_not_be_checked_is_a_notification(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    (invocation,) = only_run(wv.check(path))["invocations"]
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["message"]["text"].endswith("the checkpoint has no tokenizer")


def test_the_schema_refuses_what_the_standard_does(path: Path) -> None:
    log = wv.check(path).to_sarif()
    log["runs"][0]["results"][0]["level"] = "info"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SARIF).validate(log)
