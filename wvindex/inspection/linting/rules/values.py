"""WV1xx: single values that no training leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from wvindex.arch.keys import split_layer
from wvindex.inspection.linting.look import LARGEST_HALF, can_look, is_weight
from wvindex.inspection.linting.model import Model
from wvindex.inspection.linting.places import listed, place_of
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.inspection.linting.rules.lines import LEAST_LINE
from wvindex.inspection.linting.tally import Tally
from wvindex.inspection.scan import widened

EXTREME: Final = 100.0
"""Times the median row's largest magnitude. The largest weights of trained models are at some 30."""

SATURATED_CODES: Final = 0.05
"""Share of FP8 codes at the largest value; a block that is scaled to its largest has about one in 10,000."""

ROUTER: Final = "mlp.gate."


def nonfinite_weights(model: Model) -> Iterator[Found]:
    """NaN and infinity among weights; where a scale is to blame, that is another rule's."""
    for key, look in model.looks.items():
        if split_layer(key)[1].startswith(ROUTER):
            continue
        nan, inf = look.tallies["nan"], look.tallies["inf"]
        if look.tallies["scale-nonfinite"]:
            nan, inf = look.tallies["code-nan"], Tally()
        if not is_weight(look.tensor):
            inf = Tally()  # a mask has them
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


def extreme_weights(model: Model) -> Iterator[Found]:
    """Weights that are out of all proportion to the others of their matrix."""
    for look in model.weights:
        tensor = look.tensor
        ratio = look.absmax / look.row_absmax if look.row_absmax > 0 else 0.0
        if ratio < EXTREME or math.prod(tensor.shape[:-1]) < LEAST_LINE:
            continue
        row = np.unravel_index(look.absmax_row, tensor.shape[:-1])
        column = int(np.argmax(np.nan_to_num(np.abs(widened(tensor[tuple(map(int, row))])))))
        yield Found(
            **place_of(tensor, look.absmax_row, column),
            message=f"magnitude {look.absmax:.4g}, {ratio:.4g} times the median row's largest",
            value=look.absmax,
            count=1,
        )


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
        id="WV111",
        name="undecodable",
        severity="info",
        title="Values that nobody can decode",
        help="The tensor is kept as it is, and no other rule looks into it.",
        find=undecodable,
        reads_weights=False,
    ),
)
