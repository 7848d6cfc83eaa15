"""The command line as a whole: it starts light, keeps data and messages apart, and its exit codes hold."""

from __future__ import annotations

import errno
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest

import wvindex
from tests.support.cli import EXAMPLE, argv, environment, invoke, process, succeed
from tests.support.packed import REPO_GOLDEN
from tests.support.safetensors_writer import write_weights
from wvindex.cli import build, ls, plan, run
from wvindex.cli.main import COMMANDS
from wvindex.cli.options import MLA, STORAGE
from wvindex.infer import Model
from wvindex.transform.plan import STORAGE as STORAGE_ENCODINGS
from wvindex.transform.plan import MlaForm

HEAVY = {"numpy", "zarr", "numba", "gguf", "rich", "tokenizers", "ml_dtypes", "safetensors"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"], ["run", "-h"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    start = (
        "import atexit, sys; from wvindex.cli.main import main; "
        f"atexit.register(lambda: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)); main()"
    )
    done = process(*arguments, start=start)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == "[]\n"


def test_listing_a_file_imports_nothing_that_it_has_no_use_for() -> None:
    unused = {"asyncio", "crc32c", "zarr", "numba", "rich", "tokenizers", "wvindex.sources.maxtext"}
    start = (
        "import atexit, sys; from wvindex.cli.main import main; "
        f"atexit.register(lambda: print(sorted({unused!r} & set(sys.modules)), file=sys.stderr)); main()"
    )
    done = process("ls", EXAMPLE, start=start)
    assert done.returncode == 0
    assert done.stderr == "[]\n"


def test_version_is_the_packages() -> None:
    assert succeed("--version") == f"wvindex {wvindex.__version__}\n"


def test_help_lists_every_command() -> None:
    listed = succeed("--help").partition("Commands:")[2].split("\n")
    assert [line.split()[0] for line in listed if line.strip()] == list(COMMANDS)


def test_help_lines_are_whole_sentences() -> None:
    assert "..." not in succeed("--help").partition("Commands:")[2]


