"""``wvindex report``: one HTML file of a model, for a browser without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from wvindex.cli.options import PATH, json_option
from wvindex.cli.output import emit, emit_json, note
from wvindex.cli.progress import scan_progress

if TYPE_CHECKING:
    from wvindex.inspection.spectrum import Kind


@click.command("report")
@click.argument("path", type=PATH)
@click.option("-o", "--out", type=click.Path(), help="The file; by default PATH's name with '.html', here.")
@click.option(
    "--spectrum",
    type=click.Choice(("top", "full")),
    help="Also singular values of matrices: the largest, or all of them for the effective rank.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that stands there.")
@click.option("--no-keep", is_flag=True, help="Compute all of it, and leave the store's stats/ alone.")
@json_option
def command(
    path: str, out: str | None, spectrum: str | None, overwrite: bool, no_keep: bool, as_json: bool
) -> None:
    """Write a report of PATH as one HTML file.

    A map of any statistic by layer and role, every tensor's histogram, outlier channels, heads and experts,
    and a table that can be searched. PATH is a store, or a bare GGUF or safetensors checkpoint.
    """
    import wvindex as wv

    notes: list[str] = []
    with scan_progress() as progress:
        written = wv.report(
            path,
            out,
            spectrum=cast("Kind | None", spectrum),
            keep=not no_keep,
            overwrite=overwrite,
            progress=progress,
            note=notes.append,
        )
    if as_json:
        emit_json({"path": str(written), "bytes": written.stat().st_size})
    else:
        emit(str(written))
    for text in notes:
        note(f"note: {text}")
