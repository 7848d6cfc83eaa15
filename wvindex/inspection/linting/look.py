"""What one pass over a matrix or a stack leaves: everything that rules ask about its values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.ggml import can_decode
from wvindex.inspection.linting.tally import Tallies
from wvindex.query.lazy import Tensor

LARGEST_HALF: Final = 65504.0
"""The largest finite float16: what lies beyond was cut off there, or became infinite."""

EXPERTS: Final = re.compile(r"(^|[._])(experts|exps)[._]")

COMPUTED: Final = re.compile(
    r"(^|[._])(mask|masked_bias|inv_freq|freqs|freqs_cis|cos|sin|cos_cached|sin_cached|position_ids)$"
    r"|(^|\.)(attn|attention)\.bias$"
)
"""Names of masks and rotary tables that models keep as buffers: rows of zeros or ones, or infinities, belong
there. A matrix ``attn.bias`` is GPT-2's causal mask."""

FEW: Final = 8
"""Indices that a finding names; the others are counted."""


@dataclass(frozen=True)
class Lines:
    """Rows, or columns, of one kind; those of matrices that are zero all over are left out.

    Attributes
    ----------
    count : int
    first : tuple of (int, int)
        Matrix and place in it of the first `FEW`.
    """

    count: int
    first: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Look:
    """What was seen of one matrix, or of each matrix of a stack.

    Attributes
    ----------
    tensor : Tensor
    zero_rows, constant_rows, zero_columns, constant_columns : Lines
        Zero, or of one other value, all along.
    dead : array of bool, shape (n_matrices,)
        Which matrices are zero all over.
    squares : array of float64, shape (n_matrices,)
        Sums of squares; NaN or infinite where a value is.
    row_absmax : float
        Largest magnitude of the median row, of those that are finite and not zero; NaN without such.
    absmax : float
        Largest finite magnitude.
    absmax_row : int
        Its row, of all matrices.
    sketches : array of float32, shape (n_matrices, LENGTH)
        Of float64 where float32 does not hold them.
    tallies : Tallies
        ``nan``, ``inf``: values; ``saturated``: values at the end of float16; ``code-saturated``,
        ``code-nan``: codes of FP8; ``scale-...``: scales of packed blocks or of FP8 (``nonfinite``,
        ``negative``, ``denormal``; ``lost``: zero, though codes under it differ).
    n_scales : int
        Scales that were looked at.
    """

    tensor: Tensor
    zero_rows: Lines
    constant_rows: Lines
    zero_columns: Lines
    constant_columns: Lines
    dead: NDArray[np.bool_]
    squares: NDArray[np.float64]
    row_absmax: float
    absmax: float
    absmax_row: int
    sketches: NDArray[np.floating]
    tallies: Tallies
    n_scales: int

    @property
    def is_zero(self) -> bool:
        """Whether every value is zero."""
        return bool(self.dead.all())


def is_stack(tensor: Tensor) -> bool:
    """Whether a tensor is a stack of experts; any other one is taken as one matrix, its rows flattened."""
    return tensor.ndim == 3 and EXPERTS.search(tensor.key) is not None


def height_of(tensor: Tensor) -> int:
    """Give the rows of one matrix."""
    return tensor.shape[-2] if is_stack(tensor) else math.prod(tensor.shape[:-1])


def is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a weight: whatever is not named as the masks and tables are that are computed."""
    return tensor.spec.mapped or COMPUTED.search(tensor.key) is None


def can_look(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix or a stack of floating-point values that can be decoded."""
    encoding = tensor.spec.encoding
    if tensor.ndim < 2 or not tensor.size:
        return False
    if encoding.dtype is None:
        return can_decode(encoding)
    return encoding.dtype.kind in "fV"
