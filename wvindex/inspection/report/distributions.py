"""How a tensor's values lie: a histogram with its tails, and the input columns that reach furthest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import digit_kernels, kernels
from wvindex.inspection.collect import Grouping, Job
from wvindex.inspection.outliers import channel_ratios
from wvindex.inspection.scan import Parts, bits_of, is_wide, widened
from wvindex.inspection.tensor_stats import Advance, Row
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

N_BINS: Final = 48

N_CHANNELS: Final = 16
"""Columns that are listed, furthest first."""

DISTRIBUTION: Final = ("key", "low", "high", "counts", "below", "above", "channels", "channel_ratios")


def distribution_job(tensors: Sequence[Tensor], statistics: Mapping[str, Mapping[str, Any]]) -> Job:
    """Give the job whose rows are `DISTRIBUTION`, for tensors whose statistics are known, by key."""

    def compute(db: Store, some: Sequence[Tensor], advance: Advance) -> list[Row]:
        rows = []
        for tensor in some:
            rows.append(distribution_row(tensor, statistics[tensor.key]))
            advance(tensor.nbytes)
        return rows

    grouping = Grouping(
        DISTRIBUTION,
        compute,
        subject=lambda db, tensor: tensor.key,
        passes=1,
        options=lambda db: {"bins": N_BINS, "channels": N_CHANNELS},
    )
    return Job("distribution", grouping, tensors)


@dataclass
class _Tally:
    """What one thread has seen."""

    counts: NDArray[np.int64]
    magnitudes: NDArray[Any]
    tails: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))


def distribution_row(tensor: Tensor, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns `DISTRIBUTION` of a tensor, in one pass over it.

    Parameters
    ----------
    tensor : Tensor
    statistics : mapping
        Its row of `wvindex.stats`: the histogram goes from ``p0_1`` to ``p99_9``.
    """
    low, high = float(statistics["p0_1"]), float(statistics["p99_9"])
    row: dict[str, Any] = {"key": tensor.key, "low": low, "high": high}
    if not low <= high or not math.isfinite(high - low):  # nothing is finite, or bins would not be
        return row | {"counts": [], "below": 0, "above": 0, "channels": [], "channel_ratios": []}
    seen = _tally(tensor, low, high)
    row |= {"counts": seen.counts.tolist(), "below": int(seen.tails[0]), "above": int(seen.tails[1])}
    magnitudes = seen.magnitudes.view(np.float64 if is_wide(tensor) else np.float32)
    return row | _channels(magnitudes if tensor.ndim > 1 else magnitudes[:0])


def _tally(tensor: Tensor, low: float, high: float) -> _Tally:
    wide, width = is_wide(tensor), tensor.shape[-1] if tensor.shape else 1
    n_bins = N_BINS if low < high else 1

    def new() -> _Tally:
        return _Tally(np.zeros(n_bins, np.int64), np.zeros(width, np.int64 if wide else np.int32))

    parts = Parts(new)
    count, largest = digit_kernels.bins_kernel(), kernels.magnitudes_kernel(wide)

    def consume(first_row: int, values: Values) -> None:
        values = widened(values) if wide else values
        flat = values.reshape(-1)
        seen = parts.take()
        count(flat, low, high, seen.counts)
        seen.tails[0] += np.count_nonzero((flat < low) & (flat > -np.inf))
        seen.tails[1] += np.count_nonzero((flat > high) & (flat < np.inf))
        if tensor.ndim > 1:
            largest(bits_of(values), width, seen.magnitudes)
        parts.give(seen)

    tensor.stream(consume)
    whole = new()
    for seen in parts.all():
        whole.counts += seen.counts
        whole.tails += seen.tails
        np.maximum(whole.magnitudes, seen.magnitudes, out=whole.magnitudes)
    return whole


def _channels(magnitudes: NDArray[Any]) -> dict[str, Any]:
    ratios = channel_ratios(magnitudes)
    order = np.argsort(-ratios, kind="stable")[:N_CHANNELS]
    order = order[np.isfinite(ratios[order])]
    return {"channels": order.tolist(), "channel_ratios": ratios[order].tolist()}
