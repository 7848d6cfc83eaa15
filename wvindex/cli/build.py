"""``wvindex build``: a checkpoint to a store."""

from __future__ import annotations

import time
from pathlib import Path

import click

from wvindex.cli.options import PATH, build_options, config_option, json_option, max_memory_option
from wvindex.cli.output import emit_json, note
from wvindex.cli.plan import print_plan
from wvindex.cli.progress import build_progress
from wvindex.sizes import format_size


@click.command("build")
@click.argument("source", type=PATH)
@click.option(
    "-o",
    "--out",
    type=PATH,
    metavar="PATH",
    help="The store; <stem>.zarr in the working directory if absent.",
)
@build_options
@config_option
@click.option(
    "--link", is_flag=True, help="Do not copy what need not change: refer to the source's bytes instead."
)
@max_memory_option("1GiB", "Memory that the build may use")
@click.option(
    "--overwrite", is_flag=True, help="Replace a store that stands there; nothing else is replaced."
)
@click.option("--restart", is_flag=True, help="Discard what an interrupted build left; do not go on with it.")
@click.option(
    "--verify-source", is_flag=True, help="Hash every byte of the source, before and after, and on resuming."
)
@click.option("--strict-finite", is_flag=True, help="Refuse weights that are NaN or infinite.")
@click.option("--dry-run", is_flag=True, help="Print the plan, as `wvindex plan` does, and write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no notes.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    out: str | None,
    mla: str,
    dtype: str,
    absorbed_dtype: str,
    fused_mla_lora_proj: bool,
    config: str | None,
    link: bool,
    max_memory: str,
    overwrite: bool,
    restart: bool,
    verify_source: bool,
    strict_finite: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build a store from SOURCE and print its path.

    SOURCE is a GGUF or safetensors file, a directory of them, or a MaxText checkpoint.
    """
    import wvindex as wv
    from wvindex.building import output_path
    from wvindex.sources.detect import open_source
    from wvindex.store.target import require_target, resolved

    if dry_run:
        planned = wv.plan(
            source,
            mla=mla,
            dtype=dtype,
            absorbed_dtype=absorbed_dtype,
            fused_mla_lora_proj=fused_mla_lora_proj,
            config=config,
        )
        print_plan(ctx, planned, ledger=False, as_json=as_json)
        return
    require_target(resolved(output_path(source, out)), overwrite=overwrite)
    if not quiet:
        with open_source(source, config) as opened:
            for oddity in opened.notes:
                note(oddity)
    started = time.monotonic()
    with build_progress(quiet=quiet) as progress:
        path = wv.build(
            source,
            out,
            mla=mla,
            dtype=dtype,
            absorbed_dtype=absorbed_dtype,
            fused_mla_lora_proj=fused_mla_lora_proj,
            config=config,
            link=link,
            max_memory=max_memory,
            overwrite=overwrite,
            restart=restart,
            verify_source=verify_source,
            strict_finite=strict_finite,
            progress=progress,
        )
    _report(path, time.monotonic() - started, quiet=quiet, as_json=as_json)


def _report(path: Path, seconds: float, *, quiet: bool, as_json: bool) -> None:
    """Print the path; on stderr, what is in the store and what is odd about it."""
    import wvindex as wv
    from wvindex.query.summary import summarize

    with wv.open(path) as db:
        summary = summarize(db)
    if not quiet:
        note(f"{summary.arrays} arrays, {format_size(summary.nbytes)}, in {seconds:.1f} s")
        if summary.linked:
            note(f"linked to the source, which must stay with the store: {summary.linked} of the arrays")
        if summary.unmapped:
            note(f"kept under their own names, for want of a standard key: {len(summary.unmapped)}")
        if summary.nonfinite:
            note(f"arrays that hold NaN or infinity (`wvindex info` names them): {len(summary.nonfinite)}")
    if as_json:
        emit_json({"path": str(path), "arrays": summary.arrays, "nbytes": summary.nbytes})
    else:
        click.echo(str(path))  # as it is: scripts use it
