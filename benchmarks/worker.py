"""A process that answers commands, one JSON line each: so that two runtimes take turns on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "WVINDEX_THREADS")


class Worker:
    """One such process, with so many threads; a context manager.

    Parameters
    ----------
    python : Path
        Interpreter.
    module : str
        Of this package; it calls `serve`.
    arguments : str
    threads : int
    """

    def __init__(self, python: Path, module: str, *arguments: str, threads: int) -> None:
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str) -> Any:
        """Have a command run, and give its answer.

        Raises
        ------
        RuntimeError
            If the process ended; it has told why on stderr.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("no pipes")
        stdin.write(command + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended at {command!r}")
        return json.loads(line)


def serve(commands: Mapping[str, Callable[[], object]]) -> None:
    """Answer commands until there are no more; whatever else prints goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answer = commands[line.strip()]()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
