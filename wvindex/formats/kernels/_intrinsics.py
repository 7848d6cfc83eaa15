"""What numba lacks: unaligned little-endian loads, small floats, and stores to any float type.

Everything is plain 32-bit LLVM arithmetic, without ``fpext`` to half (on processors without F16C that calls
a function which numba does not link) and without fast-math flags, so that the bits are the same everywhere:
LLVM fuses a multiplication with an addition only where a flag allows it. Indices are neither checked nor
wrapped; the callers have validated their shapes.

numba has no float16 and no bfloat16: an array of uint16 stands for the one, of int16 for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import extending, types

INT: Final = ir.IntType(32)
LONG: Final = ir.IntType(64)
FLOAT: Final = ir.FloatType()

Codegen = Callable[[Any, Any, Any, Any], Any]
"""numba's: (context, builder, signature, arguments) -> value."""


intrinsic: Any = extending.intrinsic


def _int(value: int) -> Any:
    return ir.Constant(INT, value)


def address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Point at an array's item."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def mark_apart(instruction: Any, kind: str) -> None:
    """Tell LLVM that what is loaded from encoded bytes is never what is stored (LangRef, "noalias")."""
    module = instruction.module
    domain = module.add_metadata(["wvindex kernels"])
    scope = module.add_metadata(["encoded bytes", domain])
    instruction.set_metadata(kind, module.add_metadata([scope]))


def _loader(bits: int, signed: bool = False) -> Any:
    """Make ``load(array of uint8, at) -> int``: the little-endian integer at a byte offset."""

    def typed(typing: Any, raw: Any, at: Any) -> tuple[Any, Codegen]:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = address(context, builder, signature.args[0], args[0], args[1])
            value = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()), align=1)
            mark_apart(value, "alias.scope")
            return builder.sext(value, LONG) if signed else builder.zext(value, LONG)

        return types.int64(raw, types.intp), generate

    return intrinsic(typed)


load_u8: Callable[[Any, int], int] = _loader(8)
load_i8: Callable[[Any, int], int] = _loader(8, signed=True)
load_u16: Callable[[Any, int], int] = _loader(16)
load_u32: Callable[[Any, int], int] = _loader(32)


def _get(typing: Any, values: Any, at: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(address(context, builder, signature.args[0], args[0], args[1]))

    return values.dtype(values, types.intp), generate


get: Callable[[Any, int], Any] = intrinsic(_get)
"""An array's item, without numba's check for negative indices, which keeps loops from vectorizing."""


def _opaque(typing: Any, count: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.asm(ir.FunctionType(LONG, [LONG]), "", "=r,0", args, side_effect=False)

    return types.int64(types.int64), generate


opaque: Callable[[int], int] = intrinsic(_opaque)
"""A trip count, hidden from LLVM, which unrolls short loops over constants and then does not vectorize."""


def _widen(builder: Any, code: Any, exponent_bits: int, mantissa_bits: int) -> Any:
    """Convert a small float (sign, exponent, mantissa: an i32) to float32, exactly."""
    magnitude_bits = exponent_bits + mantissa_bits
    rebias = 128 - (1 << exponent_bits - 1)
    shift = 23 - mantissa_bits
    magnitude = builder.shl(builder.and_(code, _int((1 << magnitude_bits) - 1)), _int(shift))
    normal = builder.add(magnitude, _int(rebias << 23))
    # Subnormal: as if the exponent were 1, less the leading one that this implies.
    one = _int(rebias + 1 << 23)
    excess = builder.fsub(builder.bitcast(builder.add(magnitude, one), FLOAT), builder.bitcast(one, FLOAT))
    is_subnormal = builder.icmp_signed("<", magnitude, _int(1 << 23))
    finite = builder.select(is_subnormal, builder.bitcast(excess, INT), normal)
    if (exponent_bits, mantissa_bits) == (4, 3):  # E4M3 has no infinity, and one NaN.
        is_special = builder.icmp_signed("==", magnitude, _int(0x7F << shift))
        special = _int(0x7FC00000)
    elif exponent_bits == 2:  # E2M1 has neither.
        is_special, special = ir.Constant(ir.IntType(1), 0), normal
    else:
        top = (1 << exponent_bits) - 1
        is_special = builder.icmp_signed(">=", magnitude, _int(top << 23))
        special = builder.add(magnitude, _int(255 - top << 23))
    value = builder.select(is_special, special, finite)
    sign = builder.and_(builder.shl(code, _int(31 - magnitude_bits)), _int(1 << 31))
    return builder.bitcast(builder.or_(value, sign), FLOAT)


def _widener(exponent_bits: int, mantissa_bits: int) -> Any:
    """Make ``widen(code) -> float32``."""

    def typed(typing: Any, code: Any) -> tuple[Any, Codegen]:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _widen(builder, builder.trunc(args[0], INT), exponent_bits, mantissa_bits)

        return types.float32(types.int64), generate

    return intrinsic(typed)


from_half: Callable[[int], Any] = _widener(5, 10)
from_e4m3: Callable[[int], Any] = _widener(4, 3)
from_e5m2: Callable[[int], Any] = _widener(5, 2)
from_e2m1: Callable[[int], Any] = _widener(2, 1)


def _from_bits(typing: Any, bits: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], INT), FLOAT)

    return types.float32(types.int64), generate


