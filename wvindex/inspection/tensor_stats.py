"""Statistics of tensors, of layers and of roles: all their values together, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wvindex.arch.keys import split_layer
from wvindex.inspection.digit_kernels import N_BINS
from wvindex.inspection.guess import guess
from wvindex.inspection.moments import Moments
from wvindex.inspection.outliers import SIGMAS, Channels, channel_ratios, channels
from wvindex.inspection.quantiles import PROBABILITIES, has_16_bits, select
from wvindex.inspection.scan import column_states, is_wide, scan
from wvindex.query.lazy import Tensor
from wvindex.sizes import bits_per_weight

Row = dict[str, Any]
Advance = Callable[[int], None]
"""Told the encoded bytes that a pass has gone through."""

MOMENTS: Final = (
    *("count", "nan", "inf", "zeros", "mean", "std", "rms", "min", "max", "absmax", "l2"),
    *("skewness", "kurtosis"),
)
STORED: Final = ("nbytes", "bits_per_weight")
SPREAD: Final = (*PROBABILITIES, "outliers", "outlier_share")
CHANNELS: Final = ("outlier_channels", "top_channel", "top_channel_ratio")

TENSOR: Final = ("key", "layer", "role", "shape", "encoding", *STORED, *MOMENTS, *SPREAD, *CHANNELS)
LAYER: Final = ("layer", "tensors", *STORED, *MOMENTS, *SPREAD)
ROLE: Final = ("role", "tensors", *STORED, *MOMENTS, *SPREAD)
ROW: Final = ("key", "layer", "role", "row", *MOMENTS)
COLUMN: Final = ("key", "layer", "role", "column", *MOMENTS, "absmax_ratio")


@dataclass(frozen=True)
class Summary:
    """What is known of all values of some tensors together.

    Attributes
    ----------
    moments : Moments
    quantiles : tuple of float
        Of finite values, in the order of `PROBABILITIES`.
    outliers : int or None
        Finite values with a magnitude above `SIGMAS` standard deviations; None where all tensors are
        vectors: a norm's weights lie around 1, not 0.
    channels : Channels or None
        Of the columns of one matrix or stack.
    """

    moments: Moments
    quantiles: tuple[float, ...]
    outliers: int | None
    channels: Channels | None


def role_of(key: str) -> str:
    """Give what a tensor is in its layer: the rest of its key, without ``.weight``."""
    return split_layer(key)[1].removesuffix(".weight")


def summarize(tensors: Sequence[Tensor], advance: Advance = lambda nbytes: None) -> Summary:
    """Take the statistics of all values of some tensors, in two passes over them; most often in one.

    Raises
    ------
    UndecodableType
        If nobody decodes an encoding.
    """
    wide = any(is_wide(tensor) for tensor in tensors)
    probabilities = list(PROBABILITIES.values())
    one_pass = None if wide or has_16_bits(tensors) else guess(tensors, probabilities, SIGMAS)
    parts: list[Moments] = []
    digits = np.zeros(N_BINS, np.int64)
    found: Channels | None = None
    for tensor in tensors:
        with_columns = len(tensors) == 1 and tensor.ndim > 1
        seen = scan(tensor, digits=True, columns=with_columns, wide=wide, guess=one_pass)
        parts += [Moments.of_state(state) for state in seen.states]
        if seen.digits is not None:
            digits += seen.digits
        if seen.column_absmax is not None:
            found = channels(seen.column_absmax)
        advance(tensor.nbytes)
    moments = parts[0] if len(parts) == 1 else Moments.merged(parts)
    has_matrix = any(tensor.ndim > 1 for tensor in tensors)
    limit = SIGMAS * moments.std
    to_count = has_matrix and moments.absmax > limit  # else there is nothing to count
    limit = limit if to_count else math.inf
    selection = select(tensors, digits, probabilities, limit, wide=wide, guess=one_pass)
    advance(sum(tensor.nbytes for tensor in tensors))
    return Summary(moments, selection.quantiles, selection.outside if has_matrix else None, found)


def tensor_row(tensor: Tensor, summary: Summary) -> Row:
    """Give the row of one tensor: the columns `TENSOR`."""
    row = place(tensor) | {"shape": "x".join(map(str, tensor.shape)) or "scalar", "encoding": tensor.encoding}
    row |= _stored([tensor]) | moments_row(summary.moments) | _spread(summary)
    if summary.channels is not None:
        one = summary.channels
        row |= {
            "outlier_channels": one.outliers,
            "top_channel": one.most,
            "top_channel_ratio": one.ratio,
        }
    return row


def group_row(tensors: Sequence[Tensor], summary: Summary) -> Row:
    """Give the row of several tensors: the columns that `LAYER` and `ROLE` share."""
    return {"tensors": len(tensors)} | _stored(tensors) | moments_row(summary.moments) | _spread(summary)


def row_rows(tensor: Tensor) -> list[Row]:
    """Give a row for each row of a tensor (of all dimensions but the last): the columns `ROW`."""
    states = scan(tensor, rows_per_group=1).states
    return [
        place(tensor) | {"row": i} | moments_row(Moments.of_state(state)) for i, state in enumerate(states)
    ]


def column_rows(tensor: Tensor) -> list[Row]:
    """Give a row for each column of a matrix or a stack: the columns `COLUMN`."""
    moments = [Moments.of_state(state) for state in column_states(tensor)]
    largest = np.array([m.absmax if m.finite else 0.0 for m in moments])
    ratios = channel_ratios(largest).tolist()
    return [
        place(tensor) | {"column": i} | moments_row(m) | {"absmax_ratio": ratio}
        for i, (m, ratio) in enumerate(zip(moments, ratios, strict=True))
    ]


def moments_row(moments: Moments) -> Row:
    """Give the columns `MOMENTS`."""
    return {name: getattr(moments, name) for name in MOMENTS}


def place(tensor: Tensor) -> Row:
    """Give a tensor's key, layer and role."""
    return {"key": tensor.key, "layer": split_layer(tensor.key)[0], "role": role_of(tensor.key)}


def _stored(tensors: Sequence[Tensor]) -> Row:
    nbytes, size = sum(tensor.nbytes for tensor in tensors), sum(tensor.size for tensor in tensors)
    return {"nbytes": nbytes, "bits_per_weight": bits_per_weight(nbytes, size)}


def _spread(summary: Summary) -> Row:
    finite, outliers = summary.moments.finite, summary.outliers
    return dict(zip(PROBABILITIES, summary.quantiles, strict=True)) | {
        "outliers": outliers,
        "outlier_share": outliers / finite if finite and outliers is not None else None,
    }
