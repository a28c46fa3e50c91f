"""Vector instructions that LLVM does not find by itself, for the kernels beside this file."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import llvmlite.ir
import numba.core.cgutils
import numba.core.config
import numba.extending

__all__ = [
    "block_bounds",
    "block_sums",
    "block_sums_again",
    "block_sums_of_two",
    "block_sums_of_two_again",
    "prefetch",
    "row_sum",
    "short_at",
]

# Neither is typed far enough.
ir: Any = llvmlite.ir
types: Any = numba.types
config: Any = numba.core.config
cgutils: Any = numba.core.cgutils


def intrinsic(function: Any) -> Any:
    """A function that numba replaces by the instructions which ``function`` writes."""
    return numba.extending.intrinsic(function)


_AHEAD = 8192
"""Bytes that are asked for ahead of where codes are read. Without it a core reads half as fast as it can."""

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _SHORTS, _WORDS, _FLOATS = (ir.VectorType(element, 16) for element in (_I8, _I16, _I32, _F32))


def _has(feature: str) -> bool:
    """Whether the processor that code is made for has an instruction: one that it has not ends the process."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return bool(llvmlite.binding.get_host_cpu_features().get(feature))
    return f"+{feature}" in (config.CPU_FEATURES or "").split(",")


_HAS_VNNI, _HAS_AVX2 = _has("avx512vnni"), _has("avx2")

_Builder = Any
_Value = Any


def _pointer(builder: _Builder, address: _Value, kind: Any) -> _Value:
    return builder.inttoptr(address, kind.as_pointer())


def _at(builder: _Builder, address: _Value, offset: int) -> _Value:
    return builder.add(address, _I64(offset))


def _load(builder: _Builder, address: _Value, kind: Any) -> _Value:
    return builder.load(_pointer(builder, address, kind), align=1)


def _store(builder: _Builder, value: _Value, address: _Value) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=1)


def _all(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * 16)


def _splat(builder: _Builder, value: _Value, kind: Any) -> _Value:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _all(0))


def _dot4(builder: _Builder, sums: _Value, codes: _Value, query: _Value) -> _Value:
    """``sums`` plus, in each lane, four products of unsigned bytes of ``codes`` with signed bytes of ``query``."""
    if _HAS_VNNI:
        kind = ir.FunctionType(_WORDS, [_WORDS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(function, [sums, codes, query])
    if _HAS_AVX2:
        return _dot4_avx2(builder, sums, codes, query)
    for byte in range(4):
        left = builder.and_(builder.lshr(codes, _all(8 * byte)), _all(255))
        right = builder.ashr(builder.shl(query, _all(24 - 8 * byte)), _all(24))
        sums = builder.add(sums, builder.mul(left, right))
    return sums


def _dot4_avx2(builder: _Builder, sums: _Value, codes: _Value, query: _Value) -> _Value:
    """The same by products of 16 bits, which neither overflow nor saturate."""
    wide, half, out = ir.VectorType(_I16, 32), ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
    kind = ir.FunctionType(out, [half, half])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pmadd.wd")
    undefined = ir.Constant(wide, ir.Undefined)
    eight = ir.Constant(wide, [8] * 32)
    signed = builder.bitcast(query, wide)
    pairs = (
        (builder.and_(codes, _all(0x00FF00FF)), builder.ashr(builder.shl(signed, eight), eight)),
        (builder.and_(builder.lshr(codes, _all(8)), _all(0x00FF00FF)), builder.ashr(signed, eight)),
    )
    for left, right in pairs:
        left, halves = builder.bitcast(left, wide), []
        for start in (0, 16):
            lanes = ir.Constant(ir.VectorType(_I32, 16), list(range(start, start + 16)))
            cut = [builder.shuffle_vector(values, undefined, lanes) for values in (left, right)]
            halves.append(builder.call(function, cut))
        sums = builder.add(sums, builder.shuffle_vector(*halves, ir.Constant(_WORDS, list(range(16)))))
    return sums


def _prefetch(builder: _Builder, address: _Value) -> None:
    pointer = _pointer(builder, address, _I8)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])


def _sums(planes: int, fetching: bool) -> Any:
    """Products of one block with so many planes of signed bytes, read once for all of them."""

    def generate(context: Any, builder: _Builder, signature: Any, args: list[_Value]) -> _Value:
        codes, heads, tails, query, width, out = args
        chains = [[cgutils.alloca_once_value(builder, _all(0)) for _ in range(3)] for _ in range(planes)]
        queries = [builder.add(query, builder.mul(width, _I64(p))) for p in range(planes)]

        def add(chain: int, values: _Value, at: _Value) -> None:
            for sums, plane in zip(chains, queries, strict=True):
                four = _splat(builder, _load(builder, builder.add(plane, at), _I32), _WORDS)
                builder.store(_dot4(builder, builder.load(sums[chain]), values, four), sums[chain])

        def group(start: _Value, index: _Value) -> _Value:
            here = builder.add(start, builder.shl(index, _I64(6)))
            if fetching:
                _prefetch(builder, _at(builder, here, _AHEAD))
            return _load(builder, here, _WORDS)

        with cgutils.for_range(builder, heads) as loop:
            add(0, group(codes, loop.index), builder.shl(loop.index, _I64(2)))
        tail, first, low = (
            builder.add(codes, builder.shl(heads, _I64(6))),
            builder.shl(heads, _I64(2)),
            _all(0x0F0F0F0F),
        )
        with cgutils.for_range(builder, tails) as loop:
            values = group(tail, loop.index)
            at = builder.add(first, builder.shl(loop.index, _I64(3)))
            add(1, builder.and_(values, low), at)
            add(2, builder.and_(builder.lshr(values, _all(4)), low), _at(builder, at, 4))
        for p, (head, even, odd) in enumerate(chains):
            _store(builder, builder.load(head), _at(builder, out, 128 * p))
            _store(builder, builder.add(builder.load(even), builder.load(odd)), _at(builder, out, 128 * p + 64))
        return context.get_dummy_value()

    def typed(context: Any, codes: Any, heads: Any, tails: Any, query: Any, width: Any, out: Any) -> tuple[Any, Any]:
        return types.void(*[types.int64] * 6), generate

    return intrinsic(typed)


