"""``wvindex ls``: which tensors there are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wvindex.cli.options import PATH, config_option, json_option
from wvindex.cli.output import emit, emit_facts, emit_json, emit_table, note, shape_text
from wvindex.cli.slicing import parse_layers
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.query.database import Store
    from wvindex.query.lazy import Tensor


@click.command("ls")
@click.argument("path", type=PATH)
@click.argument("pattern", default="*")
@click.option("--layer", metavar="LAYERS", help="Of these layers alone: 3, or 3:7 (3 to 6), or 1,4.")
@click.option("--role", metavar="GLOB", help="Of this role in a layer: 'self_attn.*', 'mlp.down_proj'.")
@click.option("-l", "--long", is_flag=True, help="Also where each came from, and its other names.")
@config_option
@json_option
def command(
    path: str,
    pattern: str,
    layer: str | None,
    role: str | None,
    long: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """List the tensors of PATH.

    PATH is a store, or a bare GGUF, safetensors or MaxText checkpoint. PATTERN is a glob for the key, or for
    another name of the tensor: '*.mlp.experts.*', 'blk.3.*'.
    """
    import wvindex as wv

    with wv.open(path, config=config) as db:
        tensors = _selected(db, pattern, layer, role)
        if as_json:
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


def _selected(db: Store, pattern: str, layer: str | None, role: str | None) -> list[Tensor]:
    if layer is None:
        return db.select(pattern, role=role)
    chosen = {t.key for one in parse_layers(layer) for t in db.select(pattern, layer=one, role=role)}
    return [tensor for tensor in db.select(pattern, role=role) if tensor.key in chosen]


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
