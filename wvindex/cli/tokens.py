"""``wvindex tokens``: what a vector of a model says through the unembedding."""

from __future__ import annotations

from typing import Any, Final

import click

from wvindex.cli.options import PATH, table_options
from wvindex.cli.output import emit_result, note, require_result
from wvindex.cli.progress import scan_progress
from wvindex.cli.slicing import split_key

_SHOWN: Final = ("query", "end", "rank", "text", "token", "logit")


@click.command("tokens")
@click.argument("path", type=PATH)
@click.argument("key", metavar="KEY[INDEX]")
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="How many at each end."
)
@click.option("--no-norm", is_flag=True, help="Leave the final norm's weight aside.")
@table_options
def command(path: str, key: str, k: int, no_norm: bool, **printing: Any) -> None:
    """Show the tokens that a vector of PATH speaks for and against.

    PATH is a store, or a bare GGUF or safetensors checkpoint. KEY[INDEX] is 'KEY[row]' of a matrix that reads
    the residual stream, 'KEY[:,column]' of one that writes to it, with the expert first for a stack; a range
    means several.
    """
    import wvindex as wv
    from wvindex.inspection.residual import gain_after, one_or_all, residual_vectors
    from wvindex.inspection.unembedding import TOKENS

    require_result(("query", *TOKENS), printing)

    with wv.open(path) as db:
        name, index = split_key(key, db)
        tensor = db[name]
        vectors = residual_vectors(db, tensor, index).values
        require_result(TOKENS if len(vectors) == 1 else ("query", *TOKENS), printing)
        gain = gain_after(db, tensor)
        if gain is not None:
            vectors = vectors * gain[1]
        with scan_progress() as progress:
            table = db.tokens(one_or_all(vectors), k, norm=not no_norm, progress=progress)
    emit_result(table, shown=_SHOWN, **printing)
    if gain is not None:
        note(f"note: what a column writes passes {gain[0]}, whose weight is folded in")
