"""Holds a server that shortens embeddings for us (``dimensions=``) to what a collection needs: renormalised prefixes.

Servers differ: some renormalise after the cut (OpenAI, Ollama), some do not (infinity), some do not know the parameter
and send the whole vector. All three are prefixes in the end; anything else would spoil a collection silently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from mrl_retrieval.errors import EncoderError
from mrl_retrieval.matryoshka import FloatArray, normalize, prefix

__all__ = ["MIN_COSINE", "ShortVectors"]

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999
"""What a short vector and the renormalised prefix of the long one must agree to: servers round, no more."""
_UNIT = 0.01  # a length this near to 1 is taken for renormalised


class ShortVectors:
    """Checks the first short vectors of a server against a long one, and brings all of them to one form.

    Args:
        dim: the length that is asked for.
        called: the encoder's name in messages.
    """

    def __init__(self, dim: int, called: str) -> None:
        self._dim, self._called = dim, called
        self._proven = False

    def fit(self, rows: FloatArray, ask_whole: Callable[[int], FloatArray]) -> FloatArray:
        """``(N, dim)`` unit rows of what the server sent when it was asked for ``dim`` components.

        The first time, ``ask_whole(row)`` has to get the whole vector, ``(1, D)``, of one row's text.

        Raises:
            EncoderError: the rows are too short, or no prefixes of the model's vectors.
        """
        length = rows.shape[1]
        if length < self._dim:
            raise EncoderError(
                f"{self._called} was asked for {self._dim} components and sent {length}: lower dimensions, or leave it "
                "out"
            )
        if not self._proven:
            self._prove(rows, ask_whole)
        return prefix(rows, self._dim)

    def _prove(self, rows: FloatArray, ask_whole: Callable[[int], FloatArray]) -> None:
        lengths = np.linalg.norm(rows, axis=1)
        row = int(np.argmax(lengths > 0))
        if not lengths[row]:
            return  # nothing to be seen in zero vectors
        if rows.shape[1] > self._dim:
            self._proven = True
            logger.warning(
                "%s ignores dimensions=%d and sends all %d components: they are cut here, no bandwidth is saved",
                self._called,
                self._dim,
                rows.shape[1],
            )
            return
        whole = ask_whole(row)
        if whole.shape[1] < self._dim:
            raise EncoderError(
                f"{self._called} sends {whole.shape[1]} components, and {self._dim} where dimensions={self._dim} are "
                "asked for: leave dimensions out"
            )
        cosine = float(normalize(rows[row : row + 1])[0] @ prefix(whole, self._dim)[0])
        if not cosine >= MIN_COSINE:
            raise EncoderError(
                f"{self._called}: the vector of {self._dim} components is not the beginning of the one of "
                f"{whole.shape[1]} (cosine {cosine:.4f}, it must be at least {MIN_COSINE}); leave dimensions out, the "
                "collection cuts prefixes itself (coarse_dims)"
            )
        self._proven = True
        if whole.shape[1] > self._dim and abs(lengths[row] - 1) > _UNIT:
            logger.warning(
                "%s does not renormalise vectors it cuts to %d components (length %.3f): that is done here",
                self._called,
                self._dim,
                lengths[row],
            )
