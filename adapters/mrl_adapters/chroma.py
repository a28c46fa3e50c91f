"""The ``chroma`` backend: prefixes in one Chroma collection, full vectors in a second one.

The coarse stage is Chroma's HNSW search over the prefixes; the rerank reads the candidates' full vectors and scores
them here, because Chroma's own search among given ids goes over the graph too and may miss some. How rows are laid
out, so that an interrupted write leaves the old row or the new one, is in ``_chroma/rows.py``.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal_text
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import BackendError, CollectionNotFound, FilterError, InvalidInput, MRLError
from mrl_retrieval.filters import Filter, IdIn, lookup, order_error
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import Candidates

from . import _pieces
from ._chroma import filters
from ._chroma.blobs import BlobRecords
from ._chroma.client import Connection
from ._chroma.collections import Collections, Pair
from ._chroma.options import GRAPH, NAMES, checked_graph
from ._chroma.rows import IDS_PER_CALL, RowStore, parts
from ._chroma.search import Searcher
from ._chroma.systems import write_lock

__all__ = ["ChromaBackend"]

logger = logging.getLogger(__name__)

# How often a read is repeated that met a row in the middle of its deletion.
_READ_AGAIN = 20

P = ParamSpec("P")
R = TypeVar("R")


def _read_again(read: Callable[P, R]) -> Callable[P, R]:
    """Repeat a read that met a row in the middle of its deletion: Chroma then fails with words of its own index."""

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_READ_AGAIN):
            try:
                return read(*args, **kwargs)
            except BackendError as error:
                if "Error finding id" not in str(error):
                    raise
                time.sleep(0.01)
        return read(*args, **kwargs)

    return reading


class ChromaBackend(Backend):
    """One collection of ours in a Chroma database.

    Options: ``ef_search``, ``ef_construction`` and ``max_neighbors`` of the coarse HNSW graph, fixed when the
    collection is made; for a server also ``api_key``, ``headers``, ``tenant``, ``database`` and ``timeout`` (seconds).
    """

    capabilities = Capabilities(filter_operators=filters.OPERATORS, approximate_coarse=True, attachments=True)
    options = NAMES

    def __init__(self, address: Address, connection: Connection, graph: dict[str, int]) -> None:
        super().__init__(address)
        self.capabilities = replace(type(self).capabilities, persistent=not address.in_memory)
        self._connection = connection
        self._collections = Collections(connection, address.collection, graph)
        self._rows = RowStore(self._pair, lambda: self.manifest)
        self._searcher = Searcher(self._pair, self._rows)

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> ChromaBackend:
        """Connect at the first use; nothing is created before the first write.

        Raises:
            NotACollection: the folder is a file, or not empty and no Chroma database.
            InvalidInput: an unknown option, or a value that cannot be used.
            AddressError: an option of a server, but the address is none.
        """
        unknown = options.keys() - cls.options
        if unknown:
            raise InvalidInput(
                f"the chroma backend takes {', '.join(sorted(cls.options))}; got {', '.join(sorted(unknown))}"
            )
        graph = checked_graph(options)
        return cls(address, Connection(address, **{k: v for k, v in options.items() if k not in GRAPH}), graph)

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        self._searcher.forget()
        self._manifest = self._collections.read()
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        with self._write_lock:
            self._collections.write(manifest, expected)
        self._manifest = manifest

    def collections(self) -> list[str]:
        return self._collections.names()

    def drop(self) -> None:
        with self._write_lock:
            self._manifest = None
            try:
                self._collections.drop()
            finally:
                self._searcher.forget()

    def write_attachment(self, name: str, content: bytes) -> None:
        sealed = seal_text(name, content)
        with self._write_lock, self._connection.errors("writing an attachment"):
            blobs = self._collections.blobs(make=True)
            if blobs is None:
                raise self._not_there()
            _pieces.write(BlobRecords(blobs), name, sealed)

    @_read_again
    def read_attachment(self, name: str) -> bytes | None:
        checked_name(name)
        with self._connection.errors("reading an attachment"):
            blobs = self._collections.blobs(make=False)
            return None if blobs is None else _pieces.read(BlobRecords(blobs), name, self.address)

    @property
    def _write_lock(self) -> threading.RLock:
        return write_lock(self._connection.key, self.address.collection)

    def _pair(self) -> Pair:
        """The two Chroma collections.

        Raises:
            CollectionNotFound: they are not there.
        """
        pair = self._collections.pair()
        if pair is None:
            raise self._not_there()
        return pair

    def _not_there(self) -> CollectionNotFound:
        self._manifest = None
        return CollectionNotFound(f"there is no collection at {self.address}; index something first")

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        rows, committed = list(batch.rows()), set[str]()
        try:
            with self._write_lock, self._connection.errors("writing rows"):
                for part in parts(rows, min(IDS_PER_CALL, self._collections.max_batch())):
                    self._rows.write(part, committed)
        except MRLError as error:
            error.indexed_ids = tuple(id for id in batch.ids if id in committed)
            raise
        finally:
            if not batch.has_vector.all():  # some of these may have had one
                self._searcher.forget()

    def delete(self, ids: Sequence[str]) -> int:
        with self._write_lock, self._connection.errors("deleting rows"):
            try:
                return self._rows.delete(ids)
            finally:
                self._searcher.forget()

    def repair(self) -> None:
        """Remove what interrupted writes left behind. Call it while nobody else writes."""
        with self._write_lock, self._connection.errors("repairing"):
            removed, lost = self._rows.repair()
            self._collections.drop_orphans()
            if (blobs := self._collections.blobs(make=False)) is not None:
                removed += _pieces.clear(BlobRecords(blobs))
        logger.info("%s: removed %d records of interrupted writes", self.address, removed)
        if lost:
            logger.warning("%s: %d rows have no full vector; index them again", self.address, lost)

    # -- reading -------------------------------------------------------------------------------------------

    @_read_again
    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        found: dict[str, Row] = {}
        for part in parts(dict.fromkeys(ids), IDS_PER_CALL):
            with self._connection.errors("reading rows"):
                batch = self._rows.read(part, vectors=vectors, documents=True)
            found.update((row.id, row) for row in batch.rows())
        return [found.get(id) for id in ids]

    @_read_again
    def count(self, filter: Filter | None = None) -> int:
        with self._connection.errors("counting"):
            if filter is None:
                return int(self._pair().coarse.count()) + len(self._rows.bare_ids(None))
            pushed = self.resolve_filter(filter)
            return len(self._rows.coarse_ids(pushed)) + len(self._rows.bare_ids(pushed))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        with self._connection.errors("listing rows"):
            pushed = self.resolve_filter(filter)
            # All ids are read first: pages by offset would shift under a writer's feet.
            ids = self._rows.coarse_ids(pushed) + self._rows.bare_ids(pushed)
        for part in parts(ids, min(batch_size, IDS_PER_CALL)):
            yield self._read_batch(part, vectors, documents)

    @_read_again
    def _read_batch(self, ids: list[str], vectors: bool, documents: bool) -> RowBatch:
        with self._connection.errors("reading rows"):
            return self._rows.read(ids, vectors=vectors, documents=documents)

    @_read_again
    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        with self._connection.errors("reading vectors"):
            return self._rows.full_vectors(list(ids))

    # -- search --------------------------------------------------------------------------------------------

    @_read_again
    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with self._connection.errors("searching"):
            return self._searcher.coarse(vectors, limit, filter) if len(vectors) else []

    @_read_again
    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with self._connection.errors("searching exactly"):
            return self._searcher.exact(vectors, limit, filter)

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        return isinstance(filter, IdIn) or filters.can_compile(filter)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        if filter is not None and not isinstance(filter, IdIn) and self.can_filter(filter):
            with self._connection.errors("checking the filter"):
                self._check_order(filter)
        return super().resolve_filter(filter)

    def _check_order(self, filter: Filter) -> None:
        """Raise the FilterError of a row that an order operator cannot be applied to, whichever row it is."""
        for condition, where in filters.order_offenders(filter):
            for id, metadata in self._rows.first(where):
                found = lookup(metadata, condition.path)
                raise order_error(condition, id, found) or FilterError(f"{condition.name!r} of {id!r} has no order")

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        with self._connection.errors("counting"):
            pair = self._pair()
            vectors = int(pair.coarse.count())
            return BackendStats(
                rows=vectors + len(self._rows.bare_ids(None)),
                vectors=vectors,
                bytes={"coarse": None, "fine": None, "rows": None},
                details={"index": "hnsw", **self._collections.graph(pair), **self._size()},
            )

    def _size(self) -> dict[str, int]:
        folder = self._connection.folder
        if folder is None:
            return {}
        size = 0
        for place, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):  # Chroma's temporary files come and go
                    size += Path(place, name).stat().st_size
        return {"folder_bytes": size}

    def close(self) -> None:
        self._collections.forget()
        self._connection.close()
