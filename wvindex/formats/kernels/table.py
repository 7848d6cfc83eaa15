"""Which encoding has which kernels; numba is imported, and a kernel compiled, when it is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

from wvindex.formats.encodings import ENCODINGS, Encoding

if TYPE_CHECKING:
    from wvindex.formats.kernels._factory import Block, Kernel

_MODULES: Final = {
    "floats": ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"),
    "legacy": ("Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q8_K", "TQ1_0", "TQ2_0"),
    "k_quants": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "codebook": ("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"),
    "grids": ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
}

_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}
"""Where the decoder of a block stands; its name is the encoding's in lower case."""

SCALED: Final = frozenset({"F8_E4M3", "F8_E5M2"})
"""Encodings that have kernels for block scales too."""


def has_kernel(encoding: Encoding) -> bool:
    """Whether there are kernels for `encoding`."""
    if encoding.scale_block is not None:
        return encoding.name in SCALED
    return encoding.name in _MODULE_OF and encoding == ENCODINGS[encoding.name]


@cache
def decode_kernel(name: str, *, narrow: bool) -> Kernel:
    """Give the kernel that decodes blocks to float32, or to 16 bits where `narrow`."""
    from wvindex.formats.kernels import _factory

    encoding = ENCODINGS[name]
    make = _factory.narrow_kernel if narrow and encoding.block_size > 1 else _factory.decode_kernel
    return make(name, _block(name), encoding.block_size, encoding.type_size)


@cache
def dot_kernel(name: str) -> Kernel:
    """Give the kernel that decodes blocks and multiplies them by vectors."""
    from wvindex.formats.kernels import _factory

    encoding = ENCODINGS[name]
    return _factory.dot_kernel(name, _block(name), encoding.block_size, encoding.type_size)


@cache
def scaled_decode_kernel(name: str) -> Kernel:
    """Give the kernel that decodes FP8 codes with block scales."""
    from wvindex.formats.kernels import floats

    return floats.scaled_decode_kernel(name)


@cache
def scaled_dot_kernel(name: str) -> Kernel:
    """Give the kernel that decodes FP8 codes with block scales and multiplies them by vectors."""
    from wvindex.formats.kernels import floats

    return floats.scaled_dot_kernel(name)


def _block(name: str) -> Block:
    module = import_module(f"wvindex.formats.kernels.{_MODULE_OF[name]}")
    block: Block = getattr(module, name.lower())
    return block
