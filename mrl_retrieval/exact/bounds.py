r"""What a score read from codes can be off by: the proof that a search over them is exact.

The score of document x for query q is what :func:`mrl_retrieval.storage.scan.cosines` computes in float32, s(x). A
search drops x only where an upper bound of s(x) is below a lower bound of s for k other documents, so x is neither
among the best k nor tied with the last of them. All others are scored by ``cosines`` itself. So the answer is that of
scoring everything; the bounds decide only how much is read. They are made of these steps, each of which is a proof on
paper. Let :math:`u = 2^{-24}` and :math:`\gamma_n = n u / (1 - n u)` (Higham, *Accuracy and Stability of Numerical
Algorithms*, 2nd ed., section 3.1: n rounded operations, in any order, change a result by :math:`\gamma_n` at the most).

**1. From the float32 score to the true cosine** c = <q, x> / (|q| |x|), for |q|², |x|² in [1/4, 4]. The dot product has
an error below :math:`\gamma_D |q| |x|`, by Cauchy-Schwarz on the absolute products. The two squared lengths and their
product are off by a factor of 2D + 1 roundings, the root by half as many, and its own rounding and the division add
two: D + 3. So :math:`|s - c| \le \gamma_D (1 + \gamma_{D+3}) + \gamma_{D+3} \le 2 \gamma_{D+8} (1 + \gamma_{D+8})`.
Products that underflow lose :math:`2^{-150}` each, below :math:`u^2` together; step 6 has room for them. For x = 0 both
are 0. A query or document of another length is never bounded: it is scored.

**2. From the cosine to the codes.** With q of unit length, u = x / |x|, and its codes' reading a = mean + (w y),
y = scale (code - 128) by head and tail, :math:`c = \langle q, a \rangle + \langle q, u - a \rangle`, and by
Cauchy-Schwarz on each part :math:`|\langle q, u - a \rangle| \le |q_h| e_h + |q_t| e_t`, where e are the stored errors.

**3. The stored errors** are computed in float32. One component of u - a is two roundings for u (and one for its
factor), one for taking the mean off, two for ``y scale w`` and one for the difference; in length together at most
:math:`8 u (|u| + |mean| + |a - mean|) \le 8 u (4 + e)`, as |mean| <= 1 and |a - mean| <= 2 + e. Its length costs
:math:`\gamma_{D+2}` of itself. So :math:`e (1 + \gamma_{D+16}) + 40 u` is not too small, and is then rounded up. The
middle ``7.5`` and the products with 16 are exact.

**4. The query in integers.** With z = w q (by part, in float64), :math:`\langle q, a \rangle = \langle q, mean \rangle
+ \langle z, y \rangle`; z is rounded to :math:`step \cdot r`, r integers, and the length f of what that misses adds
:math:`f \cdot reach` for each part, reach being the largest |y| of any document.

**5. The integer products** are exact: r is kept so small that no sum leaves int32. (In NumPy they are sums of float32
that are integers below :math:`2^{24}`, so exact too, in any order.)

**6. Putting it together in float32** takes at most 16 roundings of terms whose sizes add up to no more than
:math:`B = |\langle q, mean \rangle| + |step\,r_h| reach_h + |step\,r_t| (reach_t + 40 \sqrt{D} scale)`, the last
because the halves of a code are added one after the other, with 7.5 in between. The largest :math:`|code - 128|` of a
part is 126 or 127, so scale <= reach / 120. Hence :math:`16 u B`; and :math:`16 u` for adding and taking off the
margin, which is below 8 unless it is infinite. Lengths of the query are rounded up by 8 u for the roundings of the
margin itself. What float64 rounds is below :math:`10^{-12}`; :math:`10^{-9}` is set aside for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

if TYPE_CHECKING:
    from .codes import Coder

__all__ = ["ROUNDING", "QueryCodes", "gamma"]

ROUNDING = 2.0**-24
"""Half the distance from 1 to the next float32."""
_FLOAT64 = 1e-9
# Two signed bytes, 256 * high + low, both from -127 to 127.
_LARGEST = 127 * 256


def gamma(operations: int) -> float:
    """What so many float32 roundings can add up to, relatively."""
    return operations * ROUNDING / (1 - operations * ROUNDING)


@dataclass(frozen=True, slots=True)
class QueryCodes:
    """Queries in integers, and what their bounds are made of. Queries of no length are left out: see ``usable``."""

    planes: npt.NDArray[np.int8]
    """(Q, 2, width): 256 times the first and the second make the integers."""
    offsets: npt.NDArray[np.int32]
    """(Q, 2): 128 times the sum of the head's integers, 8 times that of the tail's."""
    numbers: FloatArray
    """(Q, 8): base, step of the head, 16 steps of the tail, 7.5 steps times the tail's sum, length of the head, of the
    tail, allowance, step of the tail."""
    integers: npt.NDArray[np.int16]
    """(Q, tail): those of the tail."""
    usable: npt.NDArray[np.bool_]
    """(Q,): whether a query has about unit length."""

    @staticmethod
    def of(queries: FloatArray, coder: Coder, reach: npt.NDArray[np.float64]) -> QueryCodes:
        """The queries (Q, D), for documents whose codes reach so far (2,)."""
        q, head, dims = queries.astype(np.float64), coder.head, coder.dims
        squares = np.einsum("qd,qd->q", q, q)
        usable = (squares >= 0.25) & (squares <= 4)
        q /= np.sqrt(np.where(usable, squares, 1))[:, None]
        base = q @ coder.mean.astype(np.float64)
        q = q[:, coder.order]
        z = np.zeros((len(q), coder.width))
        z[:, :dims] = q * coder.spread[coder.order].astype(np.float64)
        integers = np.zeros(z.shape, dtype=np.int64)
        steps, lengths, sizes, allowance = (np.zeros((len(q), 2)) for _ in range(4))
        for part, (start, stop) in enumerate(((0, head), (head, coder.width))):
            if start == stop:
                continue
            largest = min(_LARGEST, (2**31 - 1) // ((15 if part else 255) * (stop - start)))
            step = np.abs(z[:, start:stop]).max(axis=1) / largest
            steps[:, part] = step
            step = np.where(step > 0, step, 1)[:, None]
            whole = np.rint(z[:, start:stop] / step).clip(-largest, largest)
            integers[:, start:stop] = whole.astype(np.int64)
            lengths[:, part] = np.linalg.norm(q[:, start : min(stop, dims)], axis=1)
            sizes[:, part] = np.linalg.norm(steps[:, part, None] * whole, axis=1)
            missed = np.linalg.norm(z[:, start:stop] - steps[:, part, None] * whole, axis=1)
            allowance[:, part] = missed * reach[part]
        terms = np.abs(base) + sizes @ reach + sizes[:, 1] * 40 * np.sqrt(dims) * reach[1] / 120
        score = 2 * gamma(dims + 8) * (1 + gamma(dims + 8))
        allowed = score + allowance.sum(axis=1) + 16 * ROUNDING * (terms + 1) + _FLOAT64
        sums = np.stack([integers[:, :head].sum(axis=1), integers[:, head:].sum(axis=1)], axis=1)
        numbers = np.zeros((len(q), 8), dtype=np.float32)
        numbers[:, 0] = base
        numbers[:, 1] = steps[:, 0]
        numbers[:, 2] = 16 * steps[:, 1]
        numbers[:, 3] = 7.5 * steps[:, 1] * sums[:, 1]
        # Not zero, as zero times an infinite error is no number.
        numbers[:, 4:6] = _above(np.maximum(lengths * (1 + 8 * ROUNDING), 1e-30))
        numbers[:, 6] = _above(allowed * (1 + 8 * ROUNDING))
        numbers[:, 7] = steps[:, 1]
        high = (integers + 128) >> 8
        planes = np.stack([high, integers - 256 * high], axis=1).astype(np.int8)
        offsets = (sums * (128, 8)).astype(np.int32)
        return QueryCodes(planes, offsets, numbers, integers[:, head:].astype(np.int16), usable)

    def chosen(self, which: npt.NDArray[np.intp]) -> QueryCodes:
        """Some of the queries."""
        planes, offsets, numbers = self.planes[which], self.offsets[which], self.numbers[which]
        return QueryCodes(planes, offsets, numbers, self.integers[which], self.usable[which])


def _above(values: npt.NDArray[np.float64]) -> FloatArray:
    """Float32 numbers that are not below ``values``."""
    near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, np.float32(np.inf)), near)
