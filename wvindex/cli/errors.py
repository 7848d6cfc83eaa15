"""From exceptions to messages on stderr and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import click
from click.exceptions import Exit

from wvindex.errors import WvindexError

INTERRUPTED: Final = 130
"""What a shell makes of a process that SIGINT ended: 128 + 2."""


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that wvindex foresees into a message and an exit code; let all others through.

    A reader that closes the pipe early (``| head``) has what it wanted: that is success, in silence.
    """
    try:
        yield
        sys.stdout.flush()
    except WvindexError as error:
        click.echo(f"error[{error.kind}]: {printable(str(error))}", err=True)
        _echo_notes(error)
        raise Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        click.echo("interrupted", err=True)
        _echo_notes(error)
        raise Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        _discard_output()
        raise Exit(0) from error


def _echo_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        click.echo(printable(note), err=True)


def printable(text: str, keep: str = "") -> str:
    """Escape what a terminal would obey rather than show; names come from files that nobody has vouched for.

    Parameters
    ----------
    text : str
    keep : str
        Control characters that stay, such as a newline.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def _discard_output() -> None:
    """Point stdout elsewhere, so that what is still buffered fails no more when the interpreter exits."""
    with suppress(OSError):  # a stream without a descriptor has no pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
