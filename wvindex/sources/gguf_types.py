"""GGUF's numbers: metadata value types and GGML tensor types.

The numbers are those of the GGUF specification (ggml's docs/gguf.md) and of ``enum ggml_type`` (ggml.h).
They stand here, and not in an import of the gguf package, because that import takes 0.1 s; a test
compares the two.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

BOOL: Final = 7
STRING: Final = 8
ARRAY: Final = 9
UINT32: Final = 4

SCALARS: Final[dict[int, np.dtype[np.generic]]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    UINT32: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    BOOL: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Fixed-size metadata value types; a bool is one byte, 0 or 1."""

VALUE_TYPES: Final = (
    *("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32"),
    *("BOOL", "STRING", "ARRAY", "UINT64", "INT64", "FLOAT64"),
)
"""Names of all metadata value types, by number."""

U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")

GGML_TYPES: Final[dict[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
    42: "Q2_0",
}
"""Names in ``wvindex.formats.encodings`` of the tensor types that a file may have."""

REMOVED_GGML_TYPES: Final[dict[int, str]] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Types that ggml once had; their numbers are not given again."""
