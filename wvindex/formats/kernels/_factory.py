"""Turns the decoder of one block into compiled kernels over rows: decode, and decode-and-dot."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any, Final, TypeAlias, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable

from wvindex.formats.kernels._intrinsics import get, put
from wvindex.formats.kernels._stream import STREAM_VALUES, stream, stream_fence, stream_one, unaligned_values
from wvindex.formats.kernels.table import MAX_VECTORS

Function = TypeVar("Function", bound=Callable[..., Any])

Block: TypeAlias = Callable[[Any, int, Any, int], None]
"""``block(raw, at, out, to)``: decodes the block at byte `at` of `raw` to ``out[to : to + block_size]``."""

BlockProduct: TypeAlias = Callable[[Any, int, Any, int, Any, Any, Any], Any]
"""``product(raw, at, x, first, sums, scales, minima)``: of the block at byte `at` with x from `first` on.

`sums` has the sums of x over groups; `scales` and `minima` are room for those of a block.
"""

Kernel: TypeAlias = Callable[..., None]

TILE_VALUES: Final = 512
"""Values that a dot product decodes at once: 2 KiB stay in the first-level cache."""

_MAX_GROUPS: Final = 16

# Of files and of the pickles in them.
_CACHE_ERRORS: Final = (
    OSError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
)

# Sums may be regrouped and fused; NaN and infinity still count.
_SUMMATION: Final = {"reassoc", "contract", "nsz"}


def inline(function: Function) -> Function:
    """Mark a plain function as one that kernels call."""
    marked: Function = register_jitable(forceinline=True)(function)
    return marked


def decode_kernel(name: str, block: Block, block_size: int, type_size: int) -> Kernel:
    """Make ``decode(raw, raw_stride, out, out_stride, n_rows, n_blocks)``.

    Parameters
    ----------
    name : str
        Of the encoding; the cache on disk and profilers show it.
    block : Block
        A module's function, marked by `inline`.
    block_size, type_size : int
        Values and bytes of a block.

    Returns
    -------
    callable
        Of a flat uint8 array and a flat float32 array; strides in items. Where a block is one value,
        `out` may be anything that `_intrinsics.put` takes.
    """

    def decode(raw: Any, raw_stride: int, out: Any, out_stride: int, n_rows: int, n_blocks: int) -> None:
        for row in range(n_rows):
            at, to = row * raw_stride, row * out_stride
            for i in range(n_blocks):
                block(raw, at + i * type_size, out, to + i * block_size)

    return compiled(decode, f"decode_{name}")


def narrow_kernel(name: str, block: Block, block_size: int, type_size: int) -> Kernel:
    """Make a kernel as `decode_kernel` does, for an `out` of 16 bits: decodes by tiles, and rounds those."""
    return _tiled(f"narrow_{name}", block, block_size, type_size, _put_tile)


def stream_kernel(name: str, block: Block, block_size: int, type_size: int) -> Kernel:
    """Make a kernel as `decode_kernel` does, for an `out` that is larger than the caches."""
    return _tiled(f"stream_{name}", block, block_size, type_size, _stream_tile)


def _tiled(
    name: str, block: Block, block_size: int, type_size: int, emit: Callable[[Any, int, Any, int], None]
) -> Kernel:
    """Make a kernel that decodes a tile, and then emits it: ``emit(tile, count, out, to)``."""
    tile_blocks = TILE_VALUES // block_size

    def decode(raw: Any, raw_stride: int, out: Any, out_stride: int, n_rows: int, n_blocks: int) -> None:
        tile = np.empty(TILE_VALUES, np.float32)
        for row in range(n_rows):
            for first in range(0, n_blocks, tile_blocks):
                count = min(tile_blocks, n_blocks - first)
                at = row * raw_stride + first * type_size
                for i in range(count):
                    block(raw, at + i * type_size, tile, i * block_size)
                emit(tile, count * block_size, out, row * out_stride + first * block_size)
        stream_fence()

    return compiled(decode, name)


@inline
def _put_tile(tile: Any, count: int, out: Any, to: int) -> None:
    for i in range(count):
        put(out, to + i, get(tile, i))


@inline
def _stream_tile(tile: Any, count: int, out: Any, to: int) -> None:
    head = min(unaligned_values(out, to), count)
    body = head + (count - head) // STREAM_VALUES * STREAM_VALUES
    for i in range(head):
        stream_one(out, to + i, get(tile, i))
    for i in range(head, body, STREAM_VALUES):
        stream(out, to + i, tile, i)
    for i in range(body, count):
        stream_one(out, to + i, get(tile, i))


def dot_kernel(name: str, block: Block, block_size: int, type_size: int) -> Kernel:
    """Make ``dot(raw, raw_stride, vectors, out, n_rows, n_blocks)``; parameters as `decode_kernel`.

    Returns
    -------
    callable
        Of a flat uint8 array, float32 (m, n_values) with m at most `MAX_VECTORS`, and float32
        (m, n_rows). Sums of a tile are float32, those of a row float64.
    """
    tile_blocks = TILE_VALUES // block_size

    def dot(raw: Any, raw_stride: int, vectors: Any, out: Any, n_rows: int, n_blocks: int) -> None:
        tile = np.empty(TILE_VALUES, np.float32)
        sums = np.empty(MAX_VECTORS, np.float64)
        for row in range(n_rows):
            sums[:] = 0
            for first in range(0, n_blocks, tile_blocks):
                count = min(tile_blocks, n_blocks - first)
                at = row * raw_stride + first * type_size
                for i in range(count):
                    block(raw, at + i * type_size, tile, i * block_size)
                for j in range(vectors.shape[0]):
                    sums[j] += tile_dot(tile, vectors[j], first * block_size, count * block_size)
            for j in range(vectors.shape[0]):
                out[j, row] = sums[j]

    return compiled(dot, f"dot_{name}")


def product_kernel(
    name: str, product: BlockProduct, group: int, block: Block, block_size: int, type_size: int
) -> Kernel:
    """Make ``dot(raw, raw_stride, vector, out, n_rows, n_blocks)`` for one vector, float32 (n_values,).

    Where a result is not finite, its row is decoded after all: a level of 0 is no 0 times infinity.

    Parameters
    ----------
    product : BlockProduct
        A module's function, marked by `inline`.
    group : int
        Values of x that it wants the sums of.
    name, block, block_size, type_size
        As `decode_kernel` takes them.
    """
    per_block = block_size // group

    def dot(raw: Any, raw_stride: int, vector: Any, out: Any, n_rows: int, n_blocks: int) -> None:
        sums = np.empty(n_blocks * per_block, np.float32)
        for i in range(len(sums)):
            sums[i] = _sum(vector, i * group, group)
        scales, minima = np.empty(_MAX_GROUPS, np.float32), np.empty(_MAX_GROUPS, np.float32)
        tile = np.empty(block_size, np.float32)
        for row in range(n_rows):
            at = row * raw_stride
            total = 0.0
            for i in range(n_blocks):
                total += product(raw, at + i * type_size, vector, i * block_size, sums, scales, minima)
            if not np.isfinite(total):
                total = 0.0
                for i in range(n_blocks):
                    block(raw, at + i * type_size, tile, 0)
                    total += tile_dot(tile, vector, i * block_size, block_size)
            out[row] = total

    return compiled(dot, f"product_{name}")


def compiled(function: Function, name: str) -> Function:
    """Compile a kernel at its first call, without the interpreter's lock, and keep it on disk.

    Numba's cache watches the function's own file only, so the kernel's name carries a digest of this whole
    package. Where no directory can be written, or what is there cannot be read, the kernel is compiled in
    every process.
    """
    function.__name__ = function.__qualname__ = f"{name}_{_sources_digest()}"
    options: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function ...: no locator available"
        return cast("Function", numba.njit(**options)(function))
    return cast("Function", _Cached(kernel, lambda: numba.njit(**options)(function)))


class _Cached:
    """A kernel from the cache on disk; compiled anew, and kept in memory, where that fails it.

    Numba reads its files at a kernel's first call, writes them there, and lets every error of theirs
    through: of a disk that is full, of a pickle that is cut off. Kernels themselves raise nothing.
    """

    def __init__(self, kernel: Kernel, compile_anew: Callable[[], Kernel]) -> None:
        self._kernel = kernel
        self._uncached: Kernel | None = None
        self._compile_anew = compile_anew
        self._lock = Lock()

    def __call__(self, *arguments: Any) -> Any:
        kernel = self._kernel
        try:
            return kernel(*arguments)
        except _CACHE_ERRORS:
            if kernel is self._uncached:
                raise
        return self._without_cache()(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def _without_cache(self) -> Kernel:
        with self._lock:
            if self._uncached is None:
                self._kernel = self._uncached = self._compile_anew()
            return self._uncached


@cache
def _sources_digest() -> str:
    sources = sorted((f.name, f.read_bytes()) for f in files(__package__).iterdir() if f.name.endswith(".py"))
    return hashlib.blake2b(repr(sources).encode(), digest_size=6).hexdigest()


def _sum_of_products(tile: Any, vector: Any, start: int, count: int) -> Any:
    total = np.float32(0)
    for i in range(count):
        total += get(tile, i) * get(vector, start + i)
    return total


def _sum_of_values(vector: Any, start: int, count: int) -> Any:
    total = np.float32(0)
    for i in range(count):
        total += get(vector, start + i)
    return total


_sum: Final = numba.njit(fastmath=_SUMMATION, nogil=True, boundscheck=False)(_sum_of_values)
tile_dot: Final = numba.njit(fastmath=_SUMMATION, nogil=True, boundscheck=False)(_sum_of_products)
"""``tile_dot(tile, vector, start, count)``: a tile's first values times a part of a vector, summed."""
