"""``wvindex verify``: whether a store is what was written, and what its source says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from wvindex.cli.errors import printable
from wvindex.cli.options import PATH, config_option, json_option
from wvindex.cli.output import emit, emit_json, emit_table, note
from wvindex.cli.progress import build_progress

if TYPE_CHECKING:
    from wvindex.verifying import Fault

FOUND = 1
"""Exit code where faults were found."""

_COLUMNS = ("kind", "tensor", "chunk", "path", "expected", "found")


@click.command("verify")
@click.argument("store", type=PATH)
@click.option(
    "--source",
    type=PATH,
    metavar="FILE",
    help="Also compare every array with this checkpoint, decoded by other people's packages.",
)
@config_option
@click.option("-q", "--quiet", is_flag=True, help="Nothing but faults: no progress bar, no summary.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, store: str, source: str | None, config: str | None, quiet: bool, as_json: bool
) -> None:
    """Check that STORE is what was written.

    Every fault is listed, nothing is repaired. Exits with 1 if there is one.
    """
    import wvindex as wv

    with build_progress(quiet=quiet) as progress:
        found = wv.verify(store, source, config=config, progress=progress)
    if as_json:
        emit_json(found.to_json())
    else:
        if found.faults:
            _print_faults(found.faults)
        if not quiet:
            for line in str(found).splitlines():
                note(line)
    if not found.ok:
        ctx.exit(FOUND)


def _print_faults(faults: Sequence[Fault]) -> None:
    """Print the table, and below it which arrays suffer from a fault that is not their own."""
    rows = [
        (
            fault.kind,
            fault.tensor or (f"{len(fault.affects)} arrays" if fault.affects else ""),
            fault.chunk or "",
            fault.path or "",
            fault.expected,
            fault.found,
        )
        for fault in faults
    ]
    if sys.stdout.isatty():
        _print_folded(rows)
    else:
        emit_table(_COLUMNS, rows)
    for fault in faults:
        for key in fault.affects:
            emit(f"{fault.path} affects {key}")


def _print_folded(rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose every column may be folded: nothing of a fault is cut off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in _COLUMNS:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)
