"""``wvindex run``: continue a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.errors import printable
from wvindex.cli.options import PATH, json_option, max_memory_option
from wvindex.cli.output import emit_json, emit_table, note
from wvindex.cli.runnable import check_runs
from wvindex.cli.text_stream import text_pieces
from wvindex.errors import UsageError, WvindexError

if TYPE_CHECKING:
    from wvindex.infer import Model
    from wvindex.query.database import Store
    from wvindex.tokenizer import Tokenizer

_KEEP: Final = "\n\t"
"""Control characters of a model's text that reach the terminal."""


@click.command("run")
@click.argument("path", type=PATH)
@click.argument("prompt", required=False)
@click.option("--tokens", metavar="IDS", help="Token ids to continue, such as 1,2,3, instead of PROMPT.")
@click.option("-n", "--max-new-tokens", type=int, default=40, show_default=True, help="Where to stop.")
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token; 1 draws from the model's distribution.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Makes the draws repeatable.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="K",
    help="Print the K likeliest next tokens, and generate nothing.",
)
@max_memory_option("4GiB", "Weights to keep between tokens, as they are stored")
@json_option
def command(
    path: str,
    prompt: str | None,
    tokens: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
    top: int | None,
    max_memory: str,
    as_json: bool,
) -> None:
    """Continue PROMPT with the model in PATH.

    The tokenizer is the one that PATH holds. The prompt and its continuation are printed as they come. With
    --tokens, where PATH has no tokenizer,
    the ids of the new tokens are printed.
    """
    import wvindex as wv
    from wvindex.infer import Model

    with wv.open(path) as db:
        check_runs(db)
        tokenizer = _tokenizer(db, optional=tokens is not None)
        ids = _prompt_ids(tokenizer, prompt, tokens)
        if prompt is None and tokenizer is not None:
            prompt = tokenizer.decode(ids)
        model = Model(db, max_memory=max_memory)
        document = {"prompt": prompt, "prompt_tokens": ids}
        if top is not None:
            _print_top(document, _likeliest(model, tokenizer, ids, top), as_json=as_json)
            return
        stream = model.stream(ids, max_new_tokens, temperature, seed)
        if as_json:
            emit_json(document | _continuation(model, tokenizer, ids, list(stream)))
        else:
            _print_stream(tokenizer, prompt, ids, stream)


def _tokenizer(db: Store, *, optional: bool) -> Tokenizer | None:
    try:
        return db.tokenizer
    except WvindexError as error:
        if not optional:
            raise
        note(f"no tokenizer, so ids alone: {error.message}")
        return None


def _prompt_ids(tokenizer: Tokenizer | None, prompt: str | None, tokens: str | None) -> list[int]:
    if (prompt is None) == (tokens is None):
        raise UsageError("give a prompt or --tokens, one of them")
    if tokens is None:
        return tokenizer.encode(prompt or "") if tokenizer else []
    try:
        return [int(part) for part in tokens.split(",")]
    except ValueError:
        raise UsageError("not token ids", field="tokens", expected="such as 1,2,3", found=tokens) from None


def _continuation(
    model: Model, tokenizer: Tokenizer | None, ids: list[int], new: list[int]
) -> dict[str, Any]:
    ended = bool(new) and new[-1] in model.config.eos_token_ids
    return {
        "tokens": new,
        "text": None if tokenizer is None else "".join(text_pieces(tokenizer, ids, new)),
        "stopped": "eos" if ended else "length",
    }


def _print_stream(
    tokenizer: Tokenizer | None, prompt: str | None, ids: list[int], stream: Iterator[int]
) -> None:
    """Print each piece when it is known: text, or ids that ``--tokens`` would take."""
    if tokenizer is None:
        for position, token in enumerate(stream):
            click.echo(f",{token}" if position else str(token), nl=False)
    else:
        click.echo(printable(prompt or "", keep=_KEEP), nl=False)
        for piece in text_pieces(tokenizer, ids, stream):
            click.echo(printable(piece, keep=_KEEP), nl=False)
    click.echo()


def _likeliest(model: Model, tokenizer: Tokenizer | None, ids: list[int], count: int) -> list[dict[str, Any]]:
    """Give the likeliest next tokens, best first."""
    import numpy as np

    logits = model.forward(ids, last_only=True).logits[0].astype(np.float64)  # (vocab_size,)
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    return [
        {
            "token": int(token),
            "text": tokenizer.id_to_token(int(token)) if tokenizer else None,
            "logit": float(logits[token]),
            "probability": float(probabilities[token]),
        }
        for token in np.argsort(-logits, kind="stable")[:count]
    ]


def _print_top(document: dict[str, Any], likeliest: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        emit_json(document | {"top": likeliest})
        return
    rows = [
        (one["text"] or "", str(one["token"]), f"{one['logit']:.4f}", f"{one['probability']:.4f}")
        for one in likeliest
    ]
    emit_table(("text", "token", "logit", "probability"), rows, right=("token", "logit", "probability"))
