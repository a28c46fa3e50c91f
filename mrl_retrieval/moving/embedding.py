"""Rows on their way into a generation of another encoder: documents and metadata as they are, vectors new."""

from __future__ import annotations

import numpy as np

from ..backend import Backend
from ..documents import RowBatch
from ..encoder import Encoder
from ..long_texts import OnLong, encode_long
from ..matryoshka import prefix
from .new_rotation import NewRotation
from .passes import Mover, equal_json
from .switching import Turn

__all__ = ["Embedding"]


class Embedding(Mover):
    """Rows with new vectors, ``fine_dims`` of them stored, in one turn; texts that ``new`` has a vector of are not
    encoded."""

    vectors = False

    def __init__(self, encoder: Encoder, fine_dims: int, on_long: OnLong, new: NewRotation, turn: Turn) -> None:
        self._encoder, self._fine_dims, self._on_long, self._new, self._turn = encoder, fine_dims, on_long, new, turn
        self.long_texts = new.long_texts

    def check(self, target: Backend) -> None:
        """Whether it is still this run's turn."""
        self._turn.check()

    def missing(self, batch: RowBatch, target: Backend) -> list[int]:
        """Rows whose document or metadata is another there."""
        return [
            i
            for i, (row, other) in enumerate(zip(batch.rows(), target.get(batch.ids), strict=True))
            if other is None or other.document != row.document or not equal_json(other.metadata, row.metadata)
        ]

    def converted(self, batch: RowBatch) -> RowBatch:
        """With the encoder's vectors, rotated where the generation has a rotation."""
        has_text = np.array([document is not None for document in batch.documents], dtype=np.bool_)
        vectors = np.zeros((len(batch), self._fine_dims), dtype=np.float32)
        texts = [document for document in batch.documents if document is not None]
        if texts:
            full = np.zeros((len(texts), self._encoder.dim), dtype=np.float32)
            # What the rotation was fitted on is not encoded once more.
            known = [self._new.vectors.get(text) for text in texts]
            for i, vector in enumerate(known):
                if vector is not None:
                    full[i] = vector
            if others := [i for i, vector in enumerate(known) if vector is None]:
                full[others], long = encode_long(
                    self._encoder, [texts[i] for i in others], self._on_long, queries=False
                )
                self.long_texts += long
            vectors[has_text] = prefix(self._new.apply(full), self._fine_dims)
        return RowBatch(batch.ids, batch.documents, batch.metadatas, vectors, has_text)
