"""MXFP4 from its definition: OCP Microscaling Formats 1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).

`blocks` (..., 16) uint8 hold value 2i in the low half of byte i and 2i + 1 in the high one, as GPT-OSS's
checkpoints do; GGML's block is the exponent, then values 0 to 15 in the low halves and 16 to 31 in the high.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests.support.random_weights import Array

Bytes = npt.NDArray[np.uint8]

CODES = "_blocks"
EXPONENTS = "_scales"
VALUES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)


def codes(blocks: Bytes) -> Bytes:
    """Give one code a byte, (..., 32)."""
    return np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)


def decode(blocks: Bytes, exponents: Bytes) -> npt.NDArray[np.float32]:
    """Give the values, (..., blocks * 32)."""
    four_bits = codes(blocks)
    magnitude = VALUES[four_bits & 7] * np.where(four_bits & 8, np.float32(-1), np.float32(1))
    values: npt.NDArray[np.float32] = np.ldexp(magnitude, exponents.astype(np.int32)[..., None] - 127)
    return values.reshape(*exponents.shape[:-1], -1)


def ggml_blocks(blocks: Bytes, exponents: Bytes) -> Bytes:
    """Give rows of GGML's blocks, (..., blocks * 17)."""
    four_bits = codes(blocks)
    halves = four_bits[..., :16] | (four_bits[..., 16:] << 4)
    joined = np.concatenate([exponents[..., None], halves.astype(np.uint8)], axis=-1)
    return joined.reshape(*exponents.shape[:-1], -1)


def pairs(tensors: Mapping[str, Array]) -> dict[str, tuple[Bytes, Bytes]]:
    """Give codes and exponents by the name that they have in common."""
    stems = [name.removesuffix(CODES) for name in tensors if name.endswith(CODES)]
    return {stem: (tensors[stem + CODES], tensors[stem + EXPONENTS]) for stem in stems}


def unpacked(tensors: Mapping[str, Array], dtype: npt.DTypeLike) -> dict[str, Array]:
    """Give the same tensors with the stacks as modules have them: values, (experts, in, out)."""
    found = pairs(tensors)
    packed = {stem + suffix for stem in found for suffix in (CODES, EXPONENTS)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in packed}
    return plain | {stem: decode(*pair).swapaxes(1, 2).astype(dtype) for stem, pair in found.items()}
