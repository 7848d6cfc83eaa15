"""``wvindex inspect``: a page for a layer, a page for a model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.options import PATH, layer_option, table_options
from wvindex.cli.output import emit, emit_json, emit_result, note, require_result
from wvindex.cli.progress import scan_progress
from wvindex.errors import UsageError

if TYPE_CHECKING:
    from wvindex.inspection.layer_page import LayerPage
    from wvindex.inspection.model_page import ModelPage

_WIDEST: Final = 100
"""Columns of a page on a wide terminal: longer lines are hard to read."""

_OF_TENSORS: Final = ("key", "shape", "encoding", "exactness", "bits_per_weight", "std", "absmax", "kurtosis")

SHOWN: Final = {
    "tensors": _OF_TENSORS,
    "heads": ("head", "kv_head", "qk_norm", "ov_norm", "q_l2", "k_l2", "v_l2", "o_l2"),
    "features": ("role", "features", "zeros", "least", "median", "most", "top"),
    "rows": ("key", "rows", "zero_rows", "constant_rows", "zero_columns", "least", "median", "most"),
}
"""Columns that fit a terminal, of tables that have more; --columns, --json and --csv have the others."""


@click.command("inspect")
@click.argument("path", type=PATH)
@layer_option
@click.option("--no-stats", is_flag=True, help="Read headers alone, and leave open what the weights tell.")
@click.option("--no-keep", is_flag=True, help="Compute all of it, and leave the store's stats/ alone.")
@click.option(
    "--table",
    "name",
    metavar="NAME",
    help="One table of the page alone: tensors, anomalies; of a layer heads, features, rows, experts; of a "
    "model layers, roles, encodings, exactness, elsewhere. --csv prints the tensors where none is named.",
)
@table_options
def command(
    path: str, layer: int | None, no_stats: bool, no_keep: bool, name: str | None, **printing: Any
) -> None:
    """Show PATH, or one of its layers, on a page.

    PATH is a store, or a bare GGUF or safetensors checkpoint. The statistics are those of `wvindex stats`; a
    store keeps them, and shows the page at once the second time.
    """
    import wvindex as wv

    one_table = name is not None or printing["as_csv"]
    if not one_table and any(printing[option] for option in ("sort", "ascending", "columns")):
        raise UsageError("a page is not sorted; a table of it is", field="table", expected="--table NAME")
    reads_weights = not no_stats
    if one_table:
        reads_weights &= _require_table(layer, name or "tensors", printing)
    with scan_progress() as progress:
        options: dict[str, Any] = {"stats": reads_weights, "keep": not no_keep, "progress": progress}
        page: LayerPage | ModelPage = (
            wv.inspect(path, **options) if layer is None else wv.inspect(path, layer, **options)
        )
    if one_table:
        table = page.tables()[name or "tensors"]
        table = replace(table, notes=tuple(dict.fromkeys((*table.notes, *page.notes))))
        emit_result(table, shown=SHOWN.get(table.name, table.columns), **printing)
    elif printing["as_json"]:
        emit_json(page.to_json())
    else:
        _print_page(page)
        for text in page.notes:
            note(f"note: {text}")


def _require_table(layer: int | None, name: str, printing: Mapping[str, Any]) -> bool:
    """Refuse a table that the page will not have; say whether weights are read for it."""
    from wvindex.inspection import layer_page, model_page

    tables = model_page.TABLES if layer is None else layer_page.TABLES
    if name not in tables:
        raise UsageError("this page has no such table", field="table", expected=", ".join(tables), found=name)
    require_result(tables[name], printing)
    return layer is not None or name not in model_page.OF_HEADERS


def _print_page(page: LayerPage | ModelPage) -> None:
    if not sys.stdout.isatty():
        emit(str(page))
        return
    from rich.console import Console

    from wvindex.inspection.page_text import laid_out

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    Console(file=sys.stdout, width=width, highlight=False, emoji=False).print(laid_out(page))
