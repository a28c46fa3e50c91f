"""Vector instructions over blocks of 16 documents, and single reads from addresses, for compiled kernels.

Each function here is called with raw addresses, and becomes a handful of instructions. Results are equal on all
processors, bit for bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from .vectors import (
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    LANES,
    SHORTS,
    WORDS,
    add_products,
    at,
    called,
    cgutils,
    compress,
    constant,
    fetch,
    half_to_float,
    intrinsic,
    load,
    splat,
    store,
)

__all__ = [
    "LANES",
    "above",
    "append",
    "byte_at",
    "count_above",
    "float_at",
    "largest",
    "level_sums",
    "prefetch",
    "scan4",
    "short_at",
]


_UNROLLED = 4


def _sums4(builder: ir.IRBuilder, codes: ir.Value, groups: ir.Value, query: ir.Value) -> ir.Value:
    """Dot products of the 16 documents of a block of 4-bit codes with the query, as 16 integers.

    A group is 64 bytes: of each document four bytes, which hold eight codes, the first four of them in the low halves.
    ``query`` has as many signed bytes as there are codes of one document.
    """
    # So many sums at once, because an addition takes four steps and two can be begun in each.
    chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(2 * _UNROLLED)]
    low = constant(WORDS, 0x0F0F0F0F)

    def add(start: ir.Value, count: int) -> None:
        here, place = builder.add(codes, builder.shl(start, I64(6))), builder.shl(start, I64(3))
        for i in range(count):
            values = load(builder, at(builder, here, 64 * i), WORDS)
            add_products(builder, chains[2 * i], builder.and_(values, low), query, at(builder, place, 8 * i))
            high = builder.and_(builder.lshr(values, constant(WORDS, 4)), low)
            add_products(builder, chains[2 * i + 1], high, query, at(builder, place, 8 * i + 4))

    with cgutils.for_range(builder, builder.udiv(groups, I64(_UNROLLED))) as loop:
        add(builder.mul(loop.index, I64(_UNROLLED)), _UNROLLED)
    done = builder.sub(groups, builder.urem(groups, I64(_UNROLLED)))
    with cgutils.for_range(builder, builder.sub(groups, done)) as loop:
        add(builder.add(done, loop.index), 1)
    sums = [builder.load(chain) for chain in chains]
    while len(sums) > 1:
        sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


@intrinsic
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
        factor, shift, base, threshold = (splat(builder, value) for value in (factor, shift, base, threshold))
        sums = builder.sitofp(_sums4(builder, codes, groups, query), FLOATS)
        inner = builder.fadd(builder.fmul(sums, factor), shift)
        wide = half_to_float(builder, load(builder, scales, SHORTS))
        scores = builder.fadd(builder.fmul(inner, wide), base)
        store(builder, scores, out)
        return builder.zext(builder.bitcast(builder.fcmp_ordered(">", scores, threshold), I16), I64)

    i, f = types.int64, types.float32
    return types.int64(i, i, i, i, f, f, f, f, i), generate


@intrinsic
def largest(context: Any, values: Any) -> Any:
    """The largest of 16 float32 at an address, none of which is NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        found = load(builder, args[0], FLOATS)
        undefined, width = ir.Constant(FLOATS, ir.Undefined), LANES
        while width > 1:
            width //= 2
            lanes = [(lane + width) % LANES for lane in range(LANES)]
            other = builder.shuffle_vector(found, undefined, ir.Constant(WORDS, lanes))
            found = builder.select(builder.fcmp_ordered(">", found, other), found, other)
        return builder.extract_element(found, I32(0))

    return types.float32(types.int64), generate


