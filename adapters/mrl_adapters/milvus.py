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
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CollectionNotFound
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.scoring import cosine_scores, top_k
from mrl_retrieval.two_stage import Candidates

from . import _milvus_filters as filters
from . import _milvus_rows as rows
from ._milvus_client import Connection, NotLoaded
from ._milvus_collections import COARSE, DOCUMENT, FULL, HAS_VECTOR, METADATA, PK, Collections, Table
from ._milvus_options import EXACT_INDEXES, QUANTIZATION, Options

__all__ = ["MilvusBackend"]

_MOST_RESULTS = 16_384
"""What Milvus gives back at most for one query vector, and for one query."""
_RESULTS_PER_CALL = 65_536
_KEYS_PER_CALL = 5000
_ROWS_PER_WRITE = 1000
_BYTES_PER_CALL = 16 * 2**20
"""A server takes messages of 64 MiB."""
_FLUSH_AT = 1000
"""Milvus Lite searches rows that are in memory only about thirty times slower than those on disk."""
_LEAST_EF = 400

_HAS_VECTOR = f"{HAS_VECTOR} == true"


class MilvusBackend(Backend):
    """One collection of ours in Milvus.

    Options: ``index_type``, ``index_params``, ``coarse_quantization`` and ``search_params`` of the coarse index,
    ``timeout`` (seconds); for a folder ``lock_timeout`` (seconds); for a server ``token`` or ``user`` and ``password``,
    ``db_name``, ``num_shards``, ``replica_number`` and ``tls``.
    """

    capabilities = Capabilities(filter_operators=filters.OPERATORS, exact_search=True, quantization=QUANTIZATION)
    options = frozenset(Options.__dataclass_fields__)

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._options = options
        self._connection = Connection(address, options)
        self._collections = Collections(self._connection, address.collection)
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

    def collections(self) -> list[str]:
        return self._collections.names()

    def drop(self) -> None:
        self._manifest = None
        self._collections.drop()

    def _table(self) -> Table:
        """The collection in Milvus.

        Raises:
            CollectionNotFound: it is not there.
        """
        table = self._collections.table()
        if table is None:
            self._manifest = None
            raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
        self._declare(table.index_type)
        return table

    def _call(self, doing: str, method: str, **arguments: Any) -> Any:
        """One call about the collection; loads it again where Milvus was restarted."""
        name = self._table().name
        try:
            try:
                return self._connection.call(doing, method, collection_name=name, **arguments)
            except NotLoaded:
                self._collections.load()
                return self._connection.call(doing, method, collection_name=name, **arguments)
        except CollectionNotFound:
            self._collections.forget()
            self._manifest = None
            raise

    def _query(self, doing: str, expression: str, fields: list[str], **arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call(
            doing, "query", filter=expression, output_fields=fields, consistency_level="Strong", **arguments
        )
        return found

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        table, manifest = self._table(), self.manifest
        with self._connection.place.writing:
            part: list[dict[str, Any]] = []
            size = 0
            for row in batch.rows():
                entity, fits = rows.encode(row, manifest.coarse_dims, manifest.fine_dims, table.listed_terms)
                if not fits:
                    self._collections.note_too_many_terms()
                weight = rows.entity_size(entity)
                if part and (len(part) == _ROWS_PER_WRITE or size + weight > _BYTES_PER_CALL):
                    self._write(part)
                    part, size = [], 0
                part.append(entity)
                size += weight
            if part:
                self._write(part)

    def _write(self, entities: list[dict[str, Any]]) -> None:
        self._call("writing rows", "upsert", data=entities)
        self._unflushed(len(entities))

    def delete(self, ids: Sequence[str]) -> int:
        removed = 0
        with self._connection.place.writing:
            for keys in rows.parts(dict.fromkeys(map(rows.key_of, ids)), _KEYS_PER_CALL):
                found = [str(entity[PK]) for entity in self._query("deleting rows", filters.key_in(PK, keys), [PK])]
                if found:
                    self._call("deleting rows", "delete", ids=found)
                    self._unflushed(len(found))
                removed += len(found)
        return removed

    def _unflushed(self, more: int) -> None:
        name, unflushed = self._table().name, self._connection.place.unflushed
        unflushed[name] = unflushed.get(name, _FLUSH_AT) + more

    def _settle(self) -> None:
        """Have Milvus Lite move many new rows to disk, before they are searched."""
        if self._connection.lite and self._connection.place.unflushed.get(self._table().name, _FLUSH_AT) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        if self._connection.exists() and self._connection.lite and (table := self._collections.table()) is not None:
            self._call("flushing", "flush")
            self._connection.place.unflushed[table.name] = 0

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        found = {row.id: row for batch in self._read(list(dict.fromkeys(ids)), vectors, True) for row in batch.rows()}
        return [found.get(id) for id in ids]

    def _read(self, ids: list[str], vectors: bool, documents: bool) -> Iterator[RowBatch]:
        """The rows of these ids that exist, batch by batch."""
        fields, dims = self._fields(vectors, documents), self.manifest.fine_dims
        for keys in rows.parts(map(rows.key_of, ids), self._page(vectors, _ROWS_PER_WRITE)):
            found = self._query("reading rows", filters.key_in(PK, keys), fields)
            if found:
                yield rows.decode(found, dims, vectors=vectors, documents=documents)

    def count(self, filter: Filter | None = None) -> int:
        pushed = self.resolve_filter(filter)
        if isinstance(pushed, IdIn):
            return sum(
                len(self._query("counting", filters.key_in(PK, keys), [PK]))
                for keys in rows.parts(map(rows.key_of, pushed.ids), _KEYS_PER_CALL)
            )
        return self._count("" if pushed is None else self._compiled(pushed))

    def _count(self, expression: str) -> int:
        return int(self._query("counting", expression, ["count(*)"])[0]["count(*)"])

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        pushed = self.resolve_filter(filter)
        size, dims = self._page(vectors, batch_size), self.manifest.fine_dims
        if isinstance(pushed, IdIn):
            for ids in rows.parts(sorted(pushed.ids), size):
                yield from self._read(ids, vectors, documents)
            return
        for page in self._pages(pushed, self._fields(vectors, documents), size):
            yield rows.decode(page, dims, vectors=vectors, documents=documents)

    def _pages(self, filter: Filter | None, fields: list[str], size: int) -> Iterator[list[dict[str, Any]]]:
        """All entities that match, in the order of their keys, so that a writer does not shift the pages."""
        self._settle()
        conditions = [] if filter is None else [f"({self._compiled(filter)})"]
        last = ""
        while True:
            expression = " and ".join([f'{PK} > "{last}"', *conditions])
            page = self._query(
                "listing rows", expression, fields, limit=size, iterator="True", reduce_stop_for_best="True"
            )
            if not page:
                return
            # A Milvus Lite server that was killed may hold a row twice, see _milvus_lite.
            yield list({entity[PK]: entity for entity in page}.values())
            last = max(str(entity[PK]) for entity in page)

    def _page(self, vectors: bool, wanted: int) -> int:
        """How many rows to ask for at once."""
        most = _BYTES_PER_CALL // (4 * self.manifest.fine_dims) if vectors else _KEYS_PER_CALL
        return max(1, min(wanted, most, _KEYS_PER_CALL))

    @staticmethod
    def _fields(vectors: bool, documents: bool) -> list[str]:
        return [PK, HAS_VECTOR, METADATA, *([FULL] if vectors else []), *([DOCUMENT] if documents else [])]

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        dims = self.manifest.fine_dims
        at = {rows.key_of(id): i for i, id in enumerate(ids)}
        out, found = np.zeros((len(ids), dims), dtype=np.float32), np.zeros(len(ids), dtype=np.bool_)
        for keys in rows.parts(at, self._page(True, _KEYS_PER_CALL)):
            entities = self._query("reading vectors", filters.key_in(PK, keys), [PK, HAS_VECTOR, FULL])
            entities = [entity for entity in entities if entity[HAS_VECTOR]]
            places = [at[entity[PK]] for entity in entities]
            out[places] = rows.vectors_of(entities, FULL, dims)
            found[places] = True
        return out, found

    # -- search --------------------------------------------------------------------------------------------

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        return self._search(COARSE, vectors, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        return self._search(FULL, vectors, limit, filter)

    def _search(self, field: str, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """The best rows by one vector field. A filter is one that Milvus can say, or a list of ids."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in vectors]
        if not len(vectors):
            return best
        self._settle()
        if not isinstance(filter, IdIn):
            expression = _HAS_VECTOR if filter is None else f"{_HAS_VECTOR} and ({self._compiled(filter)})"
            return self._search_where(field, vectors, limit, expression)
        for keys in rows.parts(map(rows.key_of, sorted(filter.ids)), _KEYS_PER_CALL):
            expression = f"{_HAS_VECTOR} and {filters.key_in(PK, keys)}"
            found = self._search_where(field, vectors, limit, expression)
            best = [_better(a, b, limit) for a, b in zip(best, found, strict=True)]
        return best

    def _search_where(self, field: str, vectors: FloatArray, limit: int, expression: str) -> list[Candidates]:
        if limit > _MOST_RESULTS:
            there = self._count(expression)
            if there > _MOST_RESULTS:
                return self._score_all(field, vectors, limit, expression)
            limit = max(1, there)
        queries = vectors if vectors.shape[1] > 1 else np.pad(vectors, ((0, 0), (0, 1)))
        answers: list[list[tuple[str, float]]] = []
        for part in rows.parts(queries, max(1, _RESULTS_PER_CALL // limit)):
            answer = self._call(
                "searching",
                "search",
                data=part,
                anns_field=field,
                limit=limit,
                filter=expression,
                output_fields=[PK],
                search_params={"metric_type": "IP", "params": self._search_params(field, limit)},
                consistency_level="Strong",
            )
            answers += [[(str(hit[PK]), float(hit["distance"])) for hit in hits] for hits in answer]
        shortest = min(map(len, answers))
        if (
            shortest < limit
            and field == COARSE
            and self._table().index_type not in EXACT_INDEXES
            and shortest < self._count(expression)
        ):
            # The graph has parts that the filter cuts off, or not every list of the index was looked into.
            return self._score_all(field, vectors, limit, expression)
        return self._candidates(answers, limit)

    def _search_params(self, field: str, limit: int) -> dict[str, Any]:
        table = self._table()
        if field == FULL:
            return {}
        params: dict[str, Any] = {}
        if table.index_type.startswith("HNSW"):
            params["ef"] = _LEAST_EF
        if table.index_type.startswith("IVF"):
            params["nprobe"] = 32
        params |= table.search_params
        if "ef" in params:
            params["ef"] = max(int(params["ef"]), limit)  # Milvus refuses less
        return params

    def _candidates(self, answers: list[list[tuple[str, float]]], limit: int) -> list[Candidates]:
        """Ids for keys, best first."""
        hashed = dict.fromkeys(key for hits in answers for key, _ in hits if rows.is_hashed(key))
        ids: dict[str, str] = {}
        for keys in rows.parts(hashed, _ROWS_PER_WRITE):
            for entity in self._query("reading ids", filters.key_in(PK, keys), [PK, METADATA]):
                ids[str(entity[PK])] = rows.id_of(entity)
        found = []
        for hits in answers:
            # A row may have been deleted since it was found, or be there twice as in _pages.
            known = [(ids.get(key, ""), s) if rows.is_hashed(key) else (key, s) for key, s in hits]
            alive = {id: score for id, score in known if id}
            scores = np.array(list(alive.values()), dtype=np.float32)
            found.append(Candidates(*top_k(scores, list(alive), limit)))
        return found

    def _score_all(self, field: str, queries: FloatArray, limit: int, expression: str) -> list[Candidates]:
        """The true best of all that match: read their vectors and score them here."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in queries]
        size, last = self._page(True, _KEYS_PER_CALL), ""
        while True:
            page = self._query(
                "searching",
                f'{PK} > "{last}" and ({expression})',
                [PK, METADATA, field],
                limit=size,
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not page:
                return best
            last = max(str(entity[PK]) for entity in page)
            ids = [rows.id_of(entity) for entity in page]
            matrix = rows.vectors_of(page, field, queries.shape[1])
            new = [Candidates(*top_k(cosine_scores(query, matrix), ids, limit)) for query in queries]
            best = [_better(a, b, limit) for a, b in zip(best, new, strict=True)]

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        return isinstance(filter, IdIn) or filters.can_compile(filter)

    def _compiled(self, filter: Filter) -> str:
        return filters.compile_filter(filter, self._table().listed_terms)

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
            fields = self._fields(vectors=False, documents=False)
            for entity in self._query("checking the filter", filters.either(wrong), fields, limit=1):
                (row,) = rows.decode([entity], self.manifest.fine_dims, vectors=False, documents=False).rows()
                check_order(filter, row.id, row.metadata)

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        table = self._table()
        details: dict[str, Any] = {"index": table.index_type.lower()}
        details["milvus"] = "lite" if self._connection.lite else "server"
        if (folder := self._connection.folder) is not None:
            details["folder_bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return BackendStats(
            rows=self._count(""),
            vectors=self._count(_HAS_VECTOR),
            bytes={"coarse": None, "fine": None, "rows": None},
            details=details,
        )

    def close(self) -> None:
        self._collections.forget()
        self._connection.close()


def _better(a: Candidates, b: Candidates, limit: int) -> Candidates:
    """The best of two lists of candidates that have no id in common."""
    return Candidates(*top_k(np.concatenate([a.scores, b.scores]), a.ids + b.ids, limit))
