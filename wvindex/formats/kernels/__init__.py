"""Compiled kernels for encoded rows: bit-equal to ggml's C and the gguf package, many times as fast.

That is of finite values. Where a block's scale is infinite or NaN, a NaN's sign may be another with the IQ2
and IQ3 encodings.

Light to import: numba is loaded, and a kernel compiled or taken from numba's cache on disk, at its first use.
"""

from wvindex.formats.kernels.parallel import decode_parallel, dot_parallel, threads
from wvindex.formats.kernels.rows import (
    RowDecoder,
    decode,
    decode_fp8_rows,
    decoder,
    dot,
    narrow,
)
from wvindex.formats.kernels.table import MAX_VECTORS, has_kernel

__all__ = [
    "MAX_VECTORS",
    "RowDecoder",
    "decode",
    "decode_fp8_rows",
    "decode_parallel",
    "decoder",
    "dot",
    "dot_parallel",
    "has_kernel",
    "narrow",
    "threads",
]
