"""The ``chroma`` backend: prefixes in one Chroma collection, full vectors in a second one.

Chroma has no transactions, but writes one call to one collection as a whole. So a row's full vector has two *slots*,
the records ``0:ID`` and ``1:ID`` of the second collection, and the coarse row says which one holds. A write fills the
slot that is not in use, then replaces the coarse row (that is the commit), then empties the other slot: whatever
fails on the way, the old row or the new one is there whole. Rows without a vector are records ``-:ID`` of the second
collection, which is never searched, so that they cost a search nothing; a coarse row of the same id wins over them.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CollectionNotFound, FilterError
from mrl_retrieval.filters import Filter, IdIn, lookup, order_error
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.scoring import cosine_scores, top_k
from mrl_retrieval.two_stage import Candidates

from . import _chroma_filters as filters
from ._chroma_client import Connection
from ._chroma_collections import Collections, Pair

__all__ = ["ChromaBackend"]

logger = logging.getLogger(__name__)

# SQLite takes 32766 variables in a statement; a get of vectors names two records per id.
_IDS_PER_CALL = 5000
# Asking for fewer results saves under 2 ms, and asking for this many makes small collections exact.
_LEAST_RESULTS = 1000

_JSON, _SLOT, _HAS_DOCUMENT = "_json", "_slot", "_document"
_BARE = "-:"
_Fetch = Callable[[list[str]], tuple[list[str], FloatArray]]

_LOCKS: dict[tuple[str, str], threading.RLock] = {}
_LOCKS_LOCK = threading.Lock()


class ChromaBackend(Backend):
    """One collection of ours in a Chroma database.

    Options: ``ef_search``, ``ef_construction`` and ``max_neighbors`` of the coarse HNSW graph, fixed when the
    collection is made; for a server also ``api_key``, ``headers``, ``tenant``, ``database`` and ``timeout`` (seconds).
    """

    capabilities = Capabilities(filter_operators=filters.OPERATORS, approximate_coarse=True)
    options = frozenset(
        {"ef_search", "ef_construction", "max_neighbors", "api_key", "headers", "tenant", "database", "timeout"}
    )

    def __init__(self, address: Address, connection: Connection, graph: dict[str, int]) -> None:
        super().__init__(address)
        self.capabilities = replace(type(self).capabilities, persistent=not address.in_memory)
        self._connection = connection
        self._collections = Collections(connection, address.collection, graph)
        with _LOCKS_LOCK:
            self._write_lock = _LOCKS.setdefault((connection.key, address.collection), threading.RLock())

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> ChromaBackend:
        """Connect at the first use; nothing is created before the first write.

        Raises:
            NotACollection: the folder is a file, or not empty and no Chroma database.
            TypeError: an unknown option.
        """
        unknown = options.keys() - cls.options
        if unknown:
            raise TypeError(
                f"the chroma backend takes {', '.join(sorted(cls.options))}; got {', '.join(sorted(unknown))}"
            )
        names = ("ef_search", "ef_construction", "max_neighbors")
        graph = {name: options.pop(name) for name in names if options.get(name) is not None}
        return cls(address, Connection(address, **options), graph)

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
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
            self._collections.drop()

    def _pair(self) -> Pair:
        """The two Chroma collections.

        Raises:
            CollectionNotFound: they are not there.
        """
        pair = self._collections.pair()
        if pair is None:
            self._manifest = None
            raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
        return pair

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        rows = list(batch.rows())
        with self._write_lock, self._connection.errors("writing rows"):
            size = min(_IDS_PER_CALL, self._collections.max_batch())
            for i in range(0, len(rows), size):
                self._write(rows[i : i + size])

    def _write(self, rows: list[Row]) -> None:
        pair, ids = self._pair(), [row.id for row in rows]
        old = _metadata_by_id(pair.coarse.get(ids=ids, include=["metadatas"]))
        bare = _metadata_by_id(pair.full.get(ids=[_BARE + id for id in ids], include=["metadatas"]))
        slots = {row.id: 1 - old[row.id][_SLOT] if row.id in old else 0 for row in rows}
        with_vector = [row for row in rows if row.vector is not None]
        without = [row for row in rows if row.vector is None]

        if with_vector:
            full = np.array([row.vector for row in with_vector], dtype=np.float32)
            # The terms say nothing, but written they replace a stale list that Chroma may have left under a row number.
            none = [{filters.TERMS: ["vector"]}] * len(full)
            pair.full.upsert(ids=[f"{slots[row.id]}:{row.id}" for row in with_vector], embeddings=full, metadatas=none)
        if without:
            self._put(pair.full, without, self._placeholders(len(without)), bare, _BARE, slots)
        if with_vector:
            self._put(pair.coarse, with_vector, prefix(full, self.manifest.coarse_dims), old, "", slots)
        gone = [row.id for row in without if row.id in old]
        if gone:
            pair.coarse.delete(ids=gone)
        unused = [f"{old[id][_SLOT]}:{id}" for id in ids if id in old]
        unused += [_BARE + row.id for row in with_vector if _BARE + row.id in bare]
        if unused:
            pair.full.delete(ids=unused)

    def _put(
        self,
        collection: Any,
        rows: list[Row],
        vectors: FloatArray,
        old: dict[str, dict[str, Any]],
        before: str,
        slots: dict[str, int],
    ) -> None:
        """Upsert whole rows. Chroma merges the metadata of an id that exists: its old keys are unset by name."""
        metadatas = []
        for row in rows:
            numbers = filters.number_keys(row.metadata)
            stale = {key: None for key in old.get(before + row.id, {}) if key.startswith(filters.NUMBER)}
            metadatas.append(
                {
                    _JSON: json.dumps(row.metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False),
                    _SLOT: slots[row.id],
                    _HAS_DOCUMENT: int(row.document is not None),
                    filters.TERMS: filters.terms(row.metadata),
                    **stale,
                    **numbers,
                }
            )
        collection.upsert(
            ids=[before + row.id for row in rows],
            embeddings=vectors,
            documents=[row.document or "" for row in rows],
            metadatas=metadatas,
        )

    def _placeholders(self, n: int) -> FloatArray:
        """Chroma wants a vector for every record; these are never looked at."""
        vectors = np.zeros((n, self.manifest.fine_dims), dtype=np.float32)
        vectors[:, 0] = 1
        return vectors

    def delete(self, ids: Sequence[str]) -> int:
        removed = 0
        with self._write_lock, self._connection.errors("deleting rows"):
            pair = self._pair()
            for part in _parts(dict.fromkeys(ids), _IDS_PER_CALL // 3):
                records = [f"{slot}:{id}" for id in part for slot in (0, 1)]
                found = set(pair.coarse.get(ids=part, include=[])["ids"])
                bare = set(pair.full.get(ids=[_BARE + id for id in part], include=[])["ids"])
                removed += len(found | {id.removeprefix(_BARE) for id in bare})
                # The bare rows first: a coarse row hides them, and must not uncover an older one by going.
                if bare:
                    pair.full.delete(ids=sorted(bare))
                if found:
                    pair.coarse.delete(ids=sorted(found))
                vectors = pair.full.get(ids=records, include=[])["ids"]
                if vectors:
                    pair.full.delete(ids=vectors)
        return removed

    def repair(self) -> None:
        """Remove what interrupted writes left behind. Call it while nobody else writes."""
        with self._write_lock, self._connection.errors("repairing"):
            pair, used = self._pair(), set[str]()
            for part in _parts(pair.coarse.get(include=[])["ids"], _IDS_PER_CALL):
                stored = _metadata_by_id(pair.coarse.get(ids=part, include=["metadatas"]))
                used.update(f"{metadata[_SLOT]}:{id}" for id, metadata in stored.items())
            coarse = {record[2:] for record in used}
            records = pair.full.get(include=[])["ids"]
            orphans = [r for r in records if (r[2:] in coarse if r.startswith(_BARE) else r not in used)]
            for part in _parts(orphans, _IDS_PER_CALL):
                pair.full.delete(ids=part)
            self._collections.drop_orphans()
            lost = len(used.difference(records))
            if lost:
                logger.warning("%s: %d rows have no full vector; index them again", self.address, lost)
            logger.info("%s: removed %d records of interrupted writes", self.address, len(orphans))

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        found: dict[str, Row] = {}
        for batch in self._read(dict.fromkeys(ids), vectors, True, _IDS_PER_CALL):
            found.update((row.id, row) for row in batch.rows())
        return [found.get(id) for id in ids]

    def count(self, filter: Filter | None = None) -> int:
        with self._connection.errors("counting"):
            if filter is None:
                return int(self._pair().coarse.count()) + len(self._bare_ids(None))
            pushed = self.resolve_filter(filter)
            return len(self._coarse_ids(pushed)) + len(self._bare_ids(pushed))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        with self._connection.errors("listing rows"):
            pushed = self.resolve_filter(filter)
            # All ids are read first: pages by offset would shift under a writer's feet.
            ids = self._coarse_ids(pushed) + self._bare_ids(pushed)
        yield from self._read(ids, vectors, documents, batch_size)

    def _read(self, ids: Iterable[str], vectors: bool, documents: bool, batch_size: int) -> Iterator[RowBatch]:
        """The rows of these ids that exist, in batches."""
        include = ["metadatas", "documents"] if documents else ["metadatas"]
        for part in _parts(ids, min(batch_size, _IDS_PER_CALL)):
            with self._connection.errors("reading rows"):
                pair = self._pair()
                coarse = pair.coarse.get(ids=part, include=include)
                missing = set(part).difference(coarse["ids"])
                bare = None
                if missing:
                    bare = pair.full.get(ids=[_BARE + id for id in part if id in missing], include=include)
                yield self._batch(coarse, bare, vectors, documents)

    def _batch(self, coarse: Any, bare: Any, vectors: bool, documents: bool) -> RowBatch:
        ids, metadatas, texts = list(coarse["ids"]), list(coarse["metadatas"]), list(coarse["documents"] or [])
        has_vector = np.ones(len(ids), dtype=np.bool_)
        matrix = None
        if vectors:
            slots = {id: metadata[_SLOT] for id, metadata in zip(ids, metadatas, strict=True)}
            matrix, has_vector = self._full_vectors(ids, slots)
        if bare is not None:
            ids += [id.removeprefix(_BARE) for id in bare["ids"]]
            metadatas += bare["metadatas"]
            texts += bare["documents"] or []
            has_vector = np.concatenate([has_vector, np.zeros(len(bare["ids"]), dtype=np.bool_)])
            if matrix is not None:
                matrix = np.concatenate([matrix, np.zeros((len(bare["ids"]), matrix.shape[1]), dtype=np.float32)])
        return RowBatch(
            ids=ids,
            documents=[t if m[_HAS_DOCUMENT] else None for t, m in zip(texts, metadatas, strict=True)]
            if documents
            else [None] * len(ids),
            metadatas=[json.loads(metadata[_JSON]) for metadata in metadatas],
            vectors=matrix,
            has_vector=has_vector,
        )

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        with self._connection.errors("reading vectors"):
            return self._full_vectors(list(ids), {})

    def _full_vectors(self, ids: list[str], slots: dict[str, int]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Full vectors parallel to ``ids``, and which were there. ``slots``: which one holds, where that is known."""
        pair = self._pair()
        at: list[dict[str, int]] = [{}, {}]
        blocks: list[FloatArray] = []
        n = 0
        for part in _parts(dict.fromkeys(ids), _IDS_PER_CALL // 2):
            answer = pair.full.get(ids=[f"{slot}:{id}" for slot in (0, 1) for id in part], include=["embeddings"])
            for i, record in enumerate(answer["ids"], start=n):
                at[record[0] == "1"][record[2:]] = i
            if answer["ids"]:
                blocks.append(np.asarray(answer["embeddings"], dtype=np.float32))
            n += len(answer["ids"])
        # Both slots are filled only while a write is on its way, or after it was interrupted.
        unsure = [id for id in at[1] if id in at[0] and id not in slots]
        for part in _parts(unsure, _IDS_PER_CALL):
            stored = _metadata_by_id(pair.coarse.get(ids=part, include=["metadatas"]))
            slots = slots | {id: metadata[_SLOT] for id, metadata in stored.items()}
        position = at[0] | at[1]
        for id in at[0].keys() & at[1].keys():
            position[id] = at[slots.get(id, 1)][id]

        places = np.fromiter((position.get(id, -1) for id in ids), dtype=np.intp, count=len(ids))
        found = places >= 0
        out = np.zeros((len(ids), self.manifest.fine_dims), dtype=np.float32)
        if n:
            out[found] = np.concatenate(blocks)[places[found]]
        return out, found

    def _coarse_vectors(self, ids: list[str]) -> tuple[list[str], FloatArray]:
        answer = self._pair().coarse.get(ids=ids, include=["embeddings"])
        return list(answer["ids"]), np.asarray(answer["embeddings"], dtype=np.float32)

    def _coarse_ids(self, filter: Filter | None) -> list[str]:
        """Ids of the rows with a vector that match a resolved filter."""
        coarse = self._pair().coarse
        if isinstance(filter, IdIn):
            return [id for part in _parts(filter.ids, _IDS_PER_CALL) for id in coarse.get(ids=part, include=[])["ids"]]
        where = None if filter is None else filters.compile_where(filter)
        return list(coarse.get(where=where, include=[])["ids"])

    def _bare_ids(self, filter: Filter | None) -> list[str]:
        """Ids of the rows without a vector that match a resolved filter."""
        pair = self._pair()
        if isinstance(filter, IdIn):
            asked = _parts((_BARE + id for id in filter.ids), _IDS_PER_CALL)
            records = [record for part in asked for record in pair.full.get(ids=part, include=[])["ids"]]
        else:
            where = filters.ROWS
            if filter is not None:
                where = {"$and": [where, filters.compile_where(filter)]}
            records = pair.full.get(where=where, include=[])["ids"]
        ids = [record.removeprefix(_BARE) for record in records]
        hidden = {id for part in _parts(ids, _IDS_PER_CALL) for id in pair.coarse.get(ids=part, include=[])["ids"]}
        return [id for id in ids if id not in hidden]

    # -- search --------------------------------------------------------------------------------------------

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        if not len(vectors):
            return []
        with self._connection.errors("searching"):
            if isinstance(filter, IdIn):
                return self._search_listed(vectors, limit, filter)
            where = None if filter is None else filters.compile_where(filter)
            asked = max(limit, _LEAST_RESULTS)
            found = self._query(vectors, asked, limit, where=where)
            shortest = min(n for _, n in found)
            if shortest < asked:
                # Either there are no more, or the graph has parts that cannot be reached (many equal vectors).
                there = self._coarse_ids(filter) if filter is not None else None
                if shortest < (self._pair().coarse.count() if there is None else len(there)):
                    return self._score(
                        vectors, limit, self._coarse_ids(None) if there is None else there, self._coarse_vectors
                    )
            return [candidates for candidates, _ in found]

    def _search_listed(self, vectors: FloatArray, limit: int, filter: IdIn) -> list[Candidates]:
        """Search among these ids only. Chroma fails on an unknown one, so they are looked up first."""
        ids = self._coarse_ids(filter)
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in vectors]
        for part in _parts(ids, _IDS_PER_CALL):
            if len(part) <= _LEAST_RESULTS:
                found = self._score(vectors, limit, part, self._coarse_vectors)
            else:
                asked = min(len(part), max(limit, _LEAST_RESULTS))
                answers = self._query(vectors, asked, limit, ids=part)
                found = [candidates for candidates, _ in answers]
                if min(n for _, n in answers) < asked:
                    found = self._score(vectors, limit, part, self._coarse_vectors)
            best = [_better(a, b, limit) for a, b in zip(best, found, strict=True)]
        return best

    def _query(self, vectors: FloatArray, asked: int, limit: int, **among: Any) -> list[tuple[Candidates, int]]:
        """The best ``limit`` of ``asked`` results for each query, and how many results there were."""
        answer = self._pair().coarse.query(query_embeddings=vectors, n_results=asked, include=["distances"], **among)
        found = []
        for ids, distances in zip(answer["ids"], answer["distances"], strict=True):
            scores = np.float32(1) - np.asarray(distances, dtype=np.float32)
            found.append((Candidates(*top_k(scores, ids, limit)), len(ids)))
        return found

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        def fetch(ids: list[str]) -> tuple[list[str], FloatArray]:
            matrix, found = self._full_vectors(ids, {})
            return [id for id, there in zip(ids, found, strict=True) if there], matrix[found]

        with self._connection.errors("searching exactly"):
            return self._score(vectors, limit, self._coarse_ids(filter), fetch)

    def _score(self, queries: FloatArray, limit: int, ids: list[str], fetch: _Fetch) -> list[Candidates]:
        """The true best among ``ids``: read their vectors and score them here."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in queries]
        for part in _parts(ids, _IDS_PER_CALL // 2):
            found, matrix = fetch(part)
            if found:
                new = [Candidates(*top_k(cosine_scores(query, matrix), found, limit)) for query in queries]
                best = [_better(a, b, limit) for a, b in zip(best, new, strict=True)]
        return best

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
        pair = self._pair()
        for condition, where in filters.order_offenders(filter):
            for collection in (pair.coarse, pair.full):
                answer = collection.get(where=where, limit=1, include=["metadatas"])
                for record, metadata in zip(answer["ids"], answer["metadatas"], strict=True):
                    id = record if collection is pair.coarse else record.removeprefix(_BARE)
                    found = lookup(json.loads(metadata[_JSON]), condition.path)
                    raise order_error(condition, id, found) or FilterError(f"{condition.name!r} of {id!r} has no order")

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        with self._connection.errors("counting"):
            pair = self._pair()
            vectors = int(pair.coarse.count())
            return BackendStats(
                rows=vectors + len(self._bare_ids(None)),
                vectors=vectors,
                bytes={"coarse": None, "fine": None, "rows": None},
                details={"index": "hnsw", **self._collections.graph(pair), **self._size()},
            )

    def _size(self) -> dict[str, int]:
        folder = self._connection.folder
        if folder is None:
            return {}
        return {"folder_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())}

    def close(self) -> None:
        self._collections.forget()
        self._connection.close()


def _parts(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    listed = list(ids)
    for i in range(0, len(listed), size):
        yield listed[i : i + size]


def _metadata_by_id(answer: Any) -> dict[str, dict[str, Any]]:
    return dict(zip(answer["ids"], answer["metadatas"], strict=True))


def _better(a: Candidates, b: Candidates, limit: int) -> Candidates:
    """The best of two lists of candidates that have no id in common."""
    return Candidates(*top_k(np.concatenate([a.scores, b.scores]), a.ids + b.ids, limit))
