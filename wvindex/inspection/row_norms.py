"""Rows of a matrix: the spread of their norms, and how many say nothing because all values are the same."""

from __future__ import annotations

from typing import Final

import numpy as np

from wvindex.inspection import kernels
from wvindex.inspection.distribution import DISTRIBUTION, Distribution
from wvindex.inspection.features import norms_of
from wvindex.inspection.scan import scan
from wvindex.inspection.tensor_stats import Row, place
from wvindex.query.lazy import Tensor

ROWS: Final = ("key", "layer", "role", "rows", "zero_rows", "constant_rows", "zero_columns", *DISTRIBUTION)


def rows_row(tensor: Tensor) -> Row:
    """Give the row of a matrix or a stack: the columns `ROWS`, in one pass.

    ``zero_rows`` are zero throughout, ``constant_rows`` have one other value throughout; ``zero_columns``
    have no finite value but zero, in a stack in none of its matrices.
    """
    seen = scan(tensor, rows_per_group=1, columns=True)
    finite, least, most = (seen.states[:, i] for i in (kernels.N, kernels.LEAST, kernels.MOST))
    norms = norms_of(seen.states)
    whole = finite == tensor.shape[-1]
    constant = whole & (least == most) & (norms > 0) & (tensor.shape[-1] > 1)
    magnitudes = np.zeros(0) if seen.column_absmax is None else seen.column_absmax
    return place(tensor) | {
        "rows": len(norms),
        "zero_rows": int(np.count_nonzero(whole & (norms == 0))),
        "constant_rows": int(np.count_nonzero(constant)),
        "zero_columns": int(np.count_nonzero(magnitudes == 0)),
        **Distribution.of(norms).to_row(),
    }
