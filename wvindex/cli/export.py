"""``wvindex export``: a store back to a GGUF file, a Hugging Face directory or a MaxText checkpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from wvindex.cli.options import PATH, STORAGE, json_option, max_memory_option
from wvindex.cli.output import emit, emit_json, emit_result, note
from wvindex.cli.progress import build_progress
from wvindex.errors import UsageError
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.exporting.outline import Export
    from wvindex.inspection.table import Table

FORMATS = ("safetensors", "gguf", "maxtext")
FORMS = ("keep", "absorb")


@click.command("export")
@click.argument("store", type=PATH)
@click.argument("out", type=PATH)
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True, help="What OUT shall be.")
@click.option(
    "--mla",
    type=click.Choice(FORMS),
    help="Latent attention as its factors, or as dense arrays that only wvindex knows; by default the "
    "factors where the store has them.",
)
@click.option(
    "--dtype",
    type=click.Choice(STORAGE),
    default="keep",
    show_default=True,
    help="'keep' writes what is stored; others decode weights, and cast them.",
)
@click.option("--no-tokenizer", is_flag=True, help="Leave the tokenizer out.")
@click.option("--max-shard-size", metavar="SIZE", help="Bytes of tensors in a file, such as 5GB.")
@click.option(
    "--no-scan-layers", is_flag=True, help="For maxtext: a leaf for each layer; otherwise they are stacked."
)
@click.option(
    "--fused-mla-lora-proj",
    is_flag=True,
    help="For maxtext: the down-projections of latent attention as one leaf, wq_kv_a.",
)
@max_memory_option("1GiB", "Memory that the export may use")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a checkpoint of this format that stands at OUT, once all is done.",
)
@click.option("--restart", is_flag=True, help="Discard what an interrupted export left.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no notes.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print every tensor as comma-separated values.")
@click.pass_context
def command(
    ctx: click.Context,
    store: str,
    out: str,
    format_: Any,
    mla: Any,
    dtype: str,
    no_tokenizer: bool,
    max_shard_size: str | None,
    no_scan_layers: bool,
    fused_mla_lora_proj: bool,
    max_memory: str,
    overwrite: bool,
    restart: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Write STORE as a checkpoint for other programs.

    Prints its path. OUT is a directory for safetensors and for MaxText, a file for GGUF, and a directory of
    files with --max-shard-size. A bare GGUF or safetensors checkpoint serves as well as a store.
    """
    import wvindex as wv

    if as_json and as_csv:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    asked: dict[str, Any] = {
        "format": format_,
        "mla": mla,
        "dtype": dtype,
        "tokenizer": not no_tokenizer,
        "max_shard_size": max_shard_size,
        "scan_layers": not no_scan_layers,
        "fused_mla_lora_proj": fused_mla_lora_proj,
    }
    started = time.monotonic()
    if not dry_run:
        with build_progress(quiet=quiet) as progress:
            wv.export(
                store,
                out,
                **asked,
                max_memory=max_memory,
                overwrite=overwrite,
                restart=restart,
                progress=progress,
            )
    planned = wv.plan_export(store, out, **asked) if dry_run or as_json or as_csv or not quiet else None
    if planned is None or not (dry_run or as_json or as_csv):
        click.echo(out)  # as it is: scripts use it
    else:
        _print(planned, as_json=as_json, as_csv=as_csv)
    if planned is not None and not quiet and not dry_run:
        size, seconds = format_size(planned.nbytes), time.monotonic() - started
        note(f"{len(planned.tensors)} tensors, {size}, in {seconds:.1f} s")
        for text in planned.notes:
            note(text)
    if planned is not None and planned.refusals:
        ctx.exit(4)


def _print(planned: Export, *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        emit_json(planned.to_dict())
    elif as_csv:
        emit_result(_table(planned), shown=(), as_csv=True)
    else:
        emit(str(planned))


def _table(planned: Export) -> Table:
    from wvindex.inspection.table import Table

    columns = ("name", "dtype", "shape", "nbytes", "file")
    rows = ((one.name, one.dtype, list(one.shape), one.nbytes, one.file) for one in planned.tensors)
    return Table("tensors", columns, tuple(rows))