def test_installed_command_is_the_same_one() -> None:
    installed = Path(sys.executable).with_name("wvindex")
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"wvindex {wvindex.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "kind"),
    [
        (["show", EXAMPLE, "no.such.tensor"], 2, "key-not-found"),
        (["show", EXAMPLE, "output_norm.weight[999]"], 2, "selection"),
        (["build", EXAMPLE, "--max-memory", "much"], 2, "usage"),
        (["info", "/nowhere/to/be/found"], 3, "unreadable"),
        (["info", Path(__file__)], 3, "unknown-format"),
        (["run", EXAMPLE, "In the"], 4, "unsupported-model"),
    ],
)
def test_what_goes_wrong_is_named_on_stderr(arguments: list[object], exit_code: int, kind: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith(f"error[{kind}]: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["frob"], ["build"], ["plan", EXAMPLE, "--dtype", "int8"], ["ls", "-z"]]
)
def test_a_wrong_call_exits_with_2(arguments: list[object]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_errors_name_the_facts(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(EXAMPLE.read_bytes()[:1000])
    result = invoke("info", cut)
    assert result.exit_code == 3
    assert str(cut) in result.stderr
    assert "offset: " in result.stderr


def test_names_from_a_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    write_weights({"evil\x1b]0;title\x07\n[red]name": np.zeros((2, 2), np.float32)}, tmp_path)
    for arguments in (["ls"], ["ls", "-l"], ["info"], ["plan", "--ledger"]):
        printed = succeed(arguments[0], tmp_path, *arguments[1:])
        assert "\x1b" not in printed
        assert "\x07" not in printed
        assert "[red]name" in printed or arguments == ["plan"]


def test_output_and_messages_stay_apart(kjv: Path) -> None:
    done = process("ls", kjv, "no such tensor")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no tensor matches\n")


def test_a_reader_that_has_enough_is_no_error(kjv: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        argv(["ls", kjv]), stdout=writing, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_broken_pipe_ends_a_run_early(kjv: Path) -> None:
    with subprocess.Popen(
        argv(["run", kjv, "In the", "-n", "500"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(1)
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_a_fault_of_ours_is_not_hidden(kjv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ls, "emit_json", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        invoke("ls", kjv, "--json")


def test_what_stdout_cannot_encode_is_escaped(tmp_path: Path) -> None:
    write_weights({"名前": np.zeros(2, np.float32)}, tmp_path)
    done = subprocess.run(
        argv(["ls", tmp_path]),
        env=environment(PYTHONIOENCODING="latin-1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\\u540d\\u524d" in done.stdout


WRITERS = {"build", "convert", "export", "report", "completion"}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WRITERS])
def test_every_reader_has_json(command: str, kjv: Path) -> None:
    arguments: dict[str, list[object]] = {
        "show": ["model.norm.weight"],
        "diff": [kjv],
        "sql": ["--recipe", "bits-by-role"],
        "run": ["In the", "-n", "1"],
        "neighbors": ["lm_head.weight[3]"],
        "tokens": ["lm_head.weight[3]"],
        "describe": [" Moses"],
    }
    extra = arguments.get(command, [])
    source = EXAMPLE if command == "plan" else kjv
    assert isinstance(json.loads(succeed(command, source, *extra, "--json")), dict)


def test_options_are_named_like_the_librarys_parameters() -> None:
    def options(command: click.Command) -> set[str]:
        return {str(option.name) for option in command.params} - {"as_json"}

    def parameters(function: Callable[..., object]) -> set[str]:
        return set(inspect.signature(function).parameters)

    assert options(plan.command) - {"ledger"} == parameters(wvindex.plan)
    assert options(build.command) - {"dry_run", "quiet"} == parameters(wvindex.build) - {"progress"}
    generate = parameters(Model.generate) - {"self"}
    assert options(run.command) - {"path", "prompt", "top"} == generate | {"max_memory"}


def test_choices_are_the_librarys() -> None:
    assert tuple(STORAGE_ENCODINGS) == STORAGE
    assert get_args(MlaForm) == MLA


OUTPUTS = {"full": (">/dev/full", "No space left on device"), "closed": (">&-", "Bad file descriptor")}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "arguments", [["info", EXAMPLE], ["ls", EXAMPLE], ["info", EXAMPLE, "--json"], ["--help"], ["--version"]]
)
def test_output_that_cannot_be_written_is_one_line(output: str, arguments: list[object]) -> None:
    redirection, reason = OUTPUTS[output]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *argv(arguments)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr == f"error[output]: cannot write the output: {reason}\n"
    assert done.returncode == 3


def test_errors_reach_stderr_though_stdout_is_closed() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *argv(["info", "/nowhere"])],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("error[unreadable]: ")
    assert done.returncode == 3


def test_what_the_system_refuses_is_no_fault_that_verify_found(
    kjv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "some/file")

    monkeypatch.setattr(ls, "emit_json", refuse)
    result = invoke("ls", kjv, "--json")
    assert result.exit_code == 3
    assert result.stderr == "error[system]: [Errno 5] Input/output error: 'some/file'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "No such option '--nope' (see wvindex --help)"),
        (["frob"], "No such command 'frob' (see wvindex --help)"),
        (["ls", "-z"], "No such option '-z' (see wvindex ls --help)"),
        (["diff", EXAMPLE], "Missing argument 'B' (see wvindex diff --help)"),
        (
            ["completion"],
            "Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish "
            "(see wvindex completion --help)",
        ),
    ],
)
def test_a_wrong_call_is_told_in_one_line(arguments: list[object], message: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    kind, _, said = result.stderr.replace(":", "", 1).partition(" ")
    assert kind == "error[usage]"
    assert said.replace("'", "") == message.replace("'", "") + "\n"  # click quotes differently by version


def test_without_arguments_there_is_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: wvindex")


SAID: dict[str, tuple[list[object], int]] = {
    "a note on success": (["ls", EXAMPLE, "no such tensor"], 0),
    "a hint beside findings": (["check", REPO_GOLDEN / "type-zoo.gguf", "--rule", "WV702"], 0),
    "an error": (["stats", "/nowhere/to/be/found"], 3),
    "a wrong call": (["stats", "--nope"], 2),
}


@pytest.mark.parametrize("what", SAID)
def test_what_stderr_does_not_take_is_lost_and_changes_nothing(what: str) -> None:
    arguments, exit_code = SAID[what]
    heard = process(*arguments)
    assert heard.stderr
    for redirection in ("2>/dev/full", "2>&-", "2>&- <&-"):
        unheard = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *argv(arguments)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert unheard.returncode == heard.returncode == exit_code, redirection
        assert unheard.stdout == heard.stdout, redirection


def test_progress_outlives_the_terminal_that_it_is_shown_on() -> None:
    hang_up = (
        "import os, pty, rich.progress as shown; ours, theirs = pty.openpty(); os.dup2(theirs, 2); "
        "begin = shown.Progress.start; "
        "shown.Progress.start = lambda bar: (os.close(ours), begin(bar), print('hung up'))[1]; "
        "from wvindex.cli.main import main; main()"
    )
    done = process("check", EXAMPLE, start=hang_up)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "hung up"
    assert done.stdout.splitlines()[1].startswith("0 errors")
