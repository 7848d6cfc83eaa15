"""A `wvindex` that starts at once: each is forked from a process that has imported all that commands import.

Documents have a hundred commands in them, and a process of its own takes each a second to start. `Warm` puts
a `wvindex` on the path that hands its arguments, its directory and its three streams to that process. What
is of interest at the start of a process is tested elsewhere, with processes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

import wvindex.cli.main as command_line
from tests.support.cli import EXAMPLE, REPOSITORY, environment

_CLIENT: Final = """#!{python} -ISE
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps({{"arguments": sys.argv[1:], "directory": os.getcwd()}}).encode()
    socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(call)
    sys.exit(server.recv(1)[0])
"""

_FAMILIAR: Final = ["stats", str(EXAMPLE), "--json"]
"""A command that loads most of what is compiled."""


class Warm:
    """Has the process that others are forked from; `environment` is one in which a shell finds `wvindex`."""

    def __init__(self, directory: Path) -> None:
        address = str(directory / "calls")
        client = directory / "bin" / "wvindex"
        client.parent.mkdir()
        client.write_text(_CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        self.environment = environment(
            PATH=os.pathsep.join([str(client.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        self._serving = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.warm", address],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        assert self._serving.stdout is not None
        assert self._serving.stdout.readline() == b"ready\n"

    def __enter__(self) -> Warm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._serving.kill()
        self._serving.communicate()


def serve(address: str) -> None:
    """Answer each call with a process that runs the command and sends its exit code."""
    for name in command_line.COMMANDS:
        importlib.import_module(f"wvindex.cli.{name}")
    ours = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    command_line.cli(_FAMILIAR, prog_name="wvindex", standalone_mode=False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks what became of them
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        os.write(ours, b"ready\n")
        while True:
            call, _ = listening.accept()
            if not os.fork():
                os._exit(_answer(call))
            call.close()


def _answer(call: socket.socket) -> int:
    head, streams, _, _ = socket.recv_fds(call, 4, 3)
    with call.makefile("rb") as file:
        asked = json.loads(file.read(int.from_bytes(head, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["directory"])
    sys.argv = ["wvindex", *asked["arguments"]]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = _run()
    call.sendall(bytes([code]))
    return code


def _run() -> int:
    try:
        command_line.main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    else:
        code = 0
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
