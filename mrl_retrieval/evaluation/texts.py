"""Encoding every text once, and every prefix length of what came."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoder import Encoder, encode_checked
from ..matryoshka import FloatArray, prefix
from ..rotation import Rotation
from ..rotation_fitting import RotationFit, warn_of_few

__all__ = ["Form", "TextVectors", "all_forms", "fitted"]


class TextVectors:
    """Full embeddings of texts; a text is encoded once for each role, however often and by whichever task it is used.

    Args:
        encoder: what encodes.
        batch_size: texts that it is given at a time.
        report: told how many texts are done.
    """

    def __init__(self, encoder: Encoder, batch_size: int, report: Callable[[int], None]) -> None:
        self._encoder, self._size, self._report = encoder, batch_size, report
        self._known: dict[bool, dict[str, FloatArray]] = {False: {}, True: {}}
        self._asked = 0
        self.encoded = 0
        self.seconds = 0.0

    def of(self, texts: Sequence[str], *, queries: bool = False) -> FloatArray:
        """Unit vectors ``(N, D)`` of texts, as documents unless they are queries."""
        known = self._known[queries]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        done = self._asked + len(texts) - len(new)
        for start in range(0, len(new), self._size):
            part = new[start : start + self._size]
            began = time.perf_counter()
            vectors = encode_checked(self._encoder, part, queries=queries)
            self.seconds += time.perf_counter() - began
            self.encoded += len(part)
            known.update(zip(part, vectors, strict=True))
            self._report(done + start + len(part))
        self._asked += len(texts)
        return np.stack([known[text] for text in texts]) if texts else np.empty((0, self._encoder.dim), np.float32)


@dataclass(frozen=True, slots=True)
class Form:
    """A prefix length, raw or rotated."""

    dims: int
    rotation: Rotation | None = None

    def of(self, vectors: FloatArray) -> FloatArray:
        """Renormalised prefixes ``(N, dims)`` of full vectors."""
        return prefix(vectors if self.rotation is None else self.rotation.apply(vectors), self.dims)


def all_forms(lengths: Sequence[int], rotation: Rotation | None) -> list[Form]:
    """By length, raw before rotated; the full length, the last, once: no rotation changes its cosines."""
    turned = (None,) if rotation is None else (None, rotation)
    return [Form(dims, turn) for dims in lengths[:-1] for turn in turned] + [Form(lengths[-1])]


def fitted(vectors: FloatArray, lengths: Sequence[int]) -> Rotation:
    """The rotation of a task's own texts, for these prefix lengths; warns where they are few."""
    fit = RotationFit(vectors.shape[1], lengths)
    fit.add(vectors)
    warn_of_few(fit.count, fit.dim)
    return fit.rotation()
