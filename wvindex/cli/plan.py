"""``wvindex plan``: what a build would write, from what, and what it would refuse."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.options import PATH, build_options, config_option, json_option
from wvindex.cli.output import emit, emit_json, emit_table
from wvindex.sizes import shape_text

if TYPE_CHECKING:
    from wvindex.transform.plan import Operation, Plan

REFUSED: Final = 4
"""Exit code where a source is readable, but cannot be stored as asked."""


@click.command("plan")
@click.argument("source", type=PATH)
@build_options
@config_option
@click.option("--ledger", is_flag=True, help="Also list every array, and where each source tensor goes.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    mla: str,
    dtype: str,
    absorbed_dtype: str,
    fused_mla_lora_proj: bool,
    config: str | None,
    ledger: bool,
    as_json: bool,
) -> None:
    """Tell what a build of SOURCE would write.

    Only headers are read, and nothing is written. SOURCE is a GGUF or safetensors file, a directory of
    them, or a MaxText checkpoint. The exit code is 4 if the build would be refused.
    """
    import wvindex as wv

    planned = wv.plan(
        source,
        mla=mla,
        dtype=dtype,
        absorbed_dtype=absorbed_dtype,
        fused_mla_lora_proj=fused_mla_lora_proj,
        config=config,
    )
    print_plan(ctx, planned, ledger=ledger, as_json=as_json)


def print_plan(ctx: click.Context, planned: Plan, *, ledger: bool, as_json: bool) -> None:
    """Print a plan, and exit with 4 if it refuses anything."""
    if as_json:
        emit_json(plan_json(planned))
    else:
        emit(str(planned))
        if ledger:
            _print_ledger(planned)
    if planned.refusals:
        ctx.exit(REFUSED)


def plan_json(planned: Plan) -> dict[str, Any]:
    """Give a whole plan as JSON values."""
    return {
        "family": planned.config.family,
        "model_type": planned.config.model_type,
        "options": dict(planned.options),
        "bytes_in": planned.bytes_in,
        "bytes_out": planned.bytes_out,
        "peak_memory": planned.peak_memory,
        "operations": [_operation_json(operation) for operation in planned.operations],
        "ledger": [asdict(entry) for entry in planned.ledger],
        "refusals": [
            {"tensor": refusal.tensor, "kind": refusal.error.kind, "message": str(refusal.error)}
            for refusal in planned.refusals
        ],
        "config": planned.config.to_json(),
    }


def _operation_json(operation: Operation) -> dict[str, Any]:
    spec = operation.spec
    return {
        "key": spec.key,
        "shape": spec.shape,
        "encoding": spec.encoding.name,
        "nbytes": spec.nbytes,
        "exactness": spec.exactness,
        "sources": spec.sources,
        "transforms": spec.transforms,
        "mapped": spec.mapped,
        "mtp": spec.mtp,
    }


def _print_ledger(planned: Plan) -> None:
    emit()
    emit_table(
        ("array", "shape", "type", "exactness", "how"),
        [
            (
                operation.spec.key,
                shape_text(operation.spec.shape),
                operation.spec.encoding.name,
                operation.spec.exactness,
                ", ".join(operation.spec.transforms) or "copy",
            )
            for operation in planned.operations
        ],
    )
    emit()
    for entry in planned.ledger:
        for place in entry.keys or (entry.reason or "refused",):
            role = f" ({entry.reason})" if entry.keys and entry.reason else ""
            emit(f"{entry.tensor} -> {place}{role}")
