"""Random bytes that are valid blocks of a GGML type: finite, about as large as a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# Where a block's float16 scales stand, and how large they are: of ggml-common.h.
_SCALES: Final[dict[str, dict[int, float]]] = {
    "Q2_K": {80: 2e-3, 82: 1e-3},
    "Q3_K": {108: 3e-4},
    "Q4_K": {0: 1.2e-4, 2: 9e-4},
    "Q5_K": {0: 6e-5, 2: 9e-4},
    "Q6_K": {208: 1.5e-5},
    "Q4_0": {0: 4e-3},
    "Q4_1": {0: 4e-3, 2: -3e-2},
    "Q5_0": {0: 2e-3},
    "Q8_0": {0: 3e-4},
    "IQ4_NL": {0: 3e-4},
    "IQ4_XS": {0: 2e-5},
}

_MXFP4_EXPONENT: Final = 120
"""2 ** (120 - 128): the scale of MXFP4, a byte."""

POOL_BYTES: Final = 16 << 20
"""Blocks that are made; a larger tensor has them several times."""


def random_blocks(type_name: str, n_blocks: int, seed: int) -> Bytes:
    """Make blocks, shape (n_blocks, type_size)."""
    kind = gguf.GGMLQuantizationType[type_name]
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    if type_name in ("F32", "F16", "BF16"):
        return _plain(type_name, rng.standard_normal((n_blocks, block_size), np.float32) * np.float32(0.02))
    blocks = rng.integers(0, 256, (n_blocks, type_size), np.uint8)
    for offset, scale in _SCALES.get(type_name, {}).items():
        spread = rng.uniform(0.9, 1.1, (n_blocks, 1)) if type_name != "Q4_K" else np.ones((n_blocks, 1))
        blocks[:, offset : offset + 2] = (scale * spread).astype("<f2").view(np.uint8)
    if type_name == "Q4_K":
        _centre(blocks)
    if type_name == "MXFP4":
        blocks[:, 0] = _MXFP4_EXPONENT
    return blocks


def _centre(blocks: Bytes) -> None:
    """Make Q4_K's six-bit minima equal its scales, so that with dmin = 7.5 d values centre on zero."""
    blocks[:, 8:12] = blocks[:, 4:8]
    low = blocks[:, 12:16] & 15
    blocks[:, 12:16] = low | low << 4


def _plain(type_name: str, values: NDArray[np.float32]) -> Bytes:
    if type_name == "F16":
        return values.astype("<f2").view(np.uint8)
    if type_name == "BF16":
        return np.ascontiguousarray(values.view("<u2")[:, 1::2]).view(np.uint8)
    return values.view(np.uint8)


class BlockPool:
    """Blocks of one type, given out over and over from a random place on."""

    def __init__(self, type_name: str, seed: int) -> None:
        _, self.type_size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
        self._type_name = type_name
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._blocks = random_blocks(type_name, 1, seed).reshape(-1)

    def pieces(self, nbytes: int) -> Iterator[Bytes]:
        """Give the bytes of one tensor, piece by piece."""
        self._grow(min(nbytes, POOL_BYTES))
        n_blocks = len(self._blocks) // self.type_size
        at = int(self._rng.integers(n_blocks)) * self.type_size
        while nbytes > 0:
            piece = self._blocks[at : at + nbytes]
            yield piece
            nbytes -= len(piece)
            at = 0

    def _grow(self, nbytes: int) -> None:
        if nbytes > len(self._blocks):
            n_blocks = -(-nbytes // self.type_size)
            self._blocks = random_blocks(self._type_name, n_blocks, self._seed).reshape(-1)
