"""Which encoding has which kernels; numba is imported, and a kernel compiled, when it is first asked for."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal

from wvindex.formats.encodings import ENCODINGS, Encoding

if TYPE_CHECKING:
    from wvindex.formats.kernels._factory import Block, BlockProduct, Kernel

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


STREAMED: Final = frozenset(
    {name for name in _MODULE_OF if name.startswith(("Q", "TQ", "BF", "F8"))} | {"MXFP4"}
)
"""Encodings that decode faster than memory takes ordinary stores; the others gain nothing by streaming."""

PRODUCTS: Final = {"Q2_K": 16, "Q3_K": 16, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16}
"""Encodings whose blocks are multiplied by a single vector without being decoded, and their groups."""

MAX_VECTORS: Final = 8
"""Vectors that a dot product takes at once: beyond, decoding a tile for BLAS is as fast."""

Manner = Literal["direct", "narrow", "stream"]
"""How values reach the output: as float32, rounded to 16 bits, or as float32 past the caches."""


def has_kernel(encoding: Encoding) -> bool:
    """Whether there are kernels for `encoding`: none where numba is told not to compile."""
    if _is_jit_disabled():
        return False
    if encoding.scale_block is not None:
        return encoding.name in SCALED
    return encoding.name in _MODULE_OF and encoding == ENCODINGS[encoding.name]


@cache
def _is_jit_disabled() -> bool:
    """Whether ``NUMBA_DISABLE_JIT`` says so, as numba reads it when it is loaded."""
    wish = os.environ.get("NUMBA_DISABLE_JIT", "").strip()
    return wish.isdecimal() and int(wish) != 0


@cache
def decode_kernel(name: str, manner: Manner) -> Kernel:
    """Give the kernel that decodes blocks in that manner."""
    from wvindex.formats.kernels import _factory

    factories = {
        "direct": _factory.decode_kernel,
        "narrow": _factory.narrow_kernel,
        "stream": _factory.stream_kernel,
    }
    encoding = ENCODINGS[name]
    return factories[manner](name, _block(name), encoding.block_size, encoding.type_size)


@cache
def dot_kernel(name: str) -> Kernel:
    """Give the kernel that decodes blocks and multiplies them by vectors."""
    from wvindex.formats.kernels import _factory

    encoding = ENCODINGS[name]
    return _factory.dot_kernel(name, _block(name), encoding.block_size, encoding.type_size)


@cache
def product_kernel(name: str) -> Kernel:
    """Give the kernel that multiplies blocks of one of `PRODUCTS` by a single vector."""
    from wvindex.formats.kernels import _factory, products

    encoding = ENCODINGS[name]
    product: BlockProduct = getattr(products, name.lower())
    return _factory.product_kernel(
        name, product, PRODUCTS[name], _block(name), encoding.block_size, encoding.type_size
    )


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
