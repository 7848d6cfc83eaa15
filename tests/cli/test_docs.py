"""docs/cli.md: every command and option stands there, and its examples print what it says."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import wvindex
from tests.support.cli import EXAMPLE, REPOSITORY, environment
from tests.support.warm import Warm
from wvindex.cli.main import COMMANDS, cli

PAGE = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## wvindex (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_every_command_has_a_section_in_the_order_of_help() -> None:
    assert tuple(SECTIONS) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_documented(name: str) -> None:
    section = SECTIONS[name]
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            missing = [o for o in parameter.opts if not re.search(rf"`{re.escape(o)}[` ]", section)]
        else:
            metavar = parameter.make_metavar(click.Context(cli)) if name != "completion" else "SHELL"
            missing = [] if metavar in section else [metavar]
        assert missing == []


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_documented_that_there_is_not(name: str) -> None:
    known = {o for parameter in command(name).params for o in parameter.opts}
    rows = re.findall(r"^\| (`-.*?) \| ", SECTIONS[name], re.MULTILINE)
    documented = {option for row in rows for option in re.findall(r"(?<!\w)--?[a-z][a-z-]*", row)}
    assert documented <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_documented(name: str) -> None:
    for parameter in command(name).params:
        if isinstance(parameter, click.Option) and parameter.show_default:
            (row,) = re.findall(rf"^\|.*`{parameter.opts[-1]}.*$", SECTIONS[name], re.MULTILINE)
            inherited = "as in `wvindex plan`" in row
            assert inherited or re.search(rf"\b{str(parameter.default).removesuffix('.0')}\b", row)


@pytest.mark.parametrize("word", ["-h", "--help", "--version"])
def test_options_of_all_commands_are_documented(word: str) -> None:
    assert re.search(rf"{word}`", PAGE.partition("\n## ")[0])


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(tmp_path_factory.mktemp("warm")) as started:
        yield started


@pytest.mark.parametrize("name", ["cli.md", "inspect.md", "sql.md", "convert.md"])
def test_the_examples_print_what_they_say(name: str, warm: Warm, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    checker = doctest.OutputChecker()
    examples = [
        (line, said)
        for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for line, said in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]
    assert len(examples) >= 6
    for line, said in examples:
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env=warm.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert checker.check_output(said, done.stdout, doctest.ELLIPSIS), f"{line}\n{done.stdout}"


_EACH_ALONE = """
import json, sys
for block in json.load(sys.stdin):
    exec(compile(block, "<page>", "exec"), {"__name__": "__main__"})
"""


@pytest.mark.parametrize("name", ["inspect.md", "sql.md"])
def test_the_python_of_the_pages_runs(name: str, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    (tmp_path / "kjv.zarr").symlink_to(wvindex.build(EXAMPLE, tmp_path / "built.zarr"))
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    subprocess.run(
        [sys.executable, "-W", "error", "-c", _EACH_ALONE],
        input=json.dumps(blocks),
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=True,
    )
