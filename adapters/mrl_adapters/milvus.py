"""The ``milvus`` backend: a row is one entity with two vectors, its prefix and the whole.

The same code runs on Milvus Lite in a folder and on a Milvus server. The coarse stage is Milvus's search over the
prefixes; the rerank reads the candidates' full vectors and scores them here, because a search among given keys goes
through every row of Milvus Lite. The full vectors have a FLAT index, so exact search runs inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal_text
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CollectionNotFound
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import (
    Candidates,
    CoarseSearch,
    FetchVectors,
    Ranking,
    Request,
    SearchRequest,
    drive,
    two_stage,
)

from . import _pieces
from ._milvus import filters, rows
from ._milvus.client import Connection
from ._milvus.collections import COARSE, DOCUMENT, FULL, HAS_VECTOR, METADATA, PK, Collections, Table
from ._milvus.entities import BYTES_PER_CALL, KEYS_PER_CALL, ROWS_PER_WRITE, Entities
from ._milvus.lite import bytes_in
from ._milvus.options import EXACT_INDEXES, QUANTIZATION, Options
from ._milvus.search import Search

__all__ = ["MilvusBackend"]


class MilvusBackend(Backend):
    """One collection of ours in Milvus.

    Options: ``index_type``, ``index_params``, ``coarse_quantization`` and ``search_params`` of the coarse index,
    ``timeout`` (seconds); for a folder ``lock_timeout`` (seconds); for a server ``token`` or ``user`` and ``password``,
    ``db_name``, ``num_shards``, ``replica_number`` and ``tls``.
    """

    capabilities = Capabilities(
        filter_operators=filters.OPERATORS, exact_search=True, quantization=QUANTIZATION, attachments=True
    )
    options = frozenset(Options.__dataclass_fields__)

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._options = options
        self._connection = Connection(address, options)
        self._collections = Collections(self._connection, address.collection)
        self._entities = Entities(self._connection, self._collections)
        self._declare(options.coarse_index(lite=not address.url)[0])

    def _declare(self, index_type: str) -> None:
        self.capabilities = replace(
            type(self).capabilities,
            persistent=not self.address.in_memory,
            approximate_coarse=index_type not in EXACT_INDEXES,
        )

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> MilvusBackend:
        """Connect at the first use; nothing is created before the first write.

        Raises:
            NotACollection: the folder is a file, or not empty and no Milvus Lite database.
            BackendError: this process may not read it.
            InvalidInput: an option is unknown, has a wrong value, or is for a server only.
        """
        return cls(address, Options.parse(address, options))

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        self._manifest = self._collections.read()
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        self._collections.write(manifest, expected)
        self._manifest = manifest

    @property
    def manifest(self) -> Manifest:
        return self._table().manifest

    def collections(self) -> list[str]:
        return self._collections.names()

    def drop(self) -> None:
        self._manifest = None
        self._collections.drop()

    def write_attachment(self, name: str, content: bytes) -> None:
        sealed = seal_text(name, content)
        with self._connection.place.writing:
            manifest = self.read_manifest()
            if manifest is None:
                raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
            _pieces.write(self._collections.blobs.made(manifest), name, sealed)

    def read_attachment(self, name: str) -> bytes | None:
        checked_name(name)
        manifest = self.read_manifest()
        try:
            blobs = None if manifest is None else self._collections.blobs.find(manifest)
            return None if blobs is None else _pieces.read(blobs, name, self.address)
        except CollectionNotFound:
            return None  # dropped just now

    def repair(self) -> None:
        """Remove what interrupted writes and drops left of attachments; rows need nothing. Call it while nobody else
        writes."""
        with self._connection.place.writing:
            manifest = self._table().manifest
            self._collections.blobs.remove_others(manifest)
            if (blobs := self._collections.blobs.find(manifest)) is not None:
                _pieces.clear(blobs)

    def _table(self) -> Table:
        table = self._entities.table()
        if self.capabilities.approximate_coarse != (table.index_type not in EXACT_INDEXES):
            self._declare(table.index_type)
        return table

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        with self._connection.place.writing:
            self._entities.upsert(self._encoded(batch))

    def _encoded(self, batch: RowBatch) -> Iterator[dict[str, Any]]:
        table = self._table()
        dims = table.manifest.coarse_dims, table.manifest.fine_dims
        for entity, fits in rows.encode(batch, *dims, table.listed_terms):
            if not fits:
                self._collections.note_too_many_terms()
            yield entity

    def delete(self, ids: Sequence[str]) -> int:
        with self._connection.place.writing:
            return self._entities.delete(dict.fromkeys(map(rows.key_of, ids)))

    def flush(self) -> None:
        self._entities.flush()

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        found = {row.id: row for batch in self._read(list(dict.fromkeys(ids)), vectors, True) for row in batch.rows()}
        return [found.get(id) for id in ids]

    def _read(
        self, ids: Sequence[str], vectors: bool, documents: bool, size: int = ROWS_PER_WRITE
    ) -> Iterator[RowBatch]:
        """The rows of these ids that exist, batch by batch."""
        fields, dims = self._fields(vectors, documents), self.manifest.fine_dims
        keys = map(rows.key_of, ids)
        for found in self._entities.with_keys("reading rows", keys, fields, self._page(vectors, size)):
            yield rows.decode(found, dims, vectors=vectors, documents=documents)

    def count(self, filter: Filter | None = None) -> int:
        pushed = self.resolve_filter(filter)
        if isinstance(pushed, IdIn):
            keys = map(rows.key_of, pushed.ids)
            return sum(map(len, self._entities.with_keys("counting", keys, [PK], KEYS_PER_CALL)))
        return self._entities.count(self._compiled(pushed))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        pushed = self.resolve_filter(filter)
        if isinstance(pushed, IdIn):
            yield from self._read(sorted(pushed.ids), vectors, documents, batch_size)
            return
        fields, dims = self._fields(vectors, documents), self.manifest.fine_dims
        size = self._page(vectors, batch_size)
        for page in self._entities.pages("listing rows", self._compiled(pushed), fields, size):
            yield rows.decode(page, dims, vectors=vectors, documents=documents)

    def _page(self, vectors: bool, wanted: int) -> int:
        """How many rows to ask for at once."""
        most = BYTES_PER_CALL // (4 * self.manifest.fine_dims) if vectors else KEYS_PER_CALL
        return max(1, min(wanted, most, KEYS_PER_CALL))

    @staticmethod
    def _fields(vectors: bool, documents: bool) -> list[str]:
        return [PK, HAS_VECTOR, METADATA, *([FULL] if vectors else []), *([DOCUMENT] if documents else [])]

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        dims = self.manifest.fine_dims
        at = {rows.key_of(id): i for i, id in enumerate(ids)}
        out, found = np.zeros((len(ids), dims), dtype=np.float32), np.zeros(len(ids), dtype=np.bool_)
        size = self._page(True, KEYS_PER_CALL)
        for page in self._entities.with_keys("reading vectors", at, [PK, HAS_VECTOR, FULL], size):
            entities = [entity for entity in page if entity[HAS_VECTOR]]
            places = [at[entity[PK]] for entity in entities]
            out[places] = rows.vectors_of(entities, FULL, dims)
            found[places] = True
        return out, found

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """As everywhere, but for the full vectors, which come with the candidates where they fit into a message."""
        if request.exact:
            return super().search(request)
        coarse = Search(self._entities, COARSE, carry=True)

        def perform(step: Request) -> Any:
            match step:
                case CoarseSearch(vectors, limit, filter):
                    return self._found(coarse, vectors, limit, filter)
                case FetchVectors(ids) if ids and all(id in coarse.carried for id in ids):
                    return np.array([coarse.carried[id] for id in ids]), np.ones(len(ids), dtype=np.bool_)
                case _:
                    return self.perform(step)

        return drive(two_stage(request), perform)

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        return self._found(Search(self._entities, COARSE), vectors, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        return self._found(Search(self._entities, FULL), vectors, limit, filter)

    def _found(self, search: Search, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """By a filter that Milvus can say, or a list of ids."""
        if isinstance(filter, IdIn):
            return search.among(vectors, limit, map(rows.key_of, sorted(filter.ids)))
        return search.where(vectors, limit, self._compiled(filter))

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        return isinstance(filter, IdIn) or filters.can_compile(filter)

    def _compiled(self, filter: Filter | None) -> str:
        table = self._table()
        return "" if filter is None else filters.compile_filter(filter, table.listed_terms)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        if filter is not None and not isinstance(filter, IdIn) and self.can_filter(filter):
            if self._collections.has_too_many_terms():
                return IdIn(frozenset(self.matching_ids(filter)))
            self._check_order(filter)
        return super().resolve_filter(filter)

    def _check_order(self, filter: Filter) -> None:
        """Raise the FilterError of a row that an order operator cannot be applied to, whichever row it is."""
        wrong = [expression for _, expression in filters.offenders(filter, self._table().listed_terms)]
        if wrong:
            fields, dims = self._fields(vectors=False, documents=False), self.manifest.fine_dims
            for entity in self._entities.query("checking the filter", filters.either(wrong), fields, limit=1):
                (row,) = rows.decode([entity], dims, vectors=False, documents=False).rows()
                check_order(filter, row.id, row.metadata)

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        details: dict[str, Any] = {"index": self._table().index_type.lower()}
        details["milvus"] = "lite" if self._connection.lite else "server"
        if (folder := self._connection.folder) is not None:
            details["folder_bytes"] = bytes_in(folder)
        # Milvus Lite puts together every row that a condition counts: the fewer, the better.
        count, without = self._entities.count(""), self._entities.count(f"{HAS_VECTOR} == false")
        return BackendStats(
            rows=count,
            vectors=count - without,
            bytes={"coarse": None, "fine": None, "rows": None},
            details=details,
        )

    def close(self) -> None:
        self._collections.forget()
        self._connection.close()