block_sums = _sums(2, True)
"""``block_sums(codes, heads, tails, query, width, out)``: exact products of the 16 documents of a block (so many groups
of head and tail) with the two planes of a query, ``width`` bytes each, all addresses. ``out``: (2, 2, 16) int32, by
plane and by head and tail."""
block_sums_again = _sums(2, False)
"""The same for a block that was read before, and is near."""
block_sums_of_two, block_sums_of_two_again = _sums(4, True), _sums(4, False)
"""The same for two queries that lie one after the other: (4, 2, 16) int32."""


@intrinsic
def block_bounds(
    context: Any, sums: Any, factors: Any, offsets: Any, numbers: Any, least: Any, out: Any
) -> tuple[Any, Any]:
    """From the products of a block to scores and margins, ``out``: (2, 16) float32, and, returned as bits, which of the
    16 documents may score ``least`` or more. Addresses, as in :class:`~.bounds.QueryCodes`, and a float32."""

    def generate(context: Any, builder: _Builder, signature: Any, args: list[_Value]) -> _Value:
        sums, factors, offsets, numbers, least, out = args
        load, mul, add = _load, builder.fmul, builder.fadd

        def whole(part: int) -> _Value:
            high = builder.shl(load(builder, _at(builder, sums, 64 * part), _WORDS), _all(8))
            both = builder.add(high, load(builder, _at(builder, sums, 128 + 64 * part), _WORDS))
            offset = _splat(builder, load(builder, _at(builder, offsets, 4 * part), _I32), _WORDS)
            return builder.sitofp(builder.sub(both, offset), _FLOATS)

        def factor(i: int) -> _Value:
            words = builder.zext(load(builder, _at(builder, factors, 32 * i), _SHORTS), _WORDS)
            return builder.bitcast(builder.shl(words, _all(16)), _FLOATS)

        base, head, tail, middle, head_length, tail_length, allowance = (
            _splat(builder, load(builder, _at(builder, numbers, 4 * i), _F32), _FLOATS) for i in range(7)
        )
        score = add(mul(mul(whole(0), head), factor(0)), base)
        score = add(score, mul(add(mul(whole(1), tail), middle), factor(1)))
        margin = add(add(mul(factor(2), head_length), mul(factor(3), tail_length)), allowance)
        _store(builder, score, out)
        _store(builder, margin, _at(builder, out, 64))
        may = builder.fcmp_ordered(">=", add(score, margin), _splat(builder, least, _FLOATS))
        return builder.zext(builder.bitcast(may, _I16), _I64)

    i = types.int64
    return types.int64(i, i, i, i, types.float32, i), generate


@intrinsic
def row_sum(context: Any, row: Any, half: Any, query: Any) -> tuple[Any, Any]:
    """The exact product of the ``half`` bytes (a multiple of 16) of a document's row with a query: of their low halves
    with its first ``half`` int16, of their high halves with the next."""

    def generate(context: Any, builder: _Builder, signature: Any, args: list[_Value]) -> _Value:
        row, half, query = args
        chains = [cgutils.alloca_once_value(builder, _all(0)) for _ in range(2)]

        def add(chain: _Value, values: _Value, at: _Value) -> None:
            four = builder.sext(_load(builder, at, _SHORTS), _WORDS)
            builder.store(builder.add(builder.load(chain), builder.mul(values, four)), chain)

        later = builder.add(query, builder.shl(half, _I64(1)))
        with cgutils.for_range(builder, builder.lshr(half, _I64(4))) as loop:
            at = builder.shl(loop.index, _I64(4))
            values = builder.zext(_load(builder, builder.add(row, at), _BYTES), _WORDS)
            at = builder.shl(at, _I64(1))
            add(chains[0], builder.and_(values, _all(15)), builder.add(query, at))
            add(chains[1], builder.lshr(values, _all(4)), builder.add(later, at))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I32, [_WORDS]), "llvm.vector.reduce.add.v16i32"
        )
        return builder.call(function, [builder.add(*map(builder.load, chains))])

    return types.int32(*[types.int64] * 3), generate


@intrinsic
def short_at(context: Any, address: Any) -> tuple[Any, Any]:
    """The float32 whose upper half lies at an address."""

    def generate(context: Any, builder: _Builder, signature: Any, args: list[_Value]) -> _Value:
        word = builder.zext(_load(builder, args[0], _I16), _I32)
        return builder.bitcast(builder.shl(word, _I32(16)), _F32)

    return types.float32(types.int64), generate


@intrinsic
def prefetch(context: Any, address: Any) -> tuple[Any, Any]:
    """Ask for the cache line at an address, for reading."""

    def generate(context: Any, builder: _Builder, signature: Any, args: list[_Value]) -> _Value:
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate
