"""``wvindex ls``: which tensors there are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.options import PATH, ChosenLayers, config_option, csv_option, json_option, layers_option
from wvindex.cli.output import emit, emit_facts, emit_json, emit_table, note
from wvindex.errors import UsageError
from wvindex.garbage import collection_paused
from wvindex.sizes import format_size, shape_text

if TYPE_CHECKING:
    from wvindex.inspection.table import Table
    from wvindex.query.lazy import Tensor

CSV: Final = (
    "key",
    "shape",
    "dtype",
    "encoding",
    "scale_block",
    "nbytes",
    "exactness",
    "mapped",
    "mtp",
    "heads",
    "sources",
    "transforms",
    "aliases",
)
"""Columns of ``--csv``; --json also says how rows are scaled, and what was fused."""


@click.command("ls")
@click.argument("path", type=PATH)
@click.argument("pattern", default="*")
@layers_option
@click.option("--role", metavar="GLOB", help="Of this role in a layer: 'self_attn.*', 'mlp.down_proj'.")
@click.option("-l", "--long", is_flag=True, help="Also where each came from, and its other names.")
@config_option
@json_option
@csv_option
def command(
    path: str,
    pattern: str,
    layers: ChosenLayers,
    role: str | None,
    long: bool,
    config: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List the tensors of PATH.

    PATH is a store, or a bare GGUF, safetensors or MaxText checkpoint. PATTERN is a glob for the key, or for
    another name of the tensor: '*.mlp.experts.*', 'blk.3.*'.
    """
    import wvindex as wv

    if as_json and as_csv:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    with collection_paused(), wv.open(path, config=config) as db:
        tensors = db.select(pattern, layer=layers, role=role)
        if as_csv:
            click.echo(_table(tensors).to_csv(), nl=False)
        elif as_json:
            emit_json({"path": str(db.path), "tensors": [tensor_json(tensor) for tensor in tensors]})
        elif not tensors:
            note("no tensor matches")
        elif long:
            _print_long(tensors)
        else:
            _print_table(tensors)


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """Give what a tensor is as JSON values."""
    scale = tensor.row_scale
    return {
        "key": tensor.key,
        "shape": tensor.shape,
        "dtype": str(tensor.dtype),
        "encoding": tensor.encoding,
        "scale_block": tensor.scale_block,
        "nbytes": tensor.nbytes,
        "exactness": tensor.exactness,
        "sources": tensor.source,
        "transforms": tensor.transforms,
        "aliases": tensor.aliases,
        "heads": tensor.heads,
        "row_scale": None if scale is None else asdict(scale),
        "parts": [asdict(part) for part in tensor.spec.parts],
        "widths": tensor.spec.widths,
        "mapped": tensor.spec.mapped,
        "mtp": tensor.mtp,
    }


def _table(tensors: list[Tensor]) -> Table:
    """Give what `tensor_json` says of each tensor, so far as a cell holds it."""
    from wvindex.inspection.table import Table

    return Table.of_dicts("tensors", CSV, [tensor_json(tensor) for tensor in tensors])


def _print_table(tensors: list[Tensor]) -> None:
    rows = [(t.key, shape_text(t.shape), t.encoding, format_size(t.nbytes), t.exactness) for t in tensors]
    emit_table(("key", "shape", "type", "size", "exactness"), rows, right=("size",))


def _print_long(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        size = format_size(tensor.nbytes)
        emit(tensor.key)
        emit_facts(
            (f"  {label}", value)
            for label, value in (
                ("is", f"{shape_text(tensor.shape)}, {tensor.encoding}, {size}, {tensor.exactness}"),
                ("from", ", ".join(tensor.source)),
                ("by", ", ".join(tensor.transforms)),
                ("also", ", ".join(tensor.aliases)),
                ("holds", ", ".join(tensor.parts)),
            )
            if value
        )
