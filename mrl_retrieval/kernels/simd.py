"""Vector instructions for numba: what LLVM does not find by itself, written as its intermediate representation.

Each function here is called from compiled kernels with raw addresses, and becomes a handful of instructions there. On
processors without the instruction that is wanted (``vpdpbusd`` for byte products) the same numbers come from plain
vector code, which LLVM lowers to whatever there is. Integer results are equal everywhere, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

__all__ = [
    "HAS_VNNI",
    "LANES",
    "byte_at",
    "float_at",
    "float_sums",
    "half_sums",
    "halves",
    "prefetch",
    "scan4",
    "sums8",
    "word_sum",
]

LANES = 16
"""Documents in a block, one in each 32-bit lane of a 512-bit register."""

_instructions: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic
"""numba's decorator, typed: the functions are called from compiled code, without the context."""

cgutils: Any = untyped_cgutils

_FEATURES = llvm.get_host_cpu_features()
HAS_VNNI = bool(_FEATURES.get("avx512vnni"))
"""Whether byte products are one instruction here."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
_BYTES, _WORDS, _FLOATS, _HALVES = (
    ir.VectorType(element, n) for element, n in ((_I8, 64), (_I32, LANES), (_F32, LANES), (_F16, LANES))
)
_UNROLLED = 4


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
    return builder.load(_pointer(builder, address, kind), align=align)


def _splat(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _constant(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _declared(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _dot4(builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    """``sums`` plus, in each lane, four products: unsigned bytes of ``codes`` with signed bytes of ``query``."""
    if HAS_VNNI:
        name = "llvm.x86.avx512.vpdpbusd.512"
        return builder.call(_declared(builder, name, _WORDS, [_WORDS] * 3), [sums, codes, query])
    for byte in range(4):
        left = builder.and_(builder.lshr(codes, _constant(_WORDS, 8 * byte)), _constant(_WORDS, 255))
        right = builder.ashr(builder.shl(query, _constant(_WORDS, 24 - 8 * byte)), _constant(_WORDS, 24))
        sums = builder.add(sums, builder.mul(left, right))
    return sums


def _block_sums(builder: ir.IRBuilder, bits: int, codes: ir.Value, groups: ir.Value, query: ir.Value) -> ir.Value:
    """Dot products of the 16 documents of a block with the query, as 16 integers.

    A group is 64 bytes: of each document four bytes, which hold four codes of 8 bits, or eight of 4 bits, the first
    four of them in the low halves. ``query`` has as many signed bytes as there are codes of one document.
    """
    chains = [cgutils.alloca_once(builder, _WORDS) for _ in range(2)]
    for chain in chains:
        builder.store(_constant(_WORDS, 0), chain)
    per_group = 8 if bits == 4 else 4

    def add(chain: ir.Value, values: ir.Value, at: ir.Value) -> None:
        spread = _splat(builder, _load(builder, builder.add(query, at), _I32), _WORDS)
        builder.store(_dot4(builder, builder.load(chain), values, spread), chain)

    with cgutils.for_range(builder, groups) as loop:
        here = builder.add(codes, builder.mul(loop.index, _I64(64)))
        at = builder.mul(loop.index, _I64(per_group))
        values = _load(builder, here, _WORDS)
        if bits == 8:
            add(chains[0], values, at)
        else:
            low = _constant(_WORDS, 0x0F0F0F0F)
            add(chains[0], builder.and_(values, low), at)
            add(chains[1], builder.and_(builder.lshr(values, _constant(_WORDS, 4)), low), builder.add(at, _I64(4)))
    return builder.add(builder.load(chains[0]), builder.load(chains[1]))


@_instructions
def scan4(
    context: Any,
    codes: Any,
    groups: Any,
    query: Any,
    scales: Any,
    factor: Any,
    shift: Any,
    base: Any,
    threshold: Any,
    out: Any,
) -> Any:
    """Score a block of 4-bit codes: ``(sum * factor + shift) * scale + base`` for each of its 16 documents.

    Args:
        context: numba's.
        codes: address of the block.
        groups: of 64 bytes, each of 8 dims.
        query: address of its ``8 * groups`` signed bytes.
        scales: address of 16 float16, one for each document.
        factor: float32, as are ``shift``, ``base`` and ``threshold``.
        shift: see above.
        base: see above.
        threshold: see below.
        out: address of 16 float32, where the scores go.

    Returns:
        Which scores are above ``threshold``, as bits.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, query, scales, factor, shift, base, threshold, out = args
        sums = builder.sitofp(_block_sums(builder, 4, codes, groups, query), _FLOATS)
        wide = builder.fpext(_load(builder, scales, _HALVES), _FLOATS)
        inner = builder.fadd(builder.fmul(sums, _splat(builder, factor, _FLOATS)), _splat(builder, shift, _FLOATS))
        scores = builder.fadd(builder.fmul(inner, wide), _splat(builder, base, _FLOATS))
        builder.store(scores, _pointer(builder, out, _FLOATS), align=4)
        above = builder.fcmp_ordered(">", scores, _splat(builder, threshold, _FLOATS))
        return builder.zext(builder.bitcast(above, _I16), _I64)

    i, f = types.int64, types.float32
    return types.int64(i, i, i, i, f, f, f, f, i), generate


