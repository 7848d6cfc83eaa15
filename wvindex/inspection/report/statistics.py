"""What the statistics of `wvindex.stats` are called on a page, and what they are: a table."""

from __future__ import annotations

from typing import Final

from wvindex.inspection.outliers import CHANNEL_RATIO, SIGMAS
from wvindex.inspection.quantiles import PROBABILITIES
from wvindex.inspection.report.document import Statistic

_VALUES: Final = "Values"
_TAILS: Final = "Tails and outliers"
_QUANTILES: Final = "Quantiles"
_SPECTRUM: Final = "Spectrum"
_STORAGE: Final = "Storage"

_SIGMAS = f"magnitude above {SIGMAS:g} standard deviations; of matrices only"

OF_TENSORS: Final = (
    Statistic("shape", "Shape", _STORAGE, "Outermost dimension first", "text"),
    Statistic("encoding", "Encoding", _STORAGE, "How the values are stored", "text"),
    Statistic("mean", "Mean", _VALUES, "Mean of the finite weights"),
    Statistic("std", "Standard deviation", _VALUES, "Of the population (ddof = 0)"),
    Statistic("rms", "Root mean square", _VALUES, "Square root of the mean square"),
    Statistic("min", "Minimum", _VALUES, "Least finite weight"),
    Statistic("max", "Maximum", _VALUES, "Largest finite weight"),
    Statistic("absmax", "Largest magnitude", _VALUES, "Largest magnitude of a finite weight"),
    Statistic("l2", "L2 norm", _VALUES, "Euclidean (Frobenius) norm"),
    Statistic("kurtosis", "Excess kurtosis", _TAILS, "Fourth standardized moment less 3; 0 where normal"),
    Statistic("skewness", "Skewness", _TAILS, "Third standardized moment; 0 where symmetric"),
    Statistic("outlier_share", "Outlier share", _TAILS, f"Share of weights with a {_SIGMAS}", "share"),
    Statistic("outliers", "Outliers", _TAILS, f"Weights with a {_SIGMAS}", "count"),
    Statistic(
        "outlier_channels",
        "Outlier channels",
        _TAILS,
        f"Input columns whose largest magnitude is {CHANNEL_RATIO:g} or more times the median column's",
        "count",
    ),
    Statistic(
        "top_channel_ratio",
        "Top channel ratio",
        _TAILS,
        "Largest magnitude of the largest input column, over the median column's",
    ),
    Statistic("top_channel", "Top channel", _TAILS, "The input column with the largest magnitude", "index"),
    *(
        Statistic(name, f"Quantile {100 * p:g}%", _QUANTILES, f"{100 * p:g}% of the weights do not exceed it")
        for name, p in PROBABILITIES.items()
    ),
    Statistic("spectral_norm", "Spectral norm", _SPECTRUM, "Largest singular value"),
    Statistic("stable_rank", "Stable rank", _SPECTRUM, "Squared L2 norm over squared spectral norm"),
    Statistic(
        "effective_rank", "Effective rank", _SPECTRUM, "exp(entropy) of the singular values' shares, of all"
    ),
    Statistic("bits_per_weight", "Bits per weight", _STORAGE, "Stored bits a weight, scales included"),
    Statistic("nbytes", "Size", _STORAGE, "Stored bytes, scales included", "bytes"),
    Statistic("count", "Weights", _STORAGE, "Number of weights", "count"),
    Statistic("zeros", "Zeros", _STORAGE, "Weights that are exactly zero", "count"),
    Statistic("nan", "NaN", _STORAGE, "Weights that are no number", "count"),
    Statistic("inf", "Infinite", _STORAGE, "Weights that are infinite", "count"),
)
"""Of tensors, in the order of `wvindex.inspection.tensor_stats.TENSOR`, and of a spectrum."""

_NORM: Final = "Frobenius norm of the head's part of"

OF_HEADS: Final = (
    Statistic("qk_norm", "QK norm", "Head", "‖W_qᵀ W_k‖: Frobenius norm of what makes the head's scores"),
    Statistic("ov_norm", "OV norm", "Head", "‖W_o W_v‖: Frobenius norm of what the head writes"),
    *(Statistic(f"{name}_l2", f"L2 of {name}", "Head", f"{_NORM} {name}_proj") for name in "qkvo"),
)

OF_EXPERTS: Final = (
    Statistic("l2", "L2 norm", "Expert", "Frobenius norm of the expert"),
    Statistic("absmax", "Largest magnitude", "Expert", "Largest magnitude of a weight"),
    Statistic("kurtosis", "Excess kurtosis", "Expert", "A normal distribution has 0"),
    Statistic("cosine", "Likeness", "Expert", "Cosine to the expert that it is most like"),
    Statistic("nearest", "nearest", "Expert", "The expert that it is most like", "index"),
)
