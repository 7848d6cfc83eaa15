"""From exceptions to messages on stderr and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, cast

import click
from click.exceptions import Exit, NoArgsIsHelpError

from wvindex.errors import UsageError, WvindexError

INTERRUPTED: Final = 130
"""What a shell makes of a process that SIGINT ended: 128 + 2."""


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that wvindex foresees into a message and an exit code; let all others through.

    A reader that closes the pipe early (``| head``) has what it wanted: that is success, in silence.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        if isinstance(error, NoArgsIsHelpError):  # its message is the help
            raise
        click.echo(f"error[{UsageError.kind}]: {printable(_call_error(error))}", err=True)
        raise Exit(UsageError.exit_code) from error
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
    except OSError as error:
        raise Exit(report_system_error(error)) from error


def _call_error(error: click.UsageError) -> str:
    """Give click's message in one line: choices are on lines of their own there."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    return message if error.ctx is None else f"{message} (see {error.ctx.command_path} --help)"


class OutputError(OSError):
    """What the system refused was to write to stdout."""


class ClosedOutput(io.TextIOBase):
    """Stands for a stdout that was closed before we started: to write to it is an error like any other."""

    def write(self, text: str, /) -> int:
        """Refuse."""
        raise OutputError(errno.EBADF, os.strerror(errno.EBADF))


class _Output(io.FileIO):
    """A descriptor whose errors say that it is stdout's; a broken pipe stays what it is."""

    def write(self, data: Any, /) -> int:
        """Write some of `data`."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def output_of(stream: TextIO | None) -> TextIO:
    """Give a stdout that tells its errors from others'. What its encoding lacks is escaped, not fatal."""
    if stream is None:
        return cast(TextIO, ClosedOutput())
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Messages(io.FileIO):
    """A descriptor for what is said beside the data: what cannot be written is lost, and is no error."""

    def write(self, data: Any, /) -> int:
        """Write some of `data`, or drop all of it."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def messages_of(stream: TextIO | None) -> TextIO:
    """Give a stderr that never fails, so that exit codes tell of the data alone.

    A stderr that was closed before we started leads nowhere. What an encoding lacks is escaped.
    """
    if stream is None:
        nowhere = _Messages(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(nowhere), encoding="utf-8", line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Messages(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


def report_system_error(error: OSError) -> int:
    """Say what the system refused, in one line, and give the exit code.

    That is never 1, which means that ``verify`` found faults.
    """
    if isinstance(error, OutputError):
        _discard_output()
        click.echo(f"error[output]: cannot write the output: {printable(str(error.strerror))}", err=True)
    else:
        click.echo(f"error[system]: {printable(str(error))}", err=True)
    _echo_notes(error)
    return WvindexError.exit_code


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
