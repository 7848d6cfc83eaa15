"""``wvindex neighbors``: the vectors of a model most like one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import click

from wvindex.cli.options import PATH, ChosenLayers, layers_option, table_options
from wvindex.cli.output import emit_result, require_result
from wvindex.cli.progress import scan_progress
from wvindex.cli.slicing import split_key

if TYPE_CHECKING:
    from wvindex.inspection.search import Metric

_ALWAYS: Final = ("key", "score")


@click.command("neighbors")
@click.argument("path", type=PATH)
@click.argument("key", metavar="KEY[INDEX]")
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="How many for each.")
@layers_option
@click.option(
    "--role", metavar="GLOB", help="In this role: 'mlp.down_proj', 'model.embed_tokens'; KEY's own."
)
@click.option(
    "--metric",
    type=click.Choice(("cosine", "dot")),
    default="cosine",
    show_default=True,
    help="Directions alone, or lengths too.",
)
@table_options
def command(
    path: str, key: str, k: int, layers: ChosenLayers, role: str | None, metric: str, **printing: Any
) -> None:
    """Find the vectors of PATH most like one of them, exactly.

    PATH is a store, or a bare GGUF or safetensors checkpoint. KEY[INDEX] is 'KEY[row]' of a matrix that reads
    the residual stream, 'KEY[:,column]' of one that writes to it, with the expert first for a stack; a range
    means several.
    """
    import wvindex as wv
    from wvindex.inspection.neighbors import NEIGHBORS
    from wvindex.inspection.residual import one_or_all, residual_vectors, role_of_stack

    require_result(("query", *NEIGHBORS), printing)
    with wv.open(path) as db:
        name, index = split_key(key, db)
        tensor = db[name]
        vectors = residual_vectors(db, tensor, index).values
        require_result(NEIGHBORS if len(vectors) == 1 else ("query", *NEIGHBORS), printing)
        with scan_progress() as progress:
            table = db.neighbors(
                one_or_all(vectors),
                role or role_of_stack(tensor.key).translate(_LITERAL),
                layers=layers,
                k=k,
                metric=cast("Metric", metric),
                progress=progress,
            )
    shown = [name for name in table.columns if name in _ALWAYS or any(one is not None for one in table[name])]
    emit_result(table, shown=[name for name in shown if name != "layer"], **printing)


_LITERAL: Final = str.maketrans({mark: f"[{mark}]" for mark in "*?["})
"""What makes a glob of a name that may hold a glob's own marks."""
