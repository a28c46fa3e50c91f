"""Writing LLVM's intermediate representation: the steps that the vector instructions of all kernels are made of.

Functions take a builder first and add instructions where it stands. Addresses are 64-bit integers. Where the target has
no instruction for what is wanted, other instructions give the same numbers, bit for bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic as untyped_intrinsic

from .target import has, is_arm64

__all__ = [
    "BYTES",
    "F32",
    "FLOATS",
    "I8",
    "I16",
    "I32",
    "I64",
    "LANES",
    "SHORTS",
    "WORDS",
    "add_products",
    "at",
    "called",
    "cgutils",
    "compress",
    "constant",
    "fetch",
    "half_to_float",
    "intrinsic",
    "load",
    "splat",
    "store",
]

LANES = 16
"""Elements of a vector here: a 512-bit register of 32-bit ones."""

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTES, SHORTS, WORDS, FLOATS = (ir.VectorType(element, LANES) for element in (I8, I16, I32, F32))
_F16 = ir.HalfType()

_HAS_AVX512, _HAS_AVX2 = has("avx512f"), has("avx2")
_HAS_VNNI = _HAS_AVX512 and has("avx512vnni")
# Else LLVM calls a function of the C library's for it, which is not there for code that is made at run time.
_HAS_HALVES = has("f16c") or has("avx512f") or is_arm64()

cgutils: Any = untyped_cgutils


def intrinsic(function: Any) -> Any:
    """A function that numba replaces by the instructions which ``function`` writes."""
    return untyped_intrinsic(function)


def at(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    """The address so many bytes on."""
    return builder.add(address, I64(offset))


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """What lies at an address, which need not be a multiple of anything."""
    return builder.load(_pointer(builder, address, kind), align=1)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Write a value to an address, any."""
    builder.store(value, _pointer(builder, address, value.type), align=1)


def constant(kind: ir.Type, value: float) -> ir.Constant:
    """The constant of this type; if it is a vector, in all lanes."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int = LANES) -> ir.Value:
    """A vector with the value in all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(one, undefined, constant(ir.VectorType(I32, lanes), 0))


def called(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """The result of one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def fetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for the cache line at an address, for reading. No address is wrong."""
    called(builder, "llvm.prefetch.p0", ir.VoidType(), _pointer(builder, address, I8), I32(0), I32(3), I32(1))


def compress(builder: ir.IRBuilder, values: ir.Value, wanted: ir.Value, out: ir.Value) -> None:
    """Write those elements of a vector whose bit is set in ``wanted`` to an address, side by side. What lies behind
    them, up to a whole vector, is overwritten too."""
    if _HAS_AVX512:
        name = f"llvm.x86.avx512.mask.compress.v16{'f32' if values.type == FLOATS else 'i32'}"
        store(builder, called(builder, name, values.type, values, values, wanted), out)
        return
    for lane in range(LANES):
        store(builder, builder.extract_element(values, I32(lane)), out)
        step = builder.zext(builder.extract_element(wanted, I32(lane)), I64)
        out = builder.add(out, builder.shl(step, I64(2)))


def dot4(builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    """``sums`` plus, in each lane, four products of unsigned bytes of ``codes`` with signed bytes of ``query``. All are
    ``WORDS``."""
    if _HAS_VNNI:
        return called(builder, "llvm.x86.avx512.vpdpbusd.512", WORDS, sums, codes, query)
    if _HAS_AVX2:
        return _dot4_avx2(builder, sums, codes, query)
    for byte in range(4):
        left = builder.and_(builder.lshr(codes, constant(WORDS, 8 * byte)), constant(WORDS, 255))
        right = builder.ashr(builder.shl(query, constant(WORDS, 24 - 8 * byte)), constant(WORDS, 24))
        sums = builder.add(sums, builder.mul(left, right))
    return sums


def add_products(builder: ir.IRBuilder, chain: ir.Value, codes: ir.Value, query: ir.Value, place: ir.Value) -> None:
    """Add to the sums in ``chain`` the products of unsigned bytes with the four bytes of the query at ``place``."""
    four = splat(builder, load(builder, builder.add(query, place), I32))
    builder.store(dot4(builder, builder.load(chain), codes, four), chain)


def _dot4_avx2(builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    """The same by products of 16 bits, which neither overflow nor saturate."""
    shorts, half = ir.VectorType(I16, 2 * LANES), ir.VectorType(I32, LANES // 2)
    undefined, eight, low = ir.Constant(shorts, ir.Undefined), constant(shorts, 8), constant(WORDS, 0x00FF00FF)
    signed = builder.bitcast(query, shorts)
    pairs = (
        (builder.and_(codes, low), builder.ashr(builder.shl(signed, eight), eight)),
        (builder.and_(builder.lshr(codes, constant(WORDS, 8)), low), builder.ashr(signed, eight)),
    )
    for left, right in pairs:
        left, halves = builder.bitcast(left, shorts), []
        for start in (0, LANES):
            lanes = ir.Constant(WORDS, list(range(start, start + LANES)))
            cut = [builder.shuffle_vector(values, undefined, lanes) for values in (left, right)]
            halves.append(called(builder, "llvm.x86.avx2.pmadd.wd", half, *cut))
        sums = builder.add(sums, builder.shuffle_vector(*halves, ir.Constant(WORDS, list(range(LANES)))))
    return sums


def half_to_float(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """float16 numbers, one or a vector, given as 16-bit integers, as float32: exactly."""
    wide = isinstance(bits.type, ir.VectorType)
    float_kind: ir.Type = ir.VectorType(F32, bits.type.count) if wide else F32
    if _HAS_HALVES:
        half_kind: ir.Type = ir.VectorType(_F16, bits.type.count) if wide else _F16
        return builder.fpext(builder.bitcast(bits, half_kind), float_kind)
    word_kind: ir.Type = ir.VectorType(I32, bits.type.count) if wide else I32

    def number(value: int) -> ir.Constant:
        return constant(word_kind, value)

    word = builder.zext(bits, word_kind)
    magnitude = builder.and_(word, number(0x7FFF))
    # The exponent's bias is 15 there and 127 here; all ones stay all ones. Denormal numbers are multiples of 2**-24.
    moved = builder.add(builder.shl(magnitude, number(13)), number(112 << 23))
    endless = builder.icmp_unsigned(">=", magnitude, number(0x7C00))
    moved = builder.select(endless, builder.add(moved, number(112 << 23)), moved)
    small = builder.fmul(builder.sitofp(magnitude, float_kind), constant(float_kind, 2.0**-24))
    denormal = builder.icmp_unsigned("<", magnitude, number(0x0400))
    moved = builder.select(denormal, builder.bitcast(small, word_kind), moved)
    sign = builder.shl(builder.and_(word, number(0x8000)), number(16))
    return builder.bitcast(builder.or_(moved, sign), float_kind)
