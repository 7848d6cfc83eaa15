"""``wvindex describe``: the features that a token excites in each layer, and the tokens that they write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import click

from wvindex.cli.options import PATH, ChosenLayers, layers_option, table_options
from wvindex.cli.output import emit_result, require_result
from wvindex.cli.progress import scan_progress

if TYPE_CHECKING:
    from wvindex.inspection.features import Choice

_SHOWN: Final = ("text", "layer", "part", "expert", "feature", "weight", "activation", "writes")


@click.command("describe")
@click.argument("path", type=PATH)
@click.argument("text")
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=5, show_default=True, help="Features of each layer."
)
@layers_option
@click.option(
    "--writes",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Tokens that each feature writes.",
)
@click.option(
    "--token",
    type=click.Choice(("each", "first", "last")),
    default="each",
    show_default=True,
    help="Which to describe where TEXT is several tokens.",
)
@click.option("--no-norm", is_flag=True, help="Leave the final norm's weight aside.")
@table_options
def command(
    path: str,
    text: str,
    k: int,
    layers: ChosenLayers,
    writes: int,
    token: str,
    no_norm: bool,
    **printing: Any,
) -> None:
    """Show the features of PATH that a token excites.

    Taken is its embedding, normed as each layer's MLP norms its input: no attention, no layers before.

    PATH is a store, or a bare GGUF or safetensors checkpoint. TEXT is tokenized as it stands: for many
    vocabularies ' France' and 'France' are different tokens.
    """
    import wvindex as wv
    from wvindex.inspection.features import FEATURES

    require_result(FEATURES, printing)
    with wv.open(path) as db, scan_progress() as progress:
        table = db.describe(
            text,
            layers=layers,
            k=k,
            writes=writes,
            token=cast("Choice", token),
            norm=not no_norm,
            progress=progress,
        )
    empty = {name for name in ("expert", "weight") if set(table[name]) <= {None, 1.0}}
    emit_result(table, shown=[name for name in _SHOWN if name not in empty], **printing)
