"""The command line as tests call it: in this process, in one of its own, or on a terminal of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from wvindex.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "tiny-kjv-Q8_0.gguf"

_START = "from wvindex.cli.main import main; main()"


def invoke(*arguments: object) -> Result:
    """Run a command in this process; what it does not foresee is raised."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="wvindex")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> str:
    """Run a command that must exit with 0, and give what it printed on stdout."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def document(*arguments: object) -> dict[str, Any]:
    """Run a command with ``--json`` and give its one document."""
    loaded: dict[str, Any] = json.loads(succeed(*arguments, "--json"))
    return loaded


def argv(arguments: Sequence[object], start: str = _START) -> list[str]:
    """Give the command line that runs a command in a process of its own."""
    return [sys.executable, "-W", "error", "-c", start, *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """Give the environment in which a process finds the code under test, and no settings of this terminal."""
    kept = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    return kept | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm"} | changes


def process(
    *arguments: object, start: str = _START, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, off a terminal."""
    return subprocess.run(
        argv(arguments, start),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def on_terminal(*arguments: object, columns: int = 80, cwd: Path | None = None) -> tuple[int, str]:
    """Run a command on a terminal; give its exit code and all that the terminal showed, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    running = subprocess.Popen(
        argv(arguments), cwd=cwd, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := _read(ours):
            shown += piece
    finally:
        os.close(ours)
    return running.wait(timeout=60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux's way of saying that nobody writes any more
        return b""
