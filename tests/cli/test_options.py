"""Options that commands share mean the same in all of them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.support.cli import EXAMPLE, invoke, succeed

COMMANDS = {
    "ls": (EXAMPLE,),
    "stats": (EXAMPLE, "--no-keep"),
    "inspect": (EXAMPLE, "--no-stats"),
    "diff": (EXAMPLE, EXAMPLE),
    "check": (EXAMPLE,),
    "neighbors": (EXAMPLE, "model.layers.2.mlp.gate.weight[0]"),
    "describe": (EXAMPLE, " Moses", "-k", "1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    result = invoke(name, *COMMANDS[name], "--layer", "99")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no such layer (expected: layers 0 to 2, found: 99)" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_layers_have_two_spellings_and_count_from_the_end(name: str) -> None:
    runs = [invoke(name, *COMMANDS[name], *option) for option in (("--layer", "2"), ("--layers", "-1"))]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].exit_code == runs[1].exit_code != 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_one_spelling(name: str) -> None:
    shown = succeed(name, "--help")
    assert "--layer " in shown
    assert "--layers" not in shown


def test_a_file_is_named_by_out_or_output(tmp_path: object) -> None:
    for option in ("-o", "--out", "--output"):
        path = f"{tmp_path}/{option.strip('-')}.csv"
        assert succeed("sql", "SELECT 1 AS one", str(EXAMPLE), option, path) == f"{path}\n"


def test_a_listing_as_csv_is_that_as_json() -> None:
    rows = list(csv.DictReader(io.StringIO(succeed("ls", EXAMPLE, "--layer", "1", "--csv"))))
    tensors = json.loads(succeed("ls", EXAMPLE, "--layer", "1", "--json"))["tensors"]
    assert [(row["key"], row["encoding"], int(row["nbytes"])) for row in rows] == [
        (tensor["key"], tensor["encoding"], tensor["nbytes"]) for tensor in tensors
    ]
    assert [row["shape"].split() for row in rows] == [[str(n) for n in one["shape"]] for one in tensors]


def test_a_listing_has_one_format() -> None:
    assert invoke("ls", EXAMPLE, "--csv", "--json").exit_code == 2
