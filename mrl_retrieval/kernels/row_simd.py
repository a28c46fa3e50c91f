"""Vector instructions over the row of one stored vector, for ``rows.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from .vectors import FLOATS, I16, I32, I64, LANES, SHORTS, at, cgutils, constant, half_to_float, intrinsic, load, store

__all__ = ["float_sums", "half_sums", "halves", "word_sum"]

_UNROLLED = 4


def _row_sums(read: Callable[[ir.IRBuilder, ir.Value], ir.Value], item_bytes: int) -> Any:
    """An intrinsic over the components of one stored row, which ``read`` gives 16 at a time as float32."""

    def typed(context: Any, row: Any, count: Any, query: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
            row, count, query, out = args
            zero = constant(FLOATS, 0.0)
            dots, squares = (
                [cgutils.alloca_once_value(builder, zero) for _ in range(_UNROLLED)] for _ in ("dots", "squares")
            )
            with cgutils.for_range(builder, builder.lshr(count, I64(6))) as loop:
                items = builder.add(row, builder.mul(loop.index, I64(64 * item_bytes)))
                floats = builder.add(query, builder.shl(loop.index, I64(8)))
                for i in range(_UNROLLED):
                    x = read(builder, at(builder, items, LANES * item_bytes * i))
                    q = load(builder, at(builder, floats, 64 * i), FLOATS)
                    builder.store(builder.fadd(builder.load(dots[i]), builder.fmul(x, q)), dots[i])
                    builder.store(builder.fadd(builder.load(squares[i]), builder.fmul(x, x)), squares[i])
            for i, sums in enumerate(dots + squares):
                store(builder, builder.load(sums), at(builder, out, 64 * i))
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i), generate

    return intrinsic(typed)


def _read_halves(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return half_to_float(builder, load(builder, address, SHORTS))


def _read_floats(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return load(builder, address, FLOATS)


half_sums = _row_sums(_read_halves, 2)
"""``half_sums(row, count, query, out)``: of ``count`` (a multiple of 64) float16 numbers at ``row`` the products with
the float32 at ``query``, then the squares, each in 64 partial sums at ``out``: lane i has the components i, i + 64, …,
added in this order."""

float_sums = _row_sums(_read_floats, 4)
"""The same of float32 numbers."""


@intrinsic
def halves(context: Any, row: Any, count: Any, out: Any) -> Any:
    """Decode ``count`` float16 numbers at ``row`` to float32 at ``out``, one by one."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, count, out = args
        with cgutils.for_range(builder, count) as loop:
            half = load(builder, builder.add(row, builder.shl(loop.index, I64(1))), I16)
            store(builder, half_to_float(builder, half), builder.add(out, builder.shl(loop.index, I64(2))))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def word_sum(context: Any, row: Any, words: Any, multipliers: Any) -> Any:
    """The sum, modulo 2**64, of ``words`` 32-bit words at ``row``, each times its 64-bit number of ``multipliers``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        row, words, multipliers = args
        many, narrow = ir.VectorType(I64, 8), ir.VectorType(I32, 8)
        chains = [cgutils.alloca_once_value(builder, constant(many, 0)) for _ in range(2)]

        def product(place: ir.Value, kind: ir.Type, wide: ir.Type) -> ir.Value:
            word = builder.zext(load(builder, builder.add(row, builder.shl(place, I64(2))), kind), wide)
            return builder.mul(word, load(builder, builder.add(multipliers, builder.shl(place, I64(3))), wide))

        steps = builder.lshr(words, I64(4))
        with cgutils.for_range(builder, steps) as loop:
            for i, chain in enumerate(chains):
                place = at(builder, builder.shl(loop.index, I64(4)), 8 * i)
                builder.store(builder.add(builder.load(chain), product(place, narrow, many)), chain)
        both = builder.add(builder.load(chains[0]), builder.load(chains[1]))
        total = cgutils.alloca_once_value(builder, I64(0))
        for i in range(8):
            builder.store(builder.add(builder.load(total), builder.extract_element(both, I32(i))), total)
        done = builder.shl(steps, I64(4))
        with cgutils.for_range(builder, builder.sub(words, done)) as loop:
            one = product(builder.add(done, loop.index), I32, I64)
            builder.store(builder.add(builder.load(total), one), total)
        return builder.load(total)

    return types.uint64(types.int64, types.int64, types.int64), generate
