"""Rows of the tables that tell how two models differ: of tensors, experts, rows, and groups of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from wvindex.arch.keys import split_layer
from wvindex.inspection.aligned import Pair, stored_bits
from wvindex.inspection.gap import GAP, Gap, damage, exceeds
from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import scan
from wvindex.inspection.side_by_side import Seen, have_equal_bytes, side_by_side
from wvindex.inspection.tensor_stats import Row, role_of
from wvindex.query.lazy import Tensor
from wvindex.sizes import shape_text

STORED: Final = ("a_bits", "b_bits")
TENSOR: Final = (
    *("key", "layer", "role", "status", "over", "shape", "a_encoding", "b_encoding", *STORED, *GAP),
    *("at", "a_at", "b_at", "worst_row", "worst_row_rel_l2", "worst_expert", "worst_expert_rel_l2"),
    *("compared", "rounding"),
)
GROUP: Final = ("tensors", "different", "over", *STORED, *GAP)
ROLE: Final = ("role", *GROUP)
LAYER: Final = ("layer", *GROUP)
EXPERT: Final = ("key", "layer", "role", "expert", *GAP)
ROW: Final = ("key", "layer", "role", "expert", "row", *GAP)
ONE_SIDED: Final = ("key", "layer", "role", "shape", "encoding", "nbytes", "bits_per_weight")
UNLIKE: Final = ("key", "layer", "role", "a_shape", "b_shape", "a_encoding", "b_encoding")


@dataclass
class Compared:
    """A pair, and what a pass over it found.

    Attributes
    ----------
    pair : Pair
    seen : Seen or None
        None where both sides are the same bytes.
    """

    pair: Pair
    seen: Seen | None

    @property
    def gap(self) -> Gap:
        """Of all values; where bytes are the same, without the norms that nobody has taken yet."""
        if self.seen is None:
            return Gap(self.pair.a.tensor.size)
        return Gap.merged(self.seen.matrices)

    @property
    def status(self) -> str:
        """``same``; ``rounding`` where a product differs by no more than that explains; ``different``."""
        gap = self.gap
        if not gap.changed:
            return "same"
        return "rounding" if not gap.nonfinite and gap.rel_l2 <= self.pair.rounding else "different"


def compare(pair: Pair, n_worst: int) -> Compared:
    """Go through a pair; where both sides are stored alike, through their bytes first."""
    a, b = pair.a.tensor, pair.b.tensor
    if have_equal_bytes(a, b):
        return Compared(pair, None)
    return Compared(pair, side_by_side(a, b, n_worst=n_worst))


def complete(gap: Gap, tensor: Tensor) -> Gap:
    """Add the norms of a tensor that is the same on both sides."""
    states = scan(tensor).states
    squares = Moments.of_state(states[0]).sum_of_squares if len(states) else 0.0
    return Gap(gap.count, a_squares=squares, b_squares=squares, products=squares)


def tensor_row(one: Compared, metric: str, threshold: float | None) -> Row:
    """Give the row of a tensor: the columns `TENSOR`."""
    pair, seen, status = one.pair, one.seen, one.status
    row = _place(pair.key) | one.gap.to_row()
    row |= {
        "status": status,
        "over": status == "different" and exceeds(row, metric, threshold),
        "shape": shape_text(pair.a.tensor.shape),
        "a_encoding": pair.a.encoding,
        "b_encoding": pair.b.encoding,
        "a_bits": pair.a.bits,
        "b_bits": pair.b.bits,
        "compared": pair.how,
        "rounding": pair.rounding,
    }
    if seen is not None and seen.peak is not None:
        at = _index(pair.a.tensor, seen.peak.row, seen.peak.column)
        row |= {"at": at, "a_at": seen.peak.a, "b_at": seen.peak.b}
    rows, experts = row_rows(one), expert_rows(one)
    if rows:
        row |= {"worst_row": rows[0]["row"], "worst_row_rel_l2": rows[0]["rel_l2"]}
        row |= {"worst_expert": rows[0]["expert"]}
    if experts:
        worst = max(experts, key=lambda expert: damage(expert, "rel_l2"))
        row |= {"worst_expert": worst["expert"], "worst_expert_rel_l2": worst["rel_l2"]}
    return row


def row_rows(one: Compared) -> list[Row]:
    """Give rows of the rows that suffered most, the most first: the columns `ROW`."""
    tensor = one.pair.a.tensor
    if one.seen is None or tensor.ndim < 2:
        return []
    found = []
    for flat, gap in one.seen.rows:
        expert, row = divmod(flat, tensor.shape[-2])
        place = {"expert": expert if tensor.ndim > 2 else None, "row": row}
        found.append(_place(one.pair.key) | place | gap.to_row())
    return found


def expert_rows(one: Compared) -> list[Row]:
    """Give rows of all experts of a stack that differs: the columns `EXPERT`."""
    if one.seen is None or one.pair.a.tensor.ndim < 3 or not one.gap.changed:
        return []
    place = _place(one.pair.key)
    return [place | {"expert": i} | gap.to_row() for i, gap in enumerate(one.seen.matrices)]


def group_row(some: Sequence[tuple[Compared, Gap, Row]]) -> Row:
    """Give the row of several tensors, all their values together: the columns `GROUP`."""
    a, b = ([t for one, _, _ in some for t in side(one)] for side in (_a_sources, _b_sources))
    row: Row = {
        "tensors": len(some),
        "different": sum(one.status == "different" for one, _, _ in some),
        "over": sum(row["over"] for _, _, row in some),
        "a_bits": stored_bits(a),
        "b_bits": stored_bits(b),
    }
    return row | Gap.merged(gap for _, gap, _ in some).to_row()


def one_sided_row(tensor: Tensor) -> Row:
    """Give the row of a tensor that the other side lacks: the columns `ONE_SIDED`."""
    stored = {"nbytes": tensor.nbytes, "bits_per_weight": stored_bits([tensor])}
    return _place(tensor.key) | {"shape": shape_text(tensor.shape), "encoding": tensor.encoding} | stored


def unlike_row(a: Tensor, b: Tensor) -> Row:
    """Give the row of two tensors of one key and different shapes: the columns `UNLIKE`."""
    return _place(a.key) | {
        "a_shape": shape_text(a.shape),
        "b_shape": shape_text(b.shape),
        "a_encoding": a.encoding,
        "b_encoding": b.encoding,
    }


def ranked(rows: Iterable[Row], metric: str) -> list[Row]:
    """Sort rows by damage, the most first; equals keep their order."""
    return sorted(rows, key=lambda row: damage(row, metric), reverse=True)


def _place(key: str) -> Row:
    return {"key": key, "layer": split_layer(key)[0], "role": role_of(key)}


def _index(tensor: Tensor, row: int, column: int) -> list[int]:
    leading = [int(i) for i in np.unravel_index(row, tensor.shape[:-1])] if tensor.ndim > 1 else []
    return [*leading, column] if tensor.ndim else []


def _a_sources(one: Compared) -> tuple[Tensor, ...]:
    return one.pair.a.sources


def _b_sources(one: Compared) -> tuple[Tensor, ...]:
    return one.pair.b.sources
