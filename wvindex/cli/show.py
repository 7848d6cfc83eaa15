"""``wvindex show``: one tensor, where it came from, and its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.ls import tensor_json
from wvindex.cli.options import PATH, config_option, json_option
from wvindex.cli.output import emit, emit_facts, emit_json, note
from wvindex.cli.provenance import provenance
from wvindex.cli.slicing import split_key
from wvindex.cli.values import MAX_PRINTED, read_blocks, read_values, values_json, values_text, write_npy
from wvindex.errors import UndecodableType
from wvindex.sizes import format_size, shape_text
from wvindex.spelling import Item, items_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wvindex.query.lazy import Tensor

_PREVIEW: Final = (4, 5)
"""Rows and columns of a preview: they fit 80 characters."""

_PREVIEW_BLOCK_BYTES: Final = 16
"""Bytes of each row that a preview of stored blocks shows."""


@click.command("show")
@click.argument("path", type=PATH)
@click.argument("key", metavar="KEY[INDEX]")
@click.option("--expert", type=int, metavar="N", help="One expert of a stack.")
@click.option("--head", type=int, metavar="N", help="One head of a projection.")
@click.option("--raw", is_flag=True, help="The stored blocks, in hexadecimal, instead of values.")
@click.option("--npy", type=click.Path(), metavar="FILE", help="Write the values to a NumPy file instead.")
@click.option("--overwrite", is_flag=True, help="Replace the file that --npy names.")
@config_option
@json_option
def command(
    path: str,
    key: str,
    expert: int | None,
    head: int | None,
    raw: bool,
    npy: str | None,
    overwrite: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """Show one tensor of PATH, its origin and its values.

    PATH is a store, or a bare GGUF, safetensors or MaxText checkpoint. KEY is a standard key or any other
    name of the tensor. INDEX is as in NumPy: 'KEY[0:4, -1]'; without one, a corner is shown. With --raw it
    chooses rows.
    """
    import wvindex as wv

    with wv.open(path, config=config) as db:
        name, index = split_key(key, db)
        tensor = _view(db[name], expert, head)
        facts = [*_facts(tensor, head), *provenance(db, tensor)]
        document = tensor_json(tensor)
        if npy is not None:
            write_npy(tensor, index, npy, raw=raw, overwrite=overwrite)
            document["file"] = npy
            text = ""
        else:
            shown, values, text = _content(tensor, index, raw=raw)
            document |= {"selection": shown, "blocks" if raw else "values": values_json(values, raw=raw)}
    if as_json:
        emit_json(document)
        return
    emit_facts(facts)
    if npy is not None:
        note(f"wrote {npy}")
    else:
        emit()
        emit(text)


def _view(tensor: Tensor, expert: int | None, head: int | None) -> Tensor:
    if expert is not None:
        tensor = tensor.expert(expert)
    return tensor if head is None else tensor.head(head)


def _facts(tensor: Tensor, head: int | None) -> list[tuple[str, str]]:
    parts = ""
    if tensor.spec.heads is not None:
        heads = tensor.spec.heads
        axis = "rows" if heads.axis == len(tensor.shape) - 2 or tensor.ndim == 1 else "columns"
        parts = f": {heads.count} heads of {tensor.shape[heads.axis] // heads.count} {axis}"
    block = tensor.scale_block
    scales = f", one scale for {block[0]}x{block[1]}" if block else ""
    return [
        ("key", tensor.key if head is None else f"{tensor.key}, head {head}"),
        ("shape", shape_text(tensor.shape) + parts),
        ("values", f"{tensor.dtype}"),
        ("stored as", f"{tensor.encoding}{scales}, {format_size(tensor.nbytes)}"),
    ]


def _content(
    tensor: Tensor, index: tuple[Item, ...] | None, *, raw: bool
) -> tuple[str | None, NDArray[Any] | None, str]:
    """Give what is shown: its index, its values, and both as text."""
    asked = index is not None
    if index is None:
        index = _preview(tensor, raw=raw)
    label = items_text(index) if index else ""
    try:
        limit = MAX_PRINTED if asked else None
        values = read_blocks(tensor, index, limit=limit) if raw else read_values(tensor, index)
    except UndecodableType:
        if asked:
            raise
        return None, None, f"nobody decodes {tensor.encoding}; --raw shows its blocks"
    shown = f"{tensor.key}{label}" if not raw else f"stored blocks of {tensor.key}{label}"
    row_bytes = None if asked else _PREVIEW_BLOCK_BYTES
    return label, values, f"{shown}\n{values_text(values, raw=raw, row_bytes=row_bytes)}"


def _preview(tensor: Tensor, *, raw: bool) -> tuple[Item, ...]:
    """Give the index of a corner: the first values (or all blocks) of the first rows of the first matrix."""
    rows, columns = (slice(None, end) for end in _PREVIEW)
    first = (0,) * max(tensor.ndim - 2, 0)
    if tensor.ndim < 2:
        return () if raw or not tensor.ndim else (columns,)
    return (*first, rows) if raw else (*first, rows, columns)
