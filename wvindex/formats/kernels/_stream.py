"""Stores past the caches, for output that the caches cannot hold.

An ordinary store first reads the line that it writes: half of the traffic. LLVM's ``nontemporal`` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types

from wvindex.formats.kernels._intrinsics import FLOAT, INT, LONG, Codegen, address, intrinsic

STREAM_VALUES: Final = 8
"""Values that `stream` stores at once: 32 bytes, which the address must be a multiple of."""


def _stream(typing: Any, out: Any, to: Any, tile: Any, at: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(FLOAT, STREAM_VALUES).as_pointer()
        source = builder.bitcast(address(context, builder, signature.args[2], args[2], args[3]), vector)
        target = builder.bitcast(address(context, builder, signature.args[0], args[0], args[1]), vector)
        _mark_nontemporal(builder.store(builder.load(source, align=4), target, align=4 * STREAM_VALUES))
        return context.get_dummy_value()

    return types.void(out, types.intp, tile, types.intp), generate


def _stream_one(typing: Any, out: Any, to: Any, value: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = address(context, builder, signature.args[0], args[0], args[1])
        bits = builder.bitcast(args[2], INT)  # Processors stream integers, not single floats.
        _mark_nontemporal(builder.store(bits, builder.bitcast(place, INT.as_pointer()), align=4))
        return context.get_dummy_value()

    return types.void(out, types.intp, types.float32), generate


def _unaligned_values(typing: Any, out: Any, to: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = address(context, builder, signature.args[0], args[0], args[1])
        number = builder.ptrtoint(place, LONG)
        missing = builder.and_(builder.neg(number), ir.Constant(LONG, 4 * STREAM_VALUES - 1))
        return builder.lshr(missing, ir.Constant(LONG, 2))

    return types.int64(out, types.intp), generate


def _stream_fence(typing: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _mark_nontemporal(store: Any) -> None:
    store.set_metadata("nontemporal", store.module.add_metadata([ir.Constant(INT, 1)]))


stream: Callable[[Any, int, Any, int], None] = intrinsic(_stream)
"""``stream(out, to, tile, at)``: copy `STREAM_VALUES` float32 to memory, past the caches."""
stream_one: Callable[[Any, int, Any], None] = intrinsic(_stream_one)
"""``stream_one(out, to, value)``: the same for one float32, at any address."""
unaligned_values: Callable[[Any, int], int] = intrinsic(_unaligned_values)
"""``unaligned_values(out, to)``: how many values stand before the next address that `stream` can store to."""
stream_fence: Callable[[], None] = intrinsic(_stream_fence)
"""Let no later store be seen before those that were streamed."""
