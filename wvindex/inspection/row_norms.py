"""Rows of a matrix: the spread of their norms, and how many say nothing because all values are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import kernels
from wvindex.inspection.distribution import DISTRIBUTION, Distribution
from wvindex.inspection.feature_norms import Norms, matrices, norms_of
from wvindex.inspection.scan import column_states, scan
from wvindex.inspection.tensor_stats import Row, place
from wvindex.query.lazy import Tensor

ROWS: Final = ("key", "layer", "role", "rows", "zero_rows", "constant_rows", "zero_columns", *DISTRIBUTION)


def rows_row(tensor: Tensor) -> Row:
    """Give the row of a matrix or a stack: the columns `ROWS`, most often in one pass.

    ``zero_rows`` are zero throughout, ``constant_rows`` have one other value throughout; ``zero_columns``
    are zero throughout, in a stack in all of its matrices. The distribution is of the norms of rows that are
    finite throughout.
    """
    parts = [_Part.of(matrix) for matrix in matrices(tensor)]
    norms = np.concatenate([part.norms for part in parts])
    return place(tensor) | {
        "rows": len(norms),
        "zero_rows": sum(part.zero_rows for part in parts),
        "constant_rows": sum(part.constant_rows for part in parts),
        "zero_columns": int(np.count_nonzero(np.logical_and.reduce([part.is_zero for part in parts]))),
        **Distribution.of(norms).to_row(),
    }


@dataclass(frozen=True)
class _Part:
    """What is known of one matrix: its rows' norms, and which columns are zero."""

    norms: Norms
    zero_rows: int
    constant_rows: int
    is_zero: NDArray[np.bool_]

    @classmethod
    def of(cls, matrix: Tensor) -> _Part:
        seen, width = scan(matrix, rows_per_group=1, columns=True), matrix.shape[-1]
        finite, least, most = (seen.states[:, i] for i in (kernels.N, kernels.LEAST, kernels.MOST))
        norms, whole = norms_of(seen.states), finite == width
        constant = whole & (least == most) & (norms > 0) & (width > 1)
        is_zero = np.ones(width, np.bool_) if seen.column_absmax is None else seen.column_absmax == 0
        if is_zero.any() and not whole.all():
            is_zero &= column_states(matrix)[:, kernels.N] == len(matrix)
        return cls(
            norms,
            int(np.count_nonzero(whole & (norms == 0))),
            int(np.count_nonzero(constant)),
            is_zero,
        )
