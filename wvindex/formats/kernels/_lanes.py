"""Whole entries of a grid at once: 4 or 8 values in one vector, which LLVM does not find by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from wvindex.formats.kernels._intrinsics import FLOAT, INT, LONG, Codegen, address, intrinsic, mark_apart


def constant(values: list[int]) -> Any:
    """Give a vector of 32-bit integers."""
    return ir.Constant(ir.VectorType(INT, len(values)), values)


def everywhere(builder: Any, value: Any, count: int) -> Any:
    """Repeat a scalar in all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, undefined, constant([0] * count))


def _entry(context: Any, builder: Any, grid_type: Any, grid: Any, entry: Any, count: int) -> Any:
    """Load an entry of `count` int8, as a vector of float32."""
    place = address(context, builder, grid_type, grid, builder.mul(entry, ir.Constant(LONG, count)))
    packed = ir.VectorType(ir.IntType(8), count)
    values = builder.load(builder.bitcast(place, packed.as_pointer()), align=1)
    wide = builder.sext(values, ir.VectorType(INT, count))
    return builder.sitofp(wide, ir.VectorType(FLOAT, count))


def _store(context: Any, builder: Any, out_type: Any, out: Any, to: Any, values: Any) -> Any:
    place = address(context, builder, out_type, out, to)
    store = builder.store(values, builder.bitcast(place, values.type.as_pointer()), align=4)
    mark_apart(store, "noalias")
    return context.get_dummy_value()


def _signed(count: int) -> Any:
    """Make ``put(grid, entry, scale, signs, out, to)``."""

    def typed(
        typing: Any, grid: Any, entry: Any, scale: Any, signs: Any, out: Any, to: Any
    ) -> tuple[Any, Codegen]:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = _entry(context, builder, signature.args[0], args[0], args[1], count)
            product = builder.fmul(everywhere(builder, args[2], count), values)
            bits = everywhere(builder, builder.trunc(args[3], INT), count)
            top = builder.shl(bits, constant([31 - i for i in range(count)]))
            sign = builder.and_(top, constant([1 << 31] * count))
            turned = builder.xor(builder.bitcast(product, sign.type), sign)
            result = builder.bitcast(turned, product.type)
            return _store(context, builder, signature.args[4], args[4], args[5], result)

        return types.void(grid, types.int64, types.float32, types.int64, out, types.int64), generate

    return intrinsic(typed)


def _put_shifted(
    typing: Any, grid: Any, entry: Any, scale: Any, delta: Any, out: Any, to: Any
) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = _entry(context, builder, signature.args[0], args[0], args[1], 8)
        moved = builder.fadd(values, everywhere(builder, args[3], 8))
        product = builder.fmul(everywhere(builder, args[2], 8), moved)
        return _store(context, builder, signature.args[4], args[4], args[5], product)

    return types.void(grid, types.int64, types.float32, types.float32, out, types.int64), generate


put_signed_4: Callable[[Any, int, Any, int, Any, int], None] = _signed(4)
put_signed_8: Callable[[Any, int, Any, int, Any, int], None] = _signed(8)
"""``put_signed(grid, entry, scale, signs, out, to)``: an entry times a scale, negative where a bit is set."""
put_shifted: Callable[[Any, int, Any, Any, Any, int], None] = intrinsic(_put_shifted)
"""``put_shifted(grid, entry, scale, delta, out, to)``: (an entry of 8 plus delta) times a scale."""