@intrinsic
def append(context: Any, lanes: Any, scores: Any, places: Any, out_scores: Any, out_places: Any) -> Any:
    """Write those of 16 scores and places (int32) whose bits are set in ``lanes``, and whose place is not negative, one
    after the other. All but the first are addresses; there is to be room for 16.

    Returns:
        How many they are.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        lanes, scores, places, out_scores, out_places = args
        values = load(builder, scores, FLOATS), load(builder, places, WORDS)
        there = builder.icmp_signed(">=", values[1], constant(WORDS, 0))
        wanted = builder.and_(there, builder.bitcast(builder.trunc(lanes, I16), there.type))
        for value, out in zip(values, (out_scores, out_places), strict=True):
            compress(builder, value, wanted, out)
        return builder.zext(called(builder, "llvm.ctpop.i16", I16, builder.bitcast(wanted, I16)), I64)

    i = types.int64
    return types.int64(i, i, i, i, i), generate


@intrinsic
def above(context: Any, scores: Any, threshold: Any) -> Any:
    """Which of 16 scores at an address are above ``threshold``, as bits."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.zext(_bits_above(builder, args[0], splat(builder, args[1])), I64)

    return types.int64(types.int64, types.float32), generate


@intrinsic
def count_above(context: Any, scores: Any, blocks: Any, threshold: Any) -> Any:
    """How many of the scores in so many blocks of 16 at an address are above ``threshold``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        scores, blocks, threshold = args
        threshold, total = splat(builder, threshold), cgutils.alloca_once_value(builder, I64(0))
        with cgutils.for_range(builder, blocks) as loop:
            bits = _bits_above(builder, builder.add(scores, builder.shl(loop.index, I64(6))), threshold)
            found = builder.zext(called(builder, "llvm.ctpop.i16", I16, bits), I64)
            builder.store(builder.add(builder.load(total), found), total)
        return builder.load(total)

    return types.int64(types.int64, types.int64, types.float32), generate


def _bits_above(builder: ir.IRBuilder, scores: ir.Value, threshold: ir.Value) -> ir.Value:
    return builder.bitcast(builder.fcmp_ordered(">", load(builder, scores, FLOATS), threshold), I16)


@intrinsic
def level_sums(context: Any, row: Any, groups: Any, inverse: Any, out: Any) -> Any:
    """How well 4-bit levels fit a row of ``8 * groups`` float32: the level of x is ``floor(x * inverse + 8)`` in 0..15,
    less 7.5. To ``out`` go the products of levels and row, of levels and levels, of row and row: 3 x 8 float32, lane i
    with the components i, i + 8, …, added in this order."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, groups, inverse, out = args
        floats, words = ir.VectorType(F32, 8), ir.VectorType(I32, 8)
        zero, top = constant(floats, 0.0), constant(floats, 15.0)
        inverse = splat(builder, inverse, 8)
        chains = [cgutils.alloca_once_value(builder, zero) for _ in range(3)]
        with cgutils.for_range(builder, groups) as loop:
            x = load(builder, builder.add(row, builder.shl(loop.index, I64(5))), floats)
            level = builder.fadd(builder.fmul(x, inverse), constant(floats, 8.0))
            level = builder.select(builder.fcmp_ordered(">", level, zero), level, zero)
            level = builder.select(builder.fcmp_ordered("<", level, top), level, top)
            level = builder.sitofp(builder.fptosi(level, words), floats)
            level = builder.fsub(level, constant(floats, 7.5))
            for chain, (a, b) in zip(chains, ((level, x), (level, level), (x, x)), strict=True):
                builder.store(builder.fadd(builder.load(chain), builder.fmul(a, b)), chain)
        for i, chain in enumerate(chains):
            store(builder, builder.load(chain), at(builder, out, 32 * i))
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, types.float32, i), generate


@intrinsic
def byte_at(context: Any, address: Any) -> Any:
    """The byte at an address, unsigned."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.zext(load(builder, args[0], I8), I64)

    return types.int64(types.int64), generate


@intrinsic
def short_at(context: Any, address: Any) -> Any:
    """The float32 whose upper half lies at an address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        word = builder.zext(load(builder, args[0], I16), I32)
        return builder.bitcast(builder.shl(word, I32(16)), F32)

    return types.float32(types.int64), generate


@intrinsic
def float_at(context: Any, address: Any) -> Any:
    """The float32 at an address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return load(builder, args[0], F32)

    return types.float32(types.int64), generate


@intrinsic
def prefetch(context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, for reading."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        fetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate
