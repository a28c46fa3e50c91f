"""Rows on their way into a collection: encoded where they have no vector yet, cut to ``fine_dims``, handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from .collection import Collection, check_known
from .documents import RowBatch
from .encoder import Encoder
from .errors import DimensionError, InvalidInput, MRLError
from .filters import Filter
from .indexing import InputBatch
from .long_texts import TextEncoding
from .matryoshka import normalize, prefix
from .retrying import repeated

__all__ = ["Writer"]


class Writer:
    """Writes to one collection. Every write looks before and after whether the rows have moved elsewhere."""

    def __init__(self, collection: Collection, encode: TextEncoding) -> None:
        self._collection, self._encode = collection, encode

    def index(self, batches: Iterable[InputBatch], report: Callable[[int], object], *, encoding: bool) -> list[str]:
        """Write batch after batch; the ids of all rows, in order.

        Raises:
            MRLError: of a batch; its ``indexed_ids`` names the rows of the batches before.
        """
        self._collection.check_current(writing=True)
        encoder = self._collection.verified_encoder() if encoding else None
        done: list[str] = []
        try:
            for batch in batches:
                self._write(batch, encoder)
                done.extend(batch.ids)
                report(len(done))
        except MRLError as error:
            error.indexed_ids = tuple(dict.fromkeys([*done, *error.indexed_ids]))
            if error.indexed_ids:
                error.add_note(f"{len(error.indexed_ids)} rows are in: see error.indexed_ids")
            raise
        return done

    def delete(self, ids: list[str]) -> int:
        """Remove rows; how many were there."""
        self._collection.check_current(writing=True)
        if not ids or not self._collection.manifest:
            return 0
        gone = self._collection.backend.delete(ids)
        self._collection.check_current(writing=True)
        return gone

    def delete_matching(self, filter: Filter | None) -> int:
        """Remove the rows that match; how many did.

        Raises:
            InvalidInput: the filter is empty.
        """
        if filter is None:
            raise InvalidInput("an empty filter matches every row; to remove everything, drop the collection")
        self._collection.check_current(writing=True)
        if not self._collection.manifest:
            return 0
        return self.delete([id for batch in self._collection.backend.scan(filter, documents=False) for id in batch.ids])

    def _write(self, batch: InputBatch, encoder: Encoder | None) -> None:
        # Rows of equal content share an id made from it: the last one stands for all.
        last = {id: i for i, id in enumerate(batch.ids)}
        kept = list(last.values())
        if batch.vectors is None:
            assert encoder is not None
            texts = [text for i in kept if (text := batch.documents[i]) is not None]
            vectors = self._encode(encoder, texts, queries=False)
        else:
            vectors = normalize(batch.vectors[kept])
        manifest = self._collection.ensure(check_known(vectors.shape[1] or self._collection.vector_dim))
        if encoder is not None:
            self._collection.verified_encoder()  # somebody else may have made the collection while we encoded
        if not vectors.shape[1]:
            vectors = np.zeros((len(kept), manifest.dim), dtype=np.float32)
        if vectors.shape[1] != manifest.dim:
            raise DimensionError(
                f"the vectors have {vectors.shape[1]} components, the collection's have {manifest.dim}; use the "
                "encoder it was made with"
            )
        rows = RowBatch(
            ids=[batch.ids[i] for i in kept],
            documents=[batch.documents[i] for i in kept],
            metadatas=[batch.metadatas[i] for i in kept],
            vectors=prefix(self._collection.turned(vectors), manifest.fine_dims),
            has_vector=batch.has_vector[kept],
        )
        repeated(
            partial(self._collection.backend.upsert, rows), f"writing {len(rows)} rows to {self._collection.where}"
        )
        # Once more: what was written before the collection was frozen is taken along, what came later is not.
        self._collection.check_current(writing=True)
