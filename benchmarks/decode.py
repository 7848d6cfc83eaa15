"""Decoding blocks in memory to float32: beside the gguf package, ggml's C, and filling the same buffer.

The gguf package makes a new array for each result; all others write into one buffer, so wvindex is timed both
ways. The fill is ``ndarray.fill``, whose stores go through the caches, while wvindex writes a large output
past them: that one decodes faster than the other fills is no contradiction.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.blocks import random_blocks
from benchmarks.harness import Absent, Bench, Comparison
from benchmarks.peers import ggml_decoder
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.kernels import decode_parallel

K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
BARS = {
    **dict.fromkeys(K_QUANTS, "decode-k"),
    **dict.fromkeys(("Q4_0", "Q8_0"), "decode-legacy"),
    **dict.fromkeys(("IQ4_XS", "MXFP4"), "decode-codebook"),
}
ONE, TWO = "wvindex, one thread", "wvindex, two threads"
NEW = "wvindex, one thread, new array"
PACKAGE, C, FILL, FILL_TWO = "gguf package", "ggml's C", "ndarray.fill", "ndarray.fill, two threads"


def run(bench: Bench) -> None:
    """Decode a matrix of each type, into one buffer; the gguf package, and wvindex again, into new ones."""
    shape = (256, 1024) if bench.quick else (4096, 4096)
    out = np.zeros(shape, np.float32)
    for type_name, bar_of_package in BARS.items():
        comparison = _compare(bench, type_name, out)
        speeds, beside = comparison.speeds(ONE, PACKAGE), median(comparison.speeds(NEW, PACKAGE))
        note = f"{type_name} into a new array, as the package does: {beside:.2g}"
        bench.read_median(type_name, f"{ONE}, x {PACKAGE}", speeds, bar=bar_of_package, note=note)
        for label, peer, bar in (
            (NEW, PACKAGE, None),
            (ONE, C, "decode-ggml"),
            (ONE, FILL, "decode-fill" if type_name in K_QUANTS else None),
            (TWO, ONE, "decode-threads"),
            (FILL_TWO, FILL, None),
        ):
            bench.read_speed(comparison, label, peer, bar=bar)


def _compare(bench: Bench, type_name: str, out: NDArray[np.float32]) -> Comparison:
    rows, columns = out.shape
    encoding = ENCODINGS[type_name]
    blocks = random_blocks(type_name, out.size // encoding.block_size, seed=1)
    raw = blocks.reshape(rows, encoding.row_bytes(columns))
    kind = gguf.GGMLQuantizationType[type_name]
    in_c = ggml_decoder(type_name)
    return bench.compare(
        type_name,
        {
            ONE: lambda: decode_parallel(raw, encoding, out, n_threads=1),
            NEW: lambda: decode_parallel(raw, encoding, np.empty(out.shape, np.float32), n_threads=1),
            TWO: lambda: decode_parallel(raw, encoding, out, n_threads=2),
            PACKAGE: lambda: gguf.dequantize(raw, kind),
            C: in_c if isinstance(in_c, Absent) else lambda: in_c(raw, out),
            FILL: lambda: out.fill(1.0),
            FILL_TWO: _fill_two(out),
        },
        repeat=9,
        nbytes=out.nbytes,
    )


def _fill_two(out: NDArray[np.float32]) -> Callable[[], object]:
    from concurrent.futures import ThreadPoolExecutor

    halves = np.split(out, 2)
    pool = ThreadPoolExecutor(2)
    return lambda: list(pool.map(lambda half: half.fill(1.0), halves))
