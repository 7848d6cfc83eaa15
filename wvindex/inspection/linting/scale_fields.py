"""Where packed blocks have their scales, and what a healthy scale is.

Layouts as ggml's ``block_*`` structures have them (ggml-common.h); which may be negative follows from how
ggml's quantizers choose them (ggml-quants.c): ``d = max / -8`` has the sign of the largest value, and
``d = (max - min) / 15`` has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScaleField:
    """One scale of a packed block.

    Attributes
    ----------
    offset : int
        Of its first byte in the block.
    dtype : str
        NumPy's name of what it is: ``<f2`` or ``<f4``.
    multiplies : bool
        Whether codes are multiplied by it; else it is added.
    positive : bool
        Whether no quantizer makes it negative.
    """

    offset: int
    dtype: str = "<f2"
    multiplies: bool = True
    positive: bool = True

    def read(self, blocks: NDArray[np.uint8]) -> NDArray[Any]:
        """Give the scale of each block (n_blocks, type_size), as float16 or float32 (n_blocks,)."""
        size = np.dtype(self.dtype).itemsize
        part = np.ascontiguousarray(blocks[:, self.offset : self.offset + size])
        return part.view(self.dtype)[:, 0]

    def with_one(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give a copy of blocks whose scale is 1."""
        changed = blocks.copy()
        one = np.array([1], self.dtype).view(np.uint8)
        changed[:, self.offset : self.offset + one.size] = one
        return changed


def _signed(offset: int, dtype: str = "<f2") -> tuple[ScaleField, ...]:
    return (ScaleField(offset, dtype, positive=False),)


def _positive(offset: int) -> tuple[ScaleField, ...]:
    return (ScaleField(offset),)


SCALE_FIELDS: Final[dict[str, tuple[ScaleField, ...]]] = {
    **{name: _signed(0) for name in ("Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS", "Q1_0", "Q2_0")},
    **{name: _positive(0) for name in ("Q8_0", "Q8_1")},
    **{name: _signed(0) for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")},
    **{name: (ScaleField(0), ScaleField(2, multiplies=False, positive=False)) for name in ("Q4_1", "Q5_1")},
    **{name: (ScaleField(0), ScaleField(2, multiplies=False)) for name in ("Q4_K", "Q5_K")},
    "Q2_K": (ScaleField(80), ScaleField(82, multiplies=False)),
    "Q3_K": _signed(108),
    "Q6_K": _signed(208),
    "Q8_K": _signed(0, "<f4"),
    "TQ1_0": _positive(52),
    "TQ2_0": _positive(64),
}
"""By encoding. IQ1_M, MXFP4 and NVFP4 have no whole float of their own in a block: their values tell."""
