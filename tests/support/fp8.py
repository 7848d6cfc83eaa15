"""FP8 as DeepSeek-V3's checkpoints have it: E4M3 codes, one float32 scale per block of 128 x 128.

The blocks start at row 0 and column 0; where a matrix is no multiple of the block, the last ones are short
(DeepSeek-V3's inference/kernel.py, weight_dequant).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.support.random_weights import Array

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0


def quantize(weight: Array, block: tuple[int, int] = (128, 128)) -> tuple[Array, npt.NDArray[np.float32]]:
    """Give the codes (rows, columns) and the scales (row blocks, column blocks) of a matrix."""
    values = weight.astype(np.float32)
    rows, columns = values.shape
    scales = np.empty((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    for i, j in np.ndindex(scales.shape):
        part = values[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        scales[i, j] = np.abs(part).max() / np.float32(LARGEST)
    return (values / _spread(scales, values.shape, block)).astype(E4M3), scales


def dequantize(
    codes: Array, scales: npt.NDArray[np.float32], block: tuple[int, int] = (128, 128)
) -> npt.NDArray[np.float32]:
    """Give code times scale, in float32."""
    return codes.astype(np.float32) * _spread(scales, codes.shape, block)


def _spread(
    scales: npt.NDArray[np.float32], shape: tuple[int, ...], block: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Repeat each scale over its block: (rows, columns)."""
    rows, columns = shape
    return scales.repeat(block[0], axis=0)[:rows].repeat(block[1], axis=1)[:, :columns]
