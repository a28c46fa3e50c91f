"""Vector instructions over blocks of 16 documents in 8 bits, or of as many centroids, for compiled kernels.

As in ``simd.py``, each is called with raw addresses, and gives the same on all processors, bit for bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from .vectors import F32, FLOATS, I32, I64, WORDS, add_products, at, cgutils, constant, intrinsic, load, splat, store

__all__ = ["FOUR", "nearest8", "scores8", "scores8_of_four"]

FOUR = 4
"""Queries that are compared with each block at once where many are at hand: it is then read a quarter as often."""


def _eights(builder: ir.IRBuilder, sums: ir.Value, offset: ir.Value, unit: ir.Value, scales: ir.Value) -> ir.Value:
    """Sums of 8-bit codes as scores: ``(sum - offset) * unit * scale``."""
    return builder.fmul(builder.fmul(builder.sitofp(builder.sub(sums, offset), FLOATS), unit), scales)


@intrinsic
def scores8(context: Any, codes: Any, groups: Any, query: Any, offset: Any, unit: Any, scales: Any, out: Any) -> Any:
    """Scores of a block of 8-bit codes, ``(sum - offset) * unit * scale``, written to ``out`` as 16 float32.

    Args:
        context: numba's.
        codes: address of the block.
        groups: of 64 bytes, each of 4 dims, an even number.
        query: address of its ``4 * groups`` signed bytes.
        offset: int32.
        unit: float32.
        scales: address of 16 float32, one for each document.
        out: address.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, query, offset, unit, scales, out = args
        # So many sums at once, because an addition takes four steps and two can be begun in each.
        chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(8)]

        def add(start: ir.Value, count: int) -> None:
            here, place = builder.add(codes, builder.shl(start, I64(6))), builder.shl(start, I64(2))
            for i, chain in enumerate(chains[:count]):
                values = load(builder, at(builder, here, 64 * i), WORDS)
                add_products(builder, chain, values, query, at(builder, place, 4 * i))

        with cgutils.for_range(builder, builder.lshr(groups, I64(3))) as loop:
            add(builder.shl(loop.index, I64(3)), 8)
        done = builder.and_(groups, I64(-8))
        with cgutils.for_range(builder, builder.lshr(builder.sub(groups, done), I64(1))) as loop:
            add(builder.add(done, builder.shl(loop.index, I64(1))), 2)
        sums = [builder.load(chain) for chain in chains]
        while len(sums) > 1:
            sums = [builder.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        factors = splat(builder, offset), splat(builder, unit), load(builder, scales, FLOATS)
        store(builder, _eights(builder, sums[0], *factors), out)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, types.int32, types.float32, i, i), generate


@intrinsic
def scores8_of_four(
    context: Any, codes: Any, groups: Any, queries: Any, offsets: Any, units: Any, scales: Any, out: Any, stride: Any
) -> Any:
    """The same for ``FOUR`` queries of ``4 * groups`` bytes each, with as many offsets and units, at addresses; the
    scores of each are written ``stride`` bytes after those of the one before."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, queries, offsets, units, scales, out, stride = args
        chains = _products_of_four(builder, codes, groups, queries)
        scales = load(builder, scales, FLOATS)
        for q, chain in enumerate(chains):
            offset = splat(builder, load(builder, at(builder, offsets, 4 * q), I32))
            unit = splat(builder, load(builder, at(builder, units, 4 * q), F32))
            scores = _eights(builder, builder.load(chain), offset, unit, scales)
            store(builder, scores, builder.add(out, builder.mul(stride, I64(q))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


def _products_of_four(builder: ir.IRBuilder, codes: ir.Value, groups: ir.Value, queries: ir.Value) -> list[ir.Value]:
    """Where the sums of the products of a block of 8-bit codes with each of ``FOUR`` queries are."""
    width = builder.shl(groups, I64(2))
    chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(FOUR)]
    starts = [builder.add(queries, builder.mul(width, I64(q))) for q in range(FOUR)]
    with cgutils.for_range(builder, groups) as loop:
        values = load(builder, builder.add(codes, builder.shl(loop.index, I64(6))), WORDS)
        place = builder.shl(loop.index, I64(2))
        for chain, start in zip(chains, starts, strict=True):
            add_products(builder, chain, values, start, place)
    return chains


@intrinsic
def nearest8(
    context: Any,
    codes: Any,
    groups: Any,
    queries: Any,
    offsets: Any,
    units: Any,
    scales: Any,
    penalties: Any,
    block: Any,
    best: Any,
    where: Any,
) -> Any:
    """Keep, lane by lane, the best of the blocks of 8-bit codes that ``FOUR`` queries are shown one after the other.

    The score is ``(sum - offset) * unit * scale - penalty``. Of equal ones the first stays.

    Args:
        context: numba's.
        codes: address of the block, as are the others but two.
        groups: of 64 bytes, each of 4 dims.
        queries: 4 x ``4 * groups`` signed bytes.
        offsets: 4 int32.
        units: 4 float32.
        scales: 16 float32, one for each document.
        penalties: the same.
        block: its number.
        best: 4 x 16 float32, the scores so far.
        where: 4 x 16 int32, the numbers of their blocks.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, queries, offsets, units, scales, penalties, block, best, where = args
        block = splat(builder, builder.trunc(block, I32))
        scales, penalties = load(builder, scales, FLOATS), load(builder, penalties, FLOATS)
        for q, chain in enumerate(_products_of_four(builder, codes, groups, queries)):
            offset = splat(builder, load(builder, at(builder, offsets, 4 * q), I32))
            unit = splat(builder, load(builder, at(builder, units, 4 * q), F32))
            score = builder.fsub(_eights(builder, builder.load(chain), offset, unit, scales), penalties)
            held, held_in = at(builder, best, 64 * q), at(builder, where, 64 * q)
            before, before_in = load(builder, held, FLOATS), load(builder, held_in, WORDS)
            better = builder.fcmp_ordered(">", score, before)
            store(builder, builder.select(better, score, before), held)
            store(builder, builder.select(better, block, before_in), held_in)
        return context.get_dummy_value()

    i = types.int64
    return types.void(*[i] * 10), generate