@_instructions
def sums8(context: Any, codes: Any, groups: Any, query: Any, out: Any) -> Any:
    """Dot products of a block of 8-bit codes (``groups`` of 64 bytes, each of 4 dims) with the signed bytes at
    ``query``, written to ``out`` as 16 int32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, query, out = args
        sums = _block_sums(builder, 8, codes, groups, query)
        builder.store(sums, _pointer(builder, out, _WORDS), align=4)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, i), generate


def _row_sums(load: Callable[[ir.IRBuilder, ir.Value], ir.Value], item_bytes: int) -> Any:
    """An intrinsic over the components of one stored row, which ``load`` reads 16 at a time as float32."""

    def typed(context: Any, row: Any, count: Any, query: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
            row, count, query, out = args
            dots = [cgutils.alloca_once(builder, _FLOATS) for _ in range(_UNROLLED)]
            squares = [cgutils.alloca_once(builder, _FLOATS) for _ in range(_UNROLLED)]
            for sums in dots + squares:
                builder.store(ir.Constant(_FLOATS, [0.0] * LANES), sums)
            with cgutils.for_range(builder, builder.lshr(count, _I64(6))) as loop:
                items = builder.add(row, builder.mul(loop.index, _I64(64 * item_bytes)))
                floats = builder.add(query, builder.shl(loop.index, _I64(8)))
                for i in range(_UNROLLED):
                    x = load(builder, builder.add(items, _I64(LANES * item_bytes * i)))
                    q = _load(builder, builder.add(floats, _I64(64 * i)), _FLOATS)
                    builder.store(builder.fadd(builder.load(dots[i]), builder.fmul(x, q)), dots[i])
                    builder.store(builder.fadd(builder.load(squares[i]), builder.fmul(x, x)), squares[i])
            for i, sums in enumerate(dots + squares):
                there = builder.add(out, _I64(64 * i))
                builder.store(builder.load(sums), _pointer(builder, there, _FLOATS), align=4)
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i), generate

    return _instructions(typed)


def _load_half(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.fpext(_load(builder, address, _HALVES), _FLOATS)


def _load_float(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return _load(builder, address, _FLOATS)


half_sums = _row_sums(_load_half, 2)
"""``half_sums(row, count, query, out)``: of ``count`` (a multiple of 64) float16 numbers at ``row`` the products with
the float32 at ``query``, then the squares, each in 64 partial sums at ``out``: lane i has the components i, i + 64, …,
added in this order."""

float_sums = _row_sums(_load_float, 4)
"""The same of float32 numbers."""


@_instructions
def halves(context: Any, row: Any, count: Any, out: Any) -> Any:
    """Decode ``count`` float16 numbers at ``row`` to float32 at ``out``, one by one."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, count, out = args
        with cgutils.for_range(builder, count) as loop:
            half = _load(builder, builder.add(row, builder.shl(loop.index, _I64(1))), _F16)
            there = builder.add(out, builder.shl(loop.index, _I64(2)))
            builder.store(builder.fpext(half, _F32), _pointer(builder, there, _F32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_instructions
def word_sum(context: Any, row: Any, words: Any, multipliers: Any) -> Any:
    """The sum, modulo 2**64, of ``words`` 32-bit words at ``row``, each times its 64-bit number of ``multipliers``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, words, multipliers = args
        many, narrow = ir.VectorType(_I64, 8), ir.VectorType(_I32, 8)
        chains = [cgutils.alloca_once(builder, many) for _ in range(2)]
        for chain in chains:
            builder.store(_constant(many, 0), chain)

        def product(at: ir.Value, kind: ir.Type, wide: ir.Type) -> ir.Value:
            word = builder.zext(_load(builder, builder.add(row, builder.shl(at, _I64(2))), kind), wide)
            return builder.mul(word, _load(builder, builder.add(multipliers, builder.shl(at, _I64(3))), wide))

        steps = builder.lshr(words, _I64(4))
        with cgutils.for_range(builder, steps) as loop:
            for i, chain in enumerate(chains):
                at = builder.add(builder.shl(loop.index, _I64(4)), _I64(8 * i))
                builder.store(builder.add(builder.load(chain), product(at, narrow, many)), chain)
        both = builder.add(builder.load(chains[0]), builder.load(chains[1]))
        total = cgutils.alloca_once(builder, _I64)
        builder.store(_I64(0), total)
        for i in range(8):
            builder.store(builder.add(builder.load(total), builder.extract_element(both, _I32(i))), total)
        done = builder.shl(steps, _I64(4))
        with cgutils.for_range(builder, builder.sub(words, done)) as loop:
            one = product(builder.add(done, loop.index), _I32, _I64)
            builder.store(builder.add(builder.load(total), one), total)
        return builder.load(total)

    return types.uint64(types.int64, types.int64, types.int64), generate


@_instructions
def byte_at(context: Any, address: Any) -> Any:
    """The byte at an address, unsigned."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.zext(_load(builder, args[0], _I8), _I64)

    return types.int64(types.int64), generate


@_instructions
def float_at(context: Any, address: Any) -> Any:
    """The float32 at an address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return _load(builder, args[0], _F32)

    return types.float32(types.int64), generate


@_instructions
def prefetch(context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, for reading."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        pointer = _pointer(builder, args[0], _I8)
        function = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate
