"""Taking over a collection that another program made: its vectors, documents and metadata, without encoding.

How the rows of a database are read is in its importer: ``foreign.py`` says what that is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..address import DEFAULT_COLLECTION, Address
from ..backend import Backend
from ..collection import Collection
from ..encoder import Encoder, as_encoder, encode_checked
from ..errors import AddressError, ConflictError, InvalidInput, ModelMismatchError
from ..matryoshka import as_vectors, normalize
from ..progress import progress_report
from ..registry import importer, open_backend
from ..retriever import MatryoshkaRetriever
from ..settings import NOT_GIVEN, NotGiven, check_positive
from .foreign import Fields, ForeignBatch, ForeignCollection, plain_json
from .passes import Progress

__all__ = ["Fields", "ImportReport", "import_collection"]

logger = logging.getLogger(__name__)

_SAMPLE = 64
"""Texts that are encoded to see whether the vectors are the encoder's."""
_SAME_VECTOR = 0.99


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did."""

    source: str
    target: str
    rows: int
    vectors: int
    """Rows that have a vector; the others are stored, but found by no search."""
    longest: float
    shortest: float
    """Lengths of the vectors in the source. Where they differ from 1, the source may have ranked by inner product or by
    distance; here the ranking is by cosine."""


def import_collection(
    source: str,
    target: str | None = None,
    *,
    collection: str | None = None,
    fields: Fields | None = None,
    encoder: Any = None,
    coarse_dims: int | NotGiven = NOT_GIVEN,
    fine_dims: int | None = None,
    batch_size: int = 1000,
    progress: Progress = False,
    source_options: Mapping[str, Any] | None = None,
    backend_options: Mapping[str, Any] | None = None,
) -> ImportReport:
    """Make a two-stage collection of one that another program made. Its vectors are taken as they are.

    Args:
        source: its address, with ``?collection=`` the name of the collection or table; it is only read.
        target: address of the new collection; None: beside the source, by its name with ``-mrl`` appended.
        collection: the source's name, where it is none that an address can hold (``"My docs"``).
        fields: which fields are what.
        encoder: what made the vectors, so that the new collection can be searched by text; it is checked on some of
            the documents. None: searches by vector.
        coarse_dims, fine_dims: dims of the new collection.
        batch_size: rows read and written at a time.
        progress: True draws a bar on stderr; a function is called with rows done and their total.
        source_options, backend_options: of the two databases.

    Raises:
        CollectionNotFound: there is no such collection or table.
        InvalidInput: a field is not there, or a value cannot be stored.
        ModelMismatchError: the vectors are not those of ``encoder``.
        ConflictError: the target holds something else.
    """
    size = check_positive(batch_size, "batch_size")
    address = _source_address(source, collection)
    place = _beside(address) if target is None else Address.parse(target)
    if place == address:
        raise InvalidInput(f"{source} cannot be imported into itself: give another collection name")
    model = None if encoder is None else as_encoder(encoder)
    with (
        importer(address.scheme)(address, fields or Fields(), **(source_options or {})) as foreign,
        open_backend(place, **(backend_options or {})) as backend,
    ):
        taking = _Taking(str(address), backend, model, coarse_dims, fine_dims)
        if model is not None:
            taking.check_encoder(foreign, size)
        with progress_report(progress, range(foreign.count())) as report:
            for batch in foreign.batches(size):
                taking.take(batch)
                report(taking.rows)
        return taking.finish()


def _source_address(source: str, collection: str | None) -> Address:
    address = Address.parse(source)
    if collection is None:
        return address
    if address.collection not in (DEFAULT_COLLECTION, collection):
        raise InvalidInput(f"{source} names a collection, and collection={collection!r} another: leave one of them out")
    return replace(address, collection=collection)


def _beside(address: Address) -> Address:
    try:
        return address.with_collection(f"{address.collection}-mrl")
    except AddressError as error:
        raise InvalidInput(
            f"{address.collection!r} with '-mrl' appended is no name for the new collection: give its address as target"
        ) from error


class _Taking:
    """One import on its way."""

    def __init__(
        self,
        source: str,
        backend: Backend,
        encoder: Encoder | None,
        coarse_dims: int | NotGiven,
        fine_dims: int | None,
    ) -> None:
        self._source, self._backend, self._encoder = source, backend, encoder
        found = backend.read_manifest()
        if found is not None and (found.origin or {}).get("source") != source and backend.count():
            raise ConflictError(f"{backend.address} holds another collection already: give another target, or drop it")
        self._made = Collection(
            backend, encoder, coarse_dims=coarse_dims, fine_dims=fine_dims, stages=NOT_GIVEN, dim=None
        )
        self._retriever = MatryoshkaRetriever(encoder, backend, coarse_dims=coarse_dims, fine_dims=fine_dims)
        self._ids: set[str] = set()
        self._waiting: list[ForeignBatch] = []
        self._checked = 0
        self._vectors = 0
        self._shortest, self._longest = math.inf, 0.0

    @property
    def rows(self) -> int:
        return len(self._ids)

    def take(self, batch: ForeignBatch) -> None:
        if not batch.ids:
            return
        if self._encoder is None and self._retriever.manifest is None and all(v is None for v in batch.vectors):
            self._waiting.append(batch)  # how long vectors are is not known yet
            return
        self._write(batch)
        while self._waiting:
            self._write(self._waiting.pop(0))

    def check_encoder(self, foreign: ForeignCollection, size: int) -> None:
        """Compare some of the vectors with what the encoder makes of their texts, before anything is written."""
        for batch in foreign.batches(size):
            self._compare(batch)
            if self._checked >= _SAMPLE:
                return
        if not self._checked:
            raise InvalidInput(
                f"no row of {self._source} has both a text and a vector, so that the encoder cannot be checked: leave "
                "it out"
            )

    def _write(self, batch: ForeignBatch) -> None:
        self._look_at(batch)
        if first := next((len(v) for v in batch.vectors if v is not None), 0):
            self._made.ensure(first)
            _ = self._retriever.manifest
        if self._backend.read_manifest() is not None:
            self._mark(complete=False)  # before the first row, so that an interrupted import is known as one
        metadatas = [{str(key): plain_json(value) for key, value in one.items()} for one in batch.metadatas]
        self._retriever.index(
            batch.documents, batch.ids, metadatas, vectors=list(batch.vectors), batch_size=len(batch.ids)
        )
        self._ids.update(batch.ids)
        self._mark(complete=False)

    def finish(self) -> ImportReport:
        if not self._ids:
            what = "no row with a vector" if self._waiting else "no rows"
            raise InvalidInput(f"{self._source} has {what}: there is nothing to import")
        stored = self._backend.count()
        if stored < self.rows:
            raise ConflictError(f"{stored} of {self.rows} rows are in {self._backend.address}: import it again")
        self._mark(complete=True)
        self._backend.flush()
        where = str(self._backend.address)
        return ImportReport(
            self._source, where, self.rows, self._vectors, self._longest, min(self._shortest, self._longest)
        )

    def _look_at(self, batch: ForeignBatch) -> None:
        """Lengths of the vectors."""
        present = [i for i, vector in enumerate(batch.vectors) if vector is not None]
        if not present:
            return
        vectors = as_vectors([batch.vectors[i] for i in present], what=f"the vectors of {self._source}")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        self._shortest = min(self._shortest, float(lengths.min()))
        self._longest = max(self._longest, float(lengths.max()))
        self._vectors += len(present)

    def _compare(self, batch: ForeignBatch) -> None:
        present = [i for i, vector in enumerate(batch.vectors) if vector is not None]
        if not present or self._encoder is None:
            return
        vectors = as_vectors([batch.vectors[i] for i in present], what=f"the vectors of {self._source}")
        texts = {j: text for j, i in enumerate(present) if (text := batch.documents[i])}
        sample = dict(list(texts.items())[: _SAMPLE - self._checked])
        if not sample:
            return
        ours = encode_checked(self._encoder, list(sample.values()), queries=False)
        if ours.shape[1] != vectors.shape[1]:
            raise ModelMismatchError(
                f"the vectors of {self._source} have {vectors.shape[1]} components, the encoder's have "
                f"{ours.shape[1]}: give the encoder that made them, or none"
            )
        cosines = np.einsum("nd,nd->n", ours, normalize(vectors[list(sample)]))
        if (alike := float(np.median(cosines))) < _SAME_VECTOR:
            raise ModelMismatchError(
                f"the vectors of {self._source} are not the encoder's: those of {len(sample)} documents agree with "
                f"what it makes of them only to cosine {alike:.3f} in the median, they must to {_SAME_VECTOR}. Give "
                "the encoder that made them (with its prompts), or none"
            )
        self._checked += len(sample)

    def _mark(self, *, complete: bool) -> None:
        found = self._backend.read_manifest()
        assert found is not None
        origin = {"source": self._source, "source_id": self._source, "complete": complete}
        if found.origin != origin:
            self._backend.write_manifest(replace(found, origin=origin), found)
