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
    at,
    cgutils,
    constant,
    dot4,
    fetch,
    half_to_float,
    intrinsic,
    load,
    splat,
    store,
)

__all__ = ["FOUR", "LANES", "byte_at", "float_at", "level_sums", "nearest8", "prefetch", "scan4", "short_at", "sums8"]

FOUR = 4
"""Queries that are compared with each block at once where many are at hand: it is then read a quarter as often."""


def _add_products(builder: ir.IRBuilder, chain: ir.Value, codes: ir.Value, query: ir.Value, place: ir.Value) -> None:
    """Add to the sums in ``chain`` the products of a group with the four bytes of the query at ``place``."""
    four = splat(builder, load(builder, builder.add(query, place), I32))
    builder.store(dot4(builder, builder.load(chain), codes, four), chain)


def _sums4(builder: ir.IRBuilder, codes: ir.Value, groups: ir.Value, query: ir.Value) -> ir.Value:
    """Dot products of the 16 documents of a block of 4-bit codes with the query, as 16 integers.

    A group is 64 bytes: of each document four bytes, which hold eight codes, the first four of them in the low halves.
    ``query`` has as many signed bytes as there are codes of one document.
    """
    chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(2)]
    low = constant(WORDS, 0x0F0F0F0F)
    with cgutils.for_range(builder, groups) as loop:
        values = load(builder, builder.add(codes, builder.shl(loop.index, I64(6))), WORDS)
        place = builder.shl(loop.index, I64(3))
        _add_products(builder, chains[0], builder.and_(values, low), query, place)
        high = builder.and_(builder.lshr(values, constant(WORDS, 4)), low)
        _add_products(builder, chains[1], high, query, at(builder, place, 4))
    return builder.add(builder.load(chains[0]), builder.load(chains[1]))


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
def sums8(context: Any, codes: Any, groups: Any, query: Any, out: Any) -> Any:
    """Dot products of a block of 8-bit codes (``groups`` of 64 bytes, each of 4 dims, an even number of them) with the
    signed bytes at ``query``, written to ``out`` as 16 int32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        codes, groups, query, out = args
        chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(2)]
        with cgutils.for_range(builder, builder.lshr(groups, I64(1))) as loop:
            here, place = builder.shl(loop.index, I64(7)), builder.shl(loop.index, I64(3))
            for i, chain in enumerate(chains):
                values = load(builder, at(builder, builder.add(codes, here), 64 * i), WORDS)
                _add_products(builder, chain, values, query, at(builder, place, 4 * i))
        store(builder, builder.add(builder.load(chains[0]), builder.load(chains[1])), out)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, i), generate


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
        width, block = builder.shl(groups, I64(2)), splat(builder, builder.trunc(block, I32))
        scales, penalties = load(builder, scales, FLOATS), load(builder, penalties, FLOATS)
        chains = [cgutils.alloca_once_value(builder, constant(WORDS, 0)) for _ in range(FOUR)]
        starts = [builder.add(queries, builder.mul(width, I64(q))) for q in range(FOUR)]
        with cgutils.for_range(builder, groups) as loop:
            values = load(builder, builder.add(codes, builder.shl(loop.index, I64(6))), WORDS)
            place = builder.shl(loop.index, I64(2))
            for chain, start in zip(chains, starts, strict=True):
                _add_products(builder, chain, values, start, place)
        for q, chain in enumerate(chains):
            offset = splat(builder, load(builder, at(builder, offsets, 4 * q), I32))
            unit = splat(builder, load(builder, at(builder, units, 4 * q), F32))
            sums = builder.sitofp(builder.sub(builder.load(chain), offset), FLOATS)
            score = builder.fsub(builder.fmul(builder.fmul(sums, unit), scales), penalties)
            held, held_in = at(builder, best, 64 * q), at(builder, where, 64 * q)
            before, before_in = load(builder, held, FLOATS), load(builder, held_in, WORDS)
            better = builder.fcmp_ordered(">", score, before)
            store(builder, builder.select(better, score, before), held)
            store(builder, builder.select(better, block, before_in), held_in)
        return context.get_dummy_value()

    i = types.int64
    return types.void(*[i] * 10), generate


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
