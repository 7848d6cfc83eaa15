"""The ``wvindex`` command. It imports click and nothing heavy; a command is imported when it is run."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

from wvindex._version import __version__
from wvindex.cli.errors import messages_of, output_of, report_system_error, reported

COMMANDS: Final = (
    "plan",
    "build",
    "info",
    "ls",
    "show",
    "verify",
    "stats",
    "inspect",
    "diff",
    "check",
    "sql",
    "neighbors",
    "tokens",
    "describe",
    "report",
    "convert",
    "export",
    "run",
    "completion",
)
"""Subcommands in the order in which help shows them; each is ``command`` of a module of its name."""


class CommandGroup(click.Group):
    """Finds commands by module, and reports what goes wrong in them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give every subcommand's name."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None where there is no such one."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"wvindex.cli.{cmd_name}").command
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read what stands before the subcommand; its errors become messages and exit codes too."""
        with reported():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; its errors become messages and exit codes."""
        with reported():
            return super().invoke(ctx)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wvindex", message="%(prog)s %(version)s")
def cli() -> None:
    """Turn model checkpoints into weight databases, and look into either.

    Exit codes: 0 success, 1 faults or differences found, 2 a call that cannot be, 3 what cannot be read or
    written, 4 input that is readable but not supported, 130 interrupted.
    """


def main() -> None:
    """Run the command line and exit."""
    sys.stdout = output_of(sys.stdout)
    sys.stderr = messages_of(sys.stderr)
    try:
        cli(prog_name="wvindex")
    except OSError as error:  # of --help and --version, which no command's reporting is around
        sys.exit(report_system_error(error))
