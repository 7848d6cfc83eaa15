"""Products of packed integer levels with a vector, eight lanes at a time, without storing what is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from llvmlite import ir
from numba import types

from wvindex.formats.kernels._intrinsics import FLOAT, INT, LONG, Codegen, address, intrinsic
from wvindex.formats.kernels._lanes import constant, everywhere

LevelProduct: TypeAlias = Callable[[Any, int, Any, int, Any, Any], Any]
"""``product(raw, at, x, first, d, scales) -> float32``: d times the sum, over a block's groups, of a group's
scale times its levels' product with ``x[first : first + block_size]``."""

LevelProductLessMinima: TypeAlias = Callable[[Any, int, Any, int, Any, Any, Any, Any, Any, int], Any]
"""``product(raw, at, x, first, d, scales, dmin, minima, sums, group)``: as `LevelProduct`, less ``dmin``
times the minima's product with ``sums[group : group + n_groups]``."""

BYTE: Final = ir.IntType(8)

_LANES: Final = 8
_SUMS: Final = 2
"""Sums that run beside each other: an addition need not wait for the one before."""

# Sums may be regrouped and fused; NaN and infinity still count.
_SUMMATION: Final = ("reassoc", "contract", "nsz")


@dataclass(frozen=True)
class Bits:
    """A field of each of many bytes that stand side by side.

    Attributes
    ----------
    at : int
        The first byte, from the block's start.
    shift, width : int
    """

    at: int
    shift: int
    width: int


@dataclass(frozen=True)
class Levels:
    """Levels of values that stand side by side, one to a byte; none of them is of two groups.

    Attributes
    ----------
    first : int
        The first value.
    count : int
        16 or 32.
    low : Bits
    high : Bits, optional
        What stands above the low bits.
    """

    first: int
    count: int
    low: Bits
    high: Bits | None = None


def level_product(runs: Iterable[Levels], *, group: int, excess: int = 0) -> LevelProduct:
    """Make the product of a block's levels.

    Parameters
    ----------
    runs : iterable of Levels
        All values of a block.
    group : int
        Values that share a scale: ``scales[i]`` is of values ``group * i`` and on.
    excess : int
        What is subtracted from every level.
    """
    chosen = tuple(runs)

    def typed(typing: Any, raw: Any, at: Any, x: Any, first: Any, d: Any, scales: Any) -> tuple[Any, Codegen]:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _total(builder, _scaled_lanes(context, builder, signature, args, chosen, group, excess))

        return types.float32(raw, types.intp, x, types.intp, types.float32, scales), generate

    product: LevelProduct = intrinsic(typed)
    return product


def level_product_less_minima(runs: Iterable[Levels], *, group: int) -> LevelProductLessMinima:
    """Make the product of a block whose groups have a minimum each; parameters as of `level_product`."""
    chosen = tuple(runs)
    n_groups = sum(run.count for run in chosen) // group

    def typed(
        typing: Any,
        raw: Any,
        at: Any,
        x: Any,
        first: Any,
        d: Any,
        scales: Any,
        dmin: Any,
        minima: Any,
        sums: Any,
        place: Any,
    ) -> tuple[Any, Codegen]:

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            total = _scaled_lanes(context, builder, signature, args, chosen, group, 0)
            left = address(context, builder, signature.args[7], args[7], ir.Constant(LONG, 0))
            right = address(context, builder, signature.args[8], args[8], args[9])
            factor = everywhere(builder, builder.fneg(args[6]), _LANES)
            lanes = None
            for i in range(0, n_groups, _LANES):
                pair = (_vector(builder, place, i, FLOAT, _LANES) for place in (left, right))
                lanes = _plus(builder, lanes, builder.fmul(*pair, flags=_SUMMATION))
            return _total(builder, _plus(builder, total, builder.fmul(factor, lanes, flags=_SUMMATION)))

        float32, intp = types.float32, types.intp
        return float32(raw, intp, x, intp, float32, scales, float32, minima, sums, intp), generate

    product: LevelProductLessMinima = intrinsic(typed)
    return product


def _scaled_lanes(
    context: Any, builder: Any, signature: Any, args: Any, runs: tuple[Levels, ...], group: int, excess: int
) -> Any:
    """Give the lanes that add up to what `LevelProduct` gives."""
    block = address(context, builder, signature.args[0], args[0], args[1])
    values = address(context, builder, signature.args[2], args[2], args[3])
    factors = address(context, builder, signature.args[5], args[5], ir.Constant(LONG, 0))
    sums: list[Any] = [None] * _SUMS
    for number, run in enumerate(runs):
        scale = builder.load(_moved(builder, factors, run.first // group))
        lanes = _run_lanes(builder, block, values, run, excess)
        product = builder.fmul(everywhere(builder, scale, _LANES), lanes, flags=_SUMMATION)
        sums[number % _SUMS] = _plus(builder, sums[number % _SUMS], product)
    total = None
    for lanes in sums:
        total = _plus(builder, total, lanes)
    return builder.fmul(everywhere(builder, args[4], _LANES), total, flags=_SUMMATION)


def _run_lanes(builder: Any, block: Any, values: Any, run: Levels, excess: int) -> Any:
    """Sum levels times values, lane by lane."""
    total = None
    for offset in range(0, run.count, _LANES):
        levels = _field(builder, block, run.low, offset)
        if run.high is not None:
            high = _field(builder, block, run.high, offset)
            levels = builder.or_(levels, builder.shl(high, constant([run.low.width] * _LANES)))
        if excess:
            levels = builder.sub(levels, constant([excess] * _LANES))
        factors = builder.sitofp(levels, ir.VectorType(FLOAT, _LANES))
        x = _vector(builder, values, run.first + offset, FLOAT, _LANES)
        total = _plus(builder, total, builder.fmul(factors, x, flags=_SUMMATION))
    return total


def _field(builder: Any, block: Any, bits: Bits, offset: int) -> Any:
    """Load eight bytes' fields as integers of 32 bits."""
    packed = _vector(builder, block, bits.at + offset, BYTE, _LANES)
    levels = builder.zext(packed, ir.VectorType(INT, _LANES))
    if bits.shift:
        levels = builder.lshr(levels, constant([bits.shift] * _LANES))
    if bits.shift + bits.width < 8:
        levels = builder.and_(levels, constant([(1 << bits.width) - 1] * _LANES))
    return levels


def _vector(builder: Any, base: Any, index: int, item: Any, count: int) -> Any:
    place = builder.bitcast(_moved(builder, base, index), ir.VectorType(item, count).as_pointer())
    return builder.load(place, align=4 if item is FLOAT else 1)


def _moved(builder: Any, base: Any, index: int) -> Any:
    return builder.gep(base, [ir.Constant(LONG, index)], inbounds=True)


def _plus(builder: Any, total: Any, more: Any) -> Any:
    return more if total is None else builder.fadd(total, more, flags=_SUMMATION)


def _total(builder: Any, lanes: Any) -> Any:
    """Add up all lanes."""
    width = _LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(lanes, lanes, constant(list(range(start, start + width))))
            for start in (0, width)
        ]
        lanes = builder.fadd(*halves)
    return builder.extract_element(lanes, ir.Constant(INT, 0))
