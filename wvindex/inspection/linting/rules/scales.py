"""WV2xx: scales of packed blocks and of FP8."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from wvindex.inspection.linting.model import Model
from wvindex.inspection.linting.places import place_of
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.sizes import shape_text

_SCALE_NAME: Final = re.compile(
    r"(.+?)\.?(?:weight_scale_inv|weight_scale(?:_2)?|input_scale|_scale_inv|scales|SCB|scale|absmax)"
)

_FLOAT8: Final = frozenset({"F8_E4M3", "F8_E5M2"})


def _scales(kind: str, what: str) -> Callable[[Model], Iterator[Found]]:
    """Make the rule's function of one kind of odd scales."""

    def find(model: Model) -> Iterator[Found]:
        for look in model.looks.values():
            found = look.tallies[f"scale-{kind}"]
            if found:
                yield Found(
                    **place_of(look.tensor, *found.first),
                    message=f"{found.count} of {look.n_scales} scales ({look.tensor.encoding}) {what}",
                    value=found.value,
                    count=found.count,
                )

    return find


def orphan_scales(model: Model) -> Iterator[Found]:
    """Scales that belong to no codes."""
    for key in _scale_names(model):
        tensor = model.tensors[key]
        owner = _SCALE_NAME.fullmatch(key)
        weight = f"{owner[1]}.weight" if owner else ""
        what = f"{weight} is {model.db[weight].encoding}" if weight in model.db else "there is no such weight"
        yield Found(
            tensor=key,
            message=f"scales of shape {shape_text(tensor.shape)} that nothing is scaled by: {what}",
            value=tensor.encoding,
        )


def is_scale_name(key: str) -> bool:
    """Whether a tensor that no rule maps is named as scales are."""
    return _SCALE_NAME.fullmatch(key) is not None


def _scale_names(model: Model) -> list[str]:
    if model.config.family is None:
        return []
    return [key for key, tensor in model.tensors.items() if not tensor.spec.mapped and is_scale_name(key)]


def unscaled_float8(model: Model) -> Iterator[Found]:
    """FP8 matrices that are taken as they are."""
    keys = [
        key
        for key, tensor in model.tensors.items()
        if tensor.encoding in _FLOAT8 and tensor.scale_block is None and tensor.ndim > 1
    ]
    if keys:
        yield Found(
            tensor=keys[0],
            message=f"{len(keys)} FP8 matrices have no scales, and are read as they are",
            count=len(keys),
        )


RULES: Final = (
    Rule(
        id="WV201",
        name="nonfinite-scales",
        severity="error",
        title="NaN or infinite scales",
        help="Every weight of the block is NaN or infinite. A quantizer met such weights, or its scale "
        "overflowed float16, or the file is damaged.",
        find=_scales("nonfinite", "are NaN or infinite"),
    ),
    Rule(
        id="WV202",
        name="negative-scales",
        severity="warning",
        title="Negative scales where quantizers give none",
        help="Of Q8_0, Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, TQ1_0, TQ2_0 and FP8 scales are positive: a "
        "flipped sign, or another writer's convention. Those of Q4_0, Q5_0, Q3_K, Q6_K and the IQ "
        "types have the sign of their block's largest weight, and are not looked at.",
        find=_scales("negative", "are negative"),
    ),
    Rule(
        id="WV203",
        name="lost-scales",
        severity="warning",
        title="Scales of zero over codes that are not",
        help="All weights of the block read as one value, though their codes differ: the scale was too "
        "small for float16, or is damaged. A block that was all zeros has equal codes, and is not "
        "meant.",
        find=_scales("lost", "are zero, though codes under them differ"),
    ),
    Rule(
        id="WV204",
        name="denormal-scales",
        severity="info",
        title="Scales so small that they are coarse",
        help="Float16 scales below 2^-20 have less than five significant bits, which adds an error of "
        "3% or more to the block; FP8's float32 scales are meant below 2^-126. K-quants of models "
        "with small weights have such. `wvindex diff` tells what it costs.",
        find=_scales("denormal", "are nearly zero, and coarse"),
    ),
    Rule(
        id="WV205",
        name="orphan-scales",
        severity="warning",
        title="Scales that no weight is scaled by",
        help="A tensor is named as scales are, but its weight is missing or not FP8: the weight was "
        "replaced (dequantized, merged) and its scales left behind, or the quantization is not "
        "one that is known. FP8 codes that lack their scales are refused when the file is opened.",
        find=orphan_scales,
        reads_weights=False,
    ),
    Rule(
        id="WV206",
        name="unscaled-float8",
        severity="info",
        title="FP8 matrices without scales",
        help="Plain casts to FP8 need none. Where the checkpoint was quantized with scales, these are "
        "missing.",
        find=unscaled_float8,
        reads_weights=False,
    ),
)
