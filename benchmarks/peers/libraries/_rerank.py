"""The second stage for libraries that have none: float16 rows gathered, converted and multiplied in one loop (numba).

The rows of the candidates to come are prefetched, as each is a miss of every cache. The GIL is released.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.contract import lazy
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["FineRows", "compile_kernel", "write_fine"]

numba: Any = lazy("numba")
extending: Any = lazy("numba.extending")
ir: Any = lazy("llvmlite.ir")
_BLOCK = 50_000


def write_fine(vectors: FloatArray, path: Path) -> None:
    """Keep ``(N, D)`` in float16, as one ``.npy``; what is there stays."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    fine = np.lib.format.open_memmap(part, "w+", dtype=np.float16, shape=vectors.shape)
    for start in range(0, len(vectors), _BLOCK):
        fine[start : start + _BLOCK] = vectors[start : start + _BLOCK]
    fine.flush()
    part.replace(path)


class FineRows:
    """The rows in memory, and the kernel."""

    def __init__(self, path: Path) -> None:
        self._bits = np.load(path).view(np.uint16)
        self._best = _kernel()

    def best(self, query: FloatArray, candidates: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """The best ``k`` of the candidates ``(C,)``, by dot product with the query ``(D,)``."""
        found: npt.NDArray[np.int64] = self._best(self._bits, query, candidates, k)
        return found


def compile_kernel() -> None:
    """Now, rather than with the first query."""
    _kernel()(np.zeros((2, 16), np.uint16), np.zeros(16, np.float32), np.arange(2), 1)


@cache
def _kernel() -> Any:
    @extending.intrinsic  # type: ignore[untyped-decorator]
    def as_float(typing_context: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

        return numba.types.float32(numba.types.uint16), generate

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def prefetch(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, number = ir.PointerType(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
            place = builder.inttoptr(arguments[0], pointer)
            builder.call(function, [place, number(0), number(3), number(1)])
            return context.get_dummy_value()

        return numba.types.void(numba.types.intp), generate

    @numba.njit(nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
    def best(bits: Any, query: Any, candidates: Any, k: int) -> Any:
        dims, ahead = bits.shape[1], 4
        first, row_bytes = bits.ctypes.data, 2 * bits.shape[1]
        k = min(k, len(candidates))
        scores, rows = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
        for i in range(len(candidates)):
            if i + ahead < len(candidates):
                start = first + candidates[i + ahead] * row_bytes
                for line in range(0, row_bytes, 64):
                    prefetch(start + line)
            row = candidates[i]
            score = np.float32(0)
            for j in range(dims):
                score += as_float(bits[row, j]) * query[j]
            if score > scores[k - 1]:
                place = k - 1
                while place > 0 and scores[place - 1] < score:
                    scores[place], rows[place] = scores[place - 1], rows[place - 1]
                    place -= 1
                scores[place], rows[place] = score, row
        return rows

    return best
