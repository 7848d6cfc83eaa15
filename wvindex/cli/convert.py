"""``wvindex convert``: the fused and the unfused form of latent attention's down-projections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from wvindex.cli.options import PATH, json_option, max_memory_option
from wvindex.cli.output import emit, emit_json, emit_result, note
from wvindex.cli.progress import build_progress
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.converting.plan import Conversion
    from wvindex.inspection.table import Table


@click.command("convert")
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("out", metavar="DST", type=PATH)
@click.option("--fuse-mla-lora", is_flag=True, help="Put both down-projections into one matrix.")
@click.option("--unfuse-mla-lora", is_flag=True, help="Take the one matrix apart again.")
@click.option("--dry-run", is_flag=True, help="Print what would become of every tensor, and write nothing.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace what stands at DST, if it is of the same kind, once all is done.",
)
@click.option("--restart", is_flag=True, help="Discard what an interrupted conversion left.")
@click.option(
    "--allow-requant",
    is_flag=True,
    help="Quantize anew where blocks of FP8 scales do not line up, and say what changes.",
)
@click.option(
    "--optimizer",
    type=click.Choice(("concat", "drop")),
    help="Of a MaxText checkpoint with an optimizer's state: its moments go as their parameters do, or all "
    "of it is left out. No default.",
)
@max_memory_option("1GiB", "Memory that the conversion may use")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no notes.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print every tensor as comma-separated values.")
def command(
    source: str,
    out: str,
    fuse_mla_lora: bool,
    unfuse_mla_lora: bool,
    dry_run: bool,
    overwrite: bool,
    restart: bool,
    allow_requant: bool,
    optimizer: str | None,
    max_memory: str,
    quiet: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Fuse or unfuse latent attention's projections.

    The two down-projections of every layer become one matrix, or two again.

    SRC is a directory with a Hugging Face safetensors checkpoint, a wvindex store of the kept form, or a
    MaxText checkpoint of Orbax. DST will be of the same kind.
    """
    import wvindex as wv
    from wvindex.errors import UsageError

    if as_json and as_csv:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    started = time.monotonic()
    with build_progress(quiet=quiet) as progress:
        done = wv.convert(
            source,
            out,
            fuse_mla_lora=fuse_mla_lora,
            unfuse_mla_lora=unfuse_mla_lora,
            dry_run=dry_run,
            overwrite=overwrite,
            restart=restart,
            allow_requant=allow_requant,
            optimizer=optimizer,
            max_memory=max_memory,
            progress=progress,
        )
    if as_json:
        emit_json(done.to_dict())
    elif as_csv:
        emit_result(_units(done), shown=(), as_csv=True)
    elif dry_run:
        emit(str(done))
    else:
        click.echo(out)  # as it is: scripts use it
    if quiet or dry_run:
        return
    note(f"{format_size(done.nbytes)} of tensors in {time.monotonic() - started:.1f} s")
    for change in done.changes:
        note(f"{change.tensor}: {change.values} values changed, by {change.max_abs:.6g} at most")
    for text in done.notes:
        note(text)


def _units(done: Conversion) -> Table:
    """Give what became of every tensor, a row a step."""
    from wvindex.inspection.table import Table

    rows = (
        (unit.operation, " ".join(unit.inputs), " ".join(unit.outputs), unit.nbytes, unit.file)
        for unit in done.units
    )
    return Table("units", ("operation", "inputs", "outputs", "nbytes", "file"), tuple(rows))
