"""WV1xx: values that no training leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from wvindex.arch.keys import split_layer
from wvindex.inspection.linting.look import LARGEST_HALF, Lines, Look, can_look
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.places import listed, place_of
from wvindex.inspection.linting.rule import Found, Rule

EXTREME: Final = 100.0
"""Times the median row's largest magnitude. The largest weights of trained models are at some 30."""

SATURATED_CODES: Final = 0.05
"""Share of FP8 codes at the largest value; a block that is scaled to its largest has about one in 10,000."""

LEAST_LINE: Final = 16
"""Values of a row or column that are not equal by chance, not even where they are a few levels."""

ROUTER: Final = "mlp.gate."


def _is_vocabulary(key: str) -> bool:
    return key in {EMBEDDING, HEAD} or split_layer(key)[1] in {
        "embed_tokens.weight",
        "shared_head.head.weight",
    }


def nonfinite_weights(model: Model) -> Iterator[Found]:
    """NaN and infinity among weights; where a scale is to blame, that is another rule's."""
    for key, look in model.looks.items():
        if split_layer(key)[1].startswith(ROUTER):
            continue
        nan, inf = look.tallies["nan"], look.tallies["inf"]
        if look.tallies["scale-nonfinite"]:
            nan, inf = look.tallies["code-nan"], type(inf)()
        if nan or inf:
            first = min((nan, inf), key=lambda tally: tally.first)
            yield Found(
                **place_of(look.tensor, *first.first),
                message=f"{nan.count} NaN and {inf.count} infinite of {look.tensor.size} values",
                value=first.value,
                count=nan.count + inf.count,
            )
    yield from _nonfinite_vectors(model, routers=False)


def nonfinite_routers(model: Model) -> Iterator[Found]:
    """NaN and infinity in what chooses experts."""
    for key, look in model.looks.items():
        nan, inf = look.tallies["nan"], look.tallies["inf"]
        if split_layer(key)[1].startswith(ROUTER) and (nan or inf):
            first = min((nan, inf), key=lambda tally: tally.first)
            yield Found(
                **place_of(look.tensor, *first.first),
                message=f"{nan.count} NaN and {inf.count} infinite: expert {first.first[0]} and maybe others",
                value=first.value,
                count=nan.count + inf.count,
            )
    yield from _nonfinite_vectors(model, routers=True)


def _nonfinite_vectors(model: Model, *, routers: bool) -> Iterator[Found]:
    for key, values in model.vectors.items():
        if split_layer(key)[1].startswith(ROUTER) != routers:
            continue
        odd = [i for i, value in enumerate(values.tolist()) if not math.isfinite(value)]
        if odd:
            yield Found(
                tensor=key,
                column=odd[0],
                message=f"{len(odd)} of {len(values)} values are NaN or infinite: {listed(odd, len(odd))}",
                value=float(values[odd[0]]),
                count=len(odd),
                indices=tuple(odd[:8]),
            )


def zero_tensors(model: Model) -> Iterator[Found]:
    """Matrices of nothing but zeros."""
    for key, look in model.looks.items():
        if look.is_zero:
            size = look.tensor.size
            yield Found(tensor=key, message=f"all {size} values are zero", value=0.0, count=size)


def zero_rows(model: Model) -> Iterator[Found]:
    """Outputs that are always zero."""
    for key, look in model.looks.items():
        if not _is_vocabulary(key) and look.tensor.shape[-1] >= LEAST_LINE:
            yield from _lines(look, look.zero_rows, "row", "zero")


def zero_columns(model: Model) -> Iterator[Found]:
    """Inputs that nothing depends on."""
    for look in model.looks.values():
        if look.tensor.shape[-2] >= LEAST_LINE:
            yield from _lines(look, look.zero_columns, "column", "zero")


def constant_rows(model: Model) -> Iterator[Found]:
    """Outputs whose weights are all one value."""
    for key, look in model.looks.items():
        if not _is_vocabulary(key) and look.tensor.shape[-1] >= LEAST_LINE:
            yield from _lines(look, look.constant_rows, "row", "one value each")


