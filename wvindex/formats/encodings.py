"""The one table of encodings: every plain dtype and every GGML block type, with its sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import ml_dtypes
import numpy as np

from wvindex.errors import TensorLayoutError


@dataclass(frozen=True)
class Encoding:
    """How the values of a tensor are laid out in bytes.

    Attributes
    ----------
    name : str
        GGML's or safetensors' name: ``"Q4_K"``, ``"BF16"``, ``"F8_E4M3"``.
    block_size : int
        Values in a block; 1 for plain dtypes.
    type_size : int
        Bytes in a block.
    dtype : numpy.dtype or None
        What plain values are; None for packed blocks, whose logical dtype is float32.
    scale_block : (int, int) or None
        For FP8 with scales: rows and columns that share one float32 scale. The logical dtype is
        then float32: code times scale.
    """

    name: str
    block_size: int
    type_size: int
    dtype: np.dtype[Any] | None = None
    scale_block: tuple[int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the values themselves."""
        return self.dtype is not None and self.scale_block is None

    @property
    def logical_dtype(self) -> np.dtype[Any]:
        """The dtype that a reader gets: `dtype` where plain, float32 where decoded."""
        return self.dtype if self.dtype is not None and self.scale_block is None else np.dtype(np.float32)

    def row_bytes(self, n_values: int) -> int:
        """Bytes of a row of `n_values` values.

        Raises
        ------
        TensorLayoutError
            If a row is not a whole number of blocks.
        """
        if n_values % self.block_size:
            raise TensorLayoutError(
                "a row is not a whole number of blocks",
                expected=f"a multiple of {self.block_size} ({self.name})",
                found=n_values,
            )
        return n_values // self.block_size * self.type_size


def _plain(name: str, dtype: Any) -> Encoding:
    return Encoding(name, 1, np.dtype(dtype).itemsize, np.dtype(dtype))


_PLAIN = (
    _plain("F64", np.float64),
    _plain("F32", np.float32),
    _plain("F16", np.float16),
    _plain("BF16", ml_dtypes.bfloat16),
    _plain("F8_E4M3", ml_dtypes.float8_e4m3fn),
    _plain("F8_E5M2", ml_dtypes.float8_e5m2),
    _plain("I64", np.int64),
    _plain("I32", np.int32),
    _plain("I16", np.int16),
    _plain("I8", np.int8),
    _plain("U64", np.uint64),
    _plain("U32", np.uint32),
    _plain("U16", np.uint16),
    _plain("U8", np.uint8),
    _plain("BOOL", np.bool_),
)

# Values and bytes of a block, as in ggml's type traits (ggml-common.h). Q1_0 and Q2_0 are newer than
# some releases of the gguf package; the TQ, IQ4_NL_x and Q4_0_x_x types that ggml removed are not here.
_PACKED = (
    Encoding("Q1_0", 128, 18),
    Encoding("Q2_0", 64, 18),
    Encoding("Q4_0", 32, 18),
    Encoding("Q4_1", 32, 20),
    Encoding("Q5_0", 32, 22),
    Encoding("Q5_1", 32, 24),
    Encoding("Q8_0", 32, 34),
    Encoding("Q8_1", 32, 36),
    Encoding("Q2_K", 256, 84),
    Encoding("Q3_K", 256, 110),
    Encoding("Q4_K", 256, 144),
    Encoding("Q5_K", 256, 176),
    Encoding("Q6_K", 256, 210),
    Encoding("Q8_K", 256, 292),
    Encoding("IQ1_S", 256, 50),
    Encoding("IQ1_M", 256, 56),
    Encoding("IQ2_XXS", 256, 66),
    Encoding("IQ2_XS", 256, 74),
    Encoding("IQ2_S", 256, 82),
    Encoding("IQ3_XXS", 256, 98),
    Encoding("IQ3_S", 256, 110),
    Encoding("IQ4_NL", 32, 18),
    Encoding("IQ4_XS", 256, 136),
    Encoding("TQ1_0", 256, 54),
    Encoding("TQ2_0", 256, 66),
    Encoding("MXFP4", 32, 17),
    Encoding("NVFP4", 64, 36),
)

ENCODINGS: Final[dict[str, Encoding]] = {e.name: e for e in (*_PLAIN, *_PACKED)}
"""Every encoding by name."""

F32: Final = ENCODINGS["F32"]
F16: Final = ENCODINGS["F16"]
BF16: Final = ENCODINGS["BF16"]
F8_E4M3: Final = ENCODINGS["F8_E4M3"]

FLOAT_ENCODINGS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Plain encodings that hold floating-point numbers."""


def with_scale_block(encoding: Encoding, scale_block: tuple[int, int]) -> Encoding:
    """Give the FP8 `encoding` whose codes share a scale per `scale_block` of (rows, columns)."""
    return replace(encoding, scale_block=scale_block)