def _to_float(typing: Any, value: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(builder.trunc(args[0], INT), FLOAT)

    return types.float32(types.int64), generate


def _field(typing: Any, value: Any, shift: Any, width: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, shift, width = (builder.trunc(arg, INT) for arg in args)
        mask = builder.sub(builder.shl(_int(1), width), _int(1))
        return builder.zext(builder.and_(builder.lshr(number, shift), mask), LONG)

    return types.int64(types.int64, types.int64, types.int64), generate


def _negate_if(typing: Any, value: Any, bit: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sign = builder.shl(builder.trunc(args[1], INT), _int(31))
        return builder.bitcast(builder.xor(builder.bitcast(args[0], INT), sign), FLOAT)

    return types.float32(types.float32, types.int64), generate


from_bits: Callable[[int], Any] = intrinsic(_from_bits)
"""The float32 that has these 32 bits."""
to_float: Callable[[int], Any] = intrinsic(_to_float)
"""A small integer as float32. Numba's integers have 64 bits, which makes vectors half as wide."""
field: Callable[[int, int, int], int] = intrinsic(_field)
"""``field(value, shift, width)``: `width` bits (less than 32) of a 32-bit integer, in 32-bit arithmetic."""
negate_if: Callable[[Any, int], Any] = intrinsic(_negate_if)
"""A float32 with its sign turned where the lowest bit is set."""


def _narrow_to_half(builder: Any, value: Any) -> Any:
    """Round a float32 to half's bits (i32): to nearest even; NaN becomes quiet."""
    bits = builder.bitcast(value, INT)
    sign = builder.and_(builder.lshr(bits, _int(16)), _int(0x8000))
    magnitude = builder.and_(bits, _int(0x7FFFFFFF))
    # Exponent from bias 127 to 15, and almost half a unit up: one more where the last bit kept is odd.
    odd = builder.and_(builder.lshr(magnitude, _int(13)), _int(1))
    rounded = builder.add(builder.add(magnitude, _int((15 - 127 << 23) + 0xFFF)), odd)
    normal = builder.lshr(rounded, _int(13))
    # Subnormal: the sum with 0.5 has the wanted unit in its last place, so the addition rounds.
    shifted = builder.fadd(builder.bitcast(magnitude, FLOAT), ir.Constant(FLOAT, 0.5))
    subnormal = builder.sub(builder.bitcast(shifted, INT), _int(0x3F000000))
    is_nan = builder.icmp_signed(">", magnitude, _int(0x7F800000))
    too_large = builder.select(is_nan, _int(0x7E00), _int(0x7C00))
    is_subnormal = builder.icmp_signed("<", magnitude, _int(127 - 14 << 23))
    finite = builder.select(is_subnormal, subnormal, normal)
    is_large = builder.icmp_signed(">=", magnitude, _int(127 + 16 << 23))
    return builder.or_(builder.select(is_large, too_large, finite), sign)


def _narrow_to_brain(builder: Any, value: Any) -> Any:
    """Round a float32 to bfloat16's bits (i32): to nearest even; NaN becomes quiet."""
    bits = builder.bitcast(value, INT)
    high = builder.lshr(bits, _int(16))
    odd = builder.and_(high, _int(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _int(0x7FFF))), _int(16))
    quiet = builder.or_(builder.and_(high, _int(0x8000)), _int(0x7FC0))
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)


_NARROW: Final = {types.uint16: _narrow_to_half, types.int16: _narrow_to_brain}


def _put(typing: Any, out: Any, at: Any, value: Any) -> tuple[Any, Codegen]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array_type = signature.args[0]
        number = args[2]
        if array_type.dtype in _NARROW:
            number = builder.trunc(_NARROW[array_type.dtype](builder, number), ir.IntType(16))
        store = builder.store(number, address(context, builder, array_type, args[0], args[1]))
        mark_apart(store, "noalias")
        return context.get_dummy_value()

    return types.void(out, types.intp, types.float32), generate


put: Callable[[Any, int, Any], None] = intrinsic(_put)
"""Store a float32 at an index of an array of float32, uint16 (as float16) or int16 (as bfloat16).

LLVM takes it that the array shares no memory with one that `load_u8` and its like read."""
