"""WV1xx: whole rows and columns that no training leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wvindex.arch.keys import split_layer
from wvindex.inspection.linting.look import Lines, Look, height_of, is_stack
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule

LEAST_LINE: Final = 16
"""Values of a row or column that are not equal by chance, not even where they are a few levels."""


def _is_vocabulary(key: str) -> bool:
    return key in {EMBEDDING, HEAD} or split_layer(key)[1] in {
        "embed_tokens.weight",
        "shared_head.head.weight",
    }


def _with_rows(model: Model) -> list[Look]:
    """Give what is in weights whose rows are long enough, and no tokens'."""
    long = [look for look in model.weights if look.tensor.shape[-1] >= LEAST_LINE]
    return [look for look in long if not _is_vocabulary(look.tensor.key)]


def _with_columns(model: Model) -> list[Look]:
    """Give what is in weights whose columns are long enough."""
    return [look for look in model.weights if height_of(look.tensor) >= LEAST_LINE]


def zero_tensors(model: Model) -> Iterator[Found]:
    """Matrices of nothing but zeros."""
    for look in model.weights:
        if look.is_zero:
            size = look.tensor.size
            yield Found(tensor=look.tensor.key, message=f"all {size} values are zero", value=0.0, count=size)


def zero_rows(model: Model) -> Iterator[Found]:
    """Outputs that are always zero."""
    for look in _with_rows(model):
        yield from _lines(look, look.zero_rows, "row", "zero")


def zero_columns(model: Model) -> Iterator[Found]:
    """Inputs that nothing depends on."""
    for look in _with_columns(model):
        yield from _lines(look, look.zero_columns, "column", "zero")


def constant_rows(model: Model) -> Iterator[Found]:
    """Outputs whose weights are all one value."""
    for look in _with_rows(model):
        yield from _lines(look, look.constant_rows, "row", "one value each")


def constant_columns(model: Model) -> Iterator[Found]:
    """Inputs whose weights are all one value."""
    for look in _with_columns(model):
        yield from _lines(look, look.constant_columns, "column", "one value each")


def untrained_rows(model: Model) -> Iterator[Found]:
    """Tokens whose row is zero or of one value."""
    for key, look in model.looks.items():
        count = look.zero_rows.count + look.constant_rows.count
        if _is_vocabulary(key) and count and not look.is_zero:
            rows = sorted(place for _, place in (*look.zero_rows.first, *look.constant_rows.first))[:8]
            yield Found(
                tensor=key,
                row=rows[0],
                message=f"{count} of {len(look.tensor)} tokens have a row of one value: "
                f"{listed(rows, count)}",
                count=count,
                indices=tuple(rows),
            )


def _lines(look: Look, lines: Lines, what: str, how: str) -> Iterator[Found]:
    """Tell of rows or columns, all of a tensor in one finding."""
    if not lines.count:
        return
    stacked = is_stack(look.tensor)
    matrix, place = lines.first[0]
    of = len(look.dead) * (height_of(look.tensor) if what == "row" else look.tensor.shape[-1])
    places = [place for _, place in lines.first]
    names = [f"{place} of expert {matrix}" for matrix, place in lines.first] if stacked else places
    plural = "" if lines.count == 1 else "s"
    yield Found(
        tensor=look.tensor.key,
        expert=matrix if stacked else None,
        row=place if what == "row" else None,
        column=place if what == "column" else None,
        message=f"{lines.count} of {of} {what}s {'is' if not plural else 'are'} {how}: "
        f"{listed(names, lines.count)}",
        count=lines.count,
        indices=tuple(places),
    )


RULES: Final = (
    Rule(
        id="WV102",
        name="zero-tensor",
        severity="warning",
        title="A matrix of nothing but zeros",
        help="The projection does nothing. It was not initialized, not written (a hole in a file reads "
        "as zeros), or pruned away. Vectors may be zero: a bias often is.",
        find=zero_tensors,
    ),
    Rule(
        id="WV103",
        name="zero-rows",
        severity="warning",
        title="Rows that are zero: outputs that are always zero",
        help="In gate_proj and up_proj these are dead FFN features, in a router experts that all "
        "inputs score alike, in q, k and v dead dimensions of heads. Pruned models and heads that "
        "are padded for tensor parallelism have them on purpose. Embeddings and heads are "
        "WV110's; rows of less than 16 values are not looked at.",
        find=zero_rows,
    ),
    Rule(
        id="WV104",
        name="zero-columns",
        severity="warning",
        title="Columns that are zero: inputs that nothing depends on",
        help="In down_proj these are dead FFN features, in o_proj dead dimensions of heads. Pruned "
        "models and padded heads have them on purpose. Columns of less than 16 values are not "
        "looked at.",
        find=zero_columns,
    ),
    Rule(
        id="WV105",
        name="constant-rows",
        severity="warning",
        title="Rows of one value other than zero",
        help="Trained rows vary. One value all along comes from a fill that was never overwritten, or "
        "from damage. Rows of less than 16 values are not looked at.",
        find=constant_rows,
    ),
    Rule(
        id="WV106",
        name="constant-columns",
        severity="warning",
        title="Columns of one value other than zero",
        help="As WV105, of inputs. Columns of less than 16 values are not looked at.",
        find=constant_columns,
    ),
    Rule(
        id="WV110",
        name="untrained-tokens",
        severity="info",
        title="Tokens whose embedding or head row is zero, or of one value",
        help="Vocabularies are padded, and have reserved tokens that were never trained. Such a token "
        "in a prompt says nothing to the model.",
        find=untrained_rows,
    ),
)