def constant_columns(model: Model) -> Iterator[Found]:
    """Inputs whose weights are all one value."""
    for look in model.looks.values():
        if look.tensor.shape[-2] >= LEAST_LINE:
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
    stacked = look.tensor.ndim > 2
    matrix, place = lines.first[0]
    of = len(look.dead) * look.tensor.shape[-2 if what == "row" else -1]
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


def extreme_weights(model: Model) -> Iterator[Found]:
    """Weights that are out of all proportion to the others of their matrix."""
    for look in model.looks.values():
        ratio = look.absmax / look.row_absmax if look.row_absmax > 0 else 0.0
        if ratio < EXTREME or look.tensor.size // look.tensor.shape[-1] < LEAST_LINE:
            continue
        row = (
            look.tensor.expert(look.absmax_row // look.tensor.shape[-2])
            if look.tensor.ndim > 2
            else look.tensor
        )
        values = abs(row.read(rows=_one(look.absmax_row % look.tensor.shape[-2]), dtype="float32"))
        column = int(values.reshape(-1).argmax())
        yield Found(
            **place_of(look.tensor, look.absmax_row, column),
            message=f"magnitude {look.absmax:.4g}, {ratio:.4g} times the median row's largest",
            value=look.absmax,
            count=1,
        )


def _one(row: int) -> tuple[int, int]:
    return row, row + 1


def saturated_half(model: Model) -> Iterator[Found]:
    """Weights that stand exactly at the end of float16."""
    for look in model.looks.values():
        found = look.tallies["saturated"]
        if found and look.absmax == LARGEST_HALF:
            yield Found(
                **place_of(look.tensor, *found.first),
                message=f"{found.count} values have the magnitude 65504, the largest float16",
                value=found.value,
                count=found.count,
            )


def saturated_codes(model: Model) -> Iterator[Found]:
    """FP8 codes at the end of their range: without scales any, with scales more than scaling gives."""
    for look in model.looks.values():
        found, size = look.tallies["code-saturated"], look.tensor.size
        allowed = SATURATED_CODES * size if look.tensor.scale_block else 0
        if found.count > allowed:
            yield Found(
                **place_of(look.tensor, *found.first),
                message=f"{found.count} of {size} codes have the largest magnitude of {look.tensor.encoding}",
                count=found.count,
            )


def undecodable(model: Model) -> Iterator[Found]:
    """Tensors whose values nobody can look at."""
    for key, tensor in model.tensors.items():
        if tensor.size and tensor.spec.encoding.dtype is None and tensor.ndim > 1 and not can_look(tensor):
            yield Found(tensor=key, message=f"nobody decodes {tensor.encoding}", value=tensor.encoding)


RULES: Final = (
    Rule(
        id="WV101",
        name="nonfinite-weights",
        severity="error",
        title="NaN or infinite weights",
        help="One such weight spreads to every logit. It comes from an overflow in training or in a "
        "conversion to float16, or from a damaged file. Where packed or FP8 scales are to blame, "
        "WV201 says so; router weights are WV303's.",
        find=nonfinite_weights,
    ),
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
        id="WV107",
        name="extreme-weights",
        severity="warning",
        title="A weight out of all proportion to its matrix",
        help="Its magnitude is 100 times the largest of the median row, or more. Trained models have "
        "outliers ('super weights'), of some 30 times; a flipped bit in an exponent gives far "
        "more. `wvindex stats --by row --sort absmax` shows the rows.",
        find=extreme_weights,
    ),
    Rule(
        id="WV108",
        name="saturated-float16",
        severity="warning",
        title="Weights cut off at 65504",
        help="The largest float16: a conversion clamped what did not fit. Make the file again from "
        "weights in bfloat16 or float32.",
        find=saturated_half,
    ),
    Rule(
        id="WV109",
        name="saturated-float8",
        severity="warning",
        title="FP8 codes cut off at the end of their range",
        help="Without scales, any code at the end was clamped. With scales by blocks each block's "
        "largest weight stands at the end, by construction; more than 5% of all codes means "
        "scales too small.",
        find=saturated_codes,
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
    Rule(
        id="WV111",
        name="undecodable",
        severity="info",
        title="Values that nobody can decode",
        help="The tensor is kept as it is, and no other rule looks into it.",
        find=undecodable,
        reads_weights=False,
    ),
)
