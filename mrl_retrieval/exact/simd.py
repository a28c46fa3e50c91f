"""Vector instructions over blocks of codes and their rows, as ``layout.py`` describes them, for the kernels here.

All arguments are addresses, or numbers of bytes or groups, unless something else is said.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from mrl_retrieval.kernels.vectors import (
    BYTES,
    F32,
    FLOATS,
    I16,
    I32,
    I64,
    LANES,
    SHORTS,
    WORDS,
    at,
    called,
    cgutils,
    constant,
    dot4,
    fetch,
    intrinsic,
    load,
    splat,
    store,
)

__all__ = [
    "block_bounds",
    "block_sums",
    "block_sums_again",
    "block_sums_of_two",
    "block_sums_of_two_again",
    "row_sum",
]

_AHEAD = 8192
"""Bytes that are asked for ahead of where codes are read. Without it a core reads half as fast as it can."""


def _sums(planes: int, fetching: bool) -> Any:
    """Products of one block with so many planes of signed bytes, read once for all of them."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, heads, tails, query, width, out = args
        zero = constant(WORDS, 0)
        chains = [[cgutils.alloca_once_value(builder, zero) for _ in range(3)] for _ in range(planes)]
        queries = [builder.add(query, builder.mul(width, I64(p))) for p in range(planes)]

        def add(chain: int, values: ir.Value, place: ir.Value) -> None:
            for sums, plane in zip(chains, queries, strict=True):
                four = splat(builder, load(builder, builder.add(plane, place), I32))
                builder.store(dot4(builder, builder.load(sums[chain]), values, four), sums[chain])

        def group(start: ir.Value, index: ir.Value) -> ir.Value:
            here = builder.add(start, builder.shl(index, I64(6)))
            if fetching:
                fetch(builder, at(builder, here, _AHEAD))
            return load(builder, here, WORDS)

        with cgutils.for_range(builder, heads) as loop:
            add(0, group(codes, loop.index), builder.shl(loop.index, I64(2)))
        tail, first = builder.add(codes, builder.shl(heads, I64(6))), builder.shl(heads, I64(2))
        low = constant(WORDS, 0x0F0F0F0F)
        with cgutils.for_range(builder, tails) as loop:
            values = group(tail, loop.index)
            place = builder.add(first, builder.shl(loop.index, I64(3)))
            add(1, builder.and_(values, low), place)
            add(2, builder.and_(builder.lshr(values, constant(WORDS, 4)), low), at(builder, place, 4))
        for p, (head, even, odd) in enumerate(chains):
            store(builder, builder.load(head), at(builder, out, 128 * p))
            store(builder, builder.add(builder.load(even), builder.load(odd)), at(builder, out, 128 * p + 64))
        return context.get_dummy_value()

    def typed(context: Any, codes: Any, heads: Any, tails: Any, query: Any, width: Any, out: Any) -> tuple[Any, Any]:
        return types.void(*[types.int64] * 6), generate

    return intrinsic(typed)


block_sums = _sums(2, True)
"""``block_sums(codes, heads, tails, query, width, out)``: exact products of the 16 documents of a block (so many groups
of head and tail) with the two planes of a query, ``width`` bytes each. ``out``: (2, 2, 16) int32, by plane and by head
and tail."""
block_sums_again = _sums(2, False)
"""The same for a block that was read before, and is near."""
block_sums_of_two, block_sums_of_two_again = _sums(4, True), _sums(4, False)
"""The same for two queries that lie one after the other: (4, 2, 16) int32."""


@intrinsic
def block_bounds(
    context: Any, sums: Any, factors: Any, offsets: Any, numbers: Any, least: Any, out: Any
) -> tuple[Any, Any]:
    """From the products of a block to scores and margins, ``out``: (2, 16) float32, and, returned as bits, which of the
    16 documents may score ``least``, a float32, or more. The rest is as in :class:`~.bounds.QueryCodes`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        sums, factors, offsets, numbers, least, out = args
        mul, add = builder.fmul, builder.fadd

        def whole(part: int) -> ir.Value:
            high = builder.shl(load(builder, at(builder, sums, 64 * part), WORDS), constant(WORDS, 8))
            both = builder.add(high, load(builder, at(builder, sums, 128 + 64 * part), WORDS))
            offset = splat(builder, load(builder, at(builder, offsets, 4 * part), I32))
            return builder.sitofp(builder.sub(both, offset), FLOATS)

        def factor(i: int) -> ir.Value:
            words = builder.zext(load(builder, at(builder, factors, 32 * i), SHORTS), WORDS)
            return builder.bitcast(builder.shl(words, constant(WORDS, 16)), FLOATS)

        base, head, tail, middle, head_length, tail_length, allowance = (
            splat(builder, load(builder, at(builder, numbers, 4 * i), F32)) for i in range(7)
        )
        score = add(mul(mul(whole(0), head), factor(0)), base)
        score = add(score, mul(add(mul(whole(1), tail), middle), factor(1)))
        margin = add(add(mul(factor(2), head_length), mul(factor(3), tail_length)), allowance)
        store(builder, score, out)
        store(builder, margin, at(builder, out, 64))
        may = builder.fcmp_ordered(">=", add(score, margin), splat(builder, least))
        return builder.zext(builder.bitcast(may, I16), I64)

    i = types.int64
    return types.int64(i, i, i, i, types.float32, i), generate


@intrinsic
def row_sum(context: Any, row: Any, half: Any, query: Any) -> tuple[Any, Any]:
    """The exact product of the ``half`` bytes (a multiple of 16) of a document's row with a query: of their low halves
    with its first ``half`` int16, of their high halves with the next."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, half, query = args
        chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(2)]

        def add(chain: ir.Value, values: ir.Value, place: ir.Value) -> None:
            four = builder.sext(load(builder, place, SHORTS), WORDS)
            builder.store(builder.add(builder.load(chain), builder.mul(values, four)), chain)

        later = builder.add(query, builder.shl(half, I64(1)))
        with cgutils.for_range(builder, builder.lshr(half, I64(4))) as loop:
            place = builder.shl(loop.index, I64(4))
            values = builder.zext(load(builder, builder.add(row, place), BYTES), WORDS)
            place = builder.shl(place, I64(1))
            add(chains[0], builder.and_(values, constant(WORDS, 15)), builder.add(query, place))
            add(chains[1], builder.lshr(values, constant(WORDS, 4)), builder.add(later, place))
        total = builder.add(*map(builder.load, chains))
        return called(builder, f"llvm.vector.reduce.add.v{LANES}i32", I32, total)

    return types.int32(*[types.int64] * 3), generate
