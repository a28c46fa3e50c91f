"""Rows as records of two Chroma collections, written so that no failure leaves half a row.

Chroma has no transactions, but writes one call to one collection as a whole. So a row's full vector has two *slots*,
the records ``0:ID`` and ``1:ID`` of the second collection, and the coarse row (the record ``ID`` of the first) says
which one holds. A write fills the slot that is not in use, then replaces the coarse row (that is the commit), then
empties the other slot: whatever fails on the way, the old row or the new one is there whole. Rows without a vector are
records ``-:ID`` of the second collection, which is never searched, so that they cost a search nothing; a coarse row of
the same id wins over them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.filters import Filter, IdIn
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix

from . import filters
from .collections import Pair

__all__ = ["IDS_PER_CALL", "RowStore", "parts"]

T = TypeVar("T")

IDS_PER_CALL = 5000
"""SQLite takes 32766 variables in a statement, and Chroma 5461 records in a call."""

_JSON, _SLOT, _HAS_DOCUMENT = "_json", "_slot", "_document"
_BARE = "-:"
_NOT_KNOWN: Mapping[str, int] = MappingProxyType({})


class RowStore:
    """Writes and reads rows. Takes no lock and lets Chroma's errors through: both are the backend's."""

    def __init__(self, pair: Callable[[], Pair], manifest: Callable[[], Manifest]) -> None:
        self._pair = pair
        self._manifest = manifest

    def write(self, rows: list[Row], committed: set[str]) -> None:
        """Insert or replace rows whole, at most one batch of Chroma's.

        ``committed`` grows by the ids of the rows that are in, also where a later step fails.
        """
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
            committed.update(row.id for row in without if row.id not in old)
        if with_vector:
            self._put(pair.coarse, with_vector, prefix(full, self._manifest().coarse_dims), old, "", slots)
            committed.update(row.id for row in with_vector)
        gone = [row.id for row in without if row.id in old]
        if gone:
            pair.coarse.delete(ids=gone)
            committed.update(gone)
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
            numbers = filters.ranks(row.metadata)
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
        vectors = np.zeros((n, self._manifest().fine_dims), dtype=np.float32)
        vectors[:, 0] = 1
        return vectors

    def delete(self, ids: Iterable[str]) -> int:
        """Remove rows; how many were there."""
        pair, removed = self._pair(), 0
        for part in parts(dict.fromkeys(ids), IDS_PER_CALL // 3):
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

    def repair(self) -> tuple[int, int]:
        """Remove records that no row uses; how many they were, and how many rows have lost their vector."""
        pair, used = self._pair(), set[str]()
        for part in parts(pair.coarse.get(include=[])["ids"], IDS_PER_CALL):
            stored = _metadata_by_id(pair.coarse.get(ids=part, include=["metadatas"]))
            used.update(f"{metadata[_SLOT]}:{id}" for id, metadata in stored.items())
        coarse = {record[2:] for record in used}
        records = pair.full.get(include=[])["ids"]
        orphans = [r for r in records if (r[2:] in coarse if r.startswith(_BARE) else r not in used)]
        for part in parts(orphans, IDS_PER_CALL):
            pair.full.delete(ids=part)
        return len(orphans), len(used.difference(records))

    def read(self, ids: list[str], *, vectors: bool, documents: bool) -> RowBatch:
        """The rows of these ids that exist, in Chroma's order; at most ``IDS_PER_CALL`` of them."""
        include = ["metadatas", "documents"] if documents else ["metadatas"]
        pair, bare = self._pair(), None
        coarse = pair.coarse.get(ids=ids, include=include)
        missing = set(ids).difference(coarse["ids"])
        if missing:
            bare = pair.full.get(ids=[_BARE + id for id in ids if id in missing], include=include)
        return self._batch(coarse, bare, vectors, documents)

    def _batch(self, coarse: Any, bare: Any, vectors: bool, documents: bool) -> RowBatch:
        ids, metadatas, texts = list(coarse["ids"]), list(coarse["metadatas"]), list(coarse["documents"] or [])
        has_vector = np.ones(len(ids), dtype=np.bool_)
        matrix = None
        if vectors:
            slots = {id: metadata[_SLOT] for id, metadata in zip(ids, metadatas, strict=True)}
            matrix, has_vector = self.full_vectors(ids, slots)
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

    def full_vectors(
        self, ids: list[str], slots: Mapping[str, int] = _NOT_KNOWN
    ) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Full vectors parallel to ``ids``, and which were there. ``slots``: which one holds, where that is known."""
        pair = self._pair()
        at: list[dict[str, int]] = [{}, {}]
        blocks: list[FloatArray] = []
        n = 0
        for part in parts(dict.fromkeys(ids), IDS_PER_CALL // 2):
            records = [f"{slot}:{id}" for slot in (0, 1) for id in part]
            answer = pair.full.get(ids=records, include=["embeddings"])
            for i, record in enumerate(answer["ids"], start=n):
                at[record[0] == "1"][record[2:]] = i
            if answer["ids"]:
                blocks.append(np.asarray(answer["embeddings"], dtype=np.float32))
            n += len(answer["ids"])
        # Both slots are filled only while a write is on its way, or after it was interrupted.
        unsure = [id for id in at[1] if id in at[0] and id not in slots]
        for part in parts(unsure, IDS_PER_CALL):
            stored = _metadata_by_id(pair.coarse.get(ids=part, include=["metadatas"]))
            slots = {**slots, **{id: metadata[_SLOT] for id, metadata in stored.items()}}
        position = at[0] | at[1]
        for id in at[0].keys() & at[1].keys():
            position[id] = at[slots.get(id, 1)][id]

        places = np.fromiter((position.get(id, -1) for id in ids), dtype=np.intp, count=len(ids))
        found = places >= 0
        out = np.zeros((len(ids), self._manifest().fine_dims), dtype=np.float32)
        if n:
            out[found] = np.concatenate(blocks)[places[found]]
        return out, found

    def coarse_vectors(self, ids: list[str]) -> tuple[list[str], FloatArray]:
        """Those of the ids that have a prefix, and the prefixes."""
        answer = self._pair().coarse.get(ids=ids, include=["embeddings"])
        return list(answer["ids"]), np.asarray(answer["embeddings"], dtype=np.float32)

    def coarse_ids(self, filter: Filter | None) -> list[str]:
        """Ids of the rows with a vector that match a resolved filter."""
        coarse = self._pair().coarse
        if isinstance(filter, IdIn):
            return [id for part in parts(filter.ids, IDS_PER_CALL) for id in coarse.get(ids=part, include=[])["ids"]]
        where = None if filter is None else filters.compile_where(filter)
        return list(coarse.get(where=where, include=[])["ids"])

    def bare_ids(self, filter: Filter | None) -> list[str]:
        """Ids of the rows without a vector that match a resolved filter."""
        pair = self._pair()
        if isinstance(filter, IdIn):
            asked = parts((_BARE + id for id in filter.ids), IDS_PER_CALL)
            records = [record for part in asked for record in pair.full.get(ids=part, include=[])["ids"]]
        else:
            where = filters.ROWS
            if filter is not None:
                where = {"$and": [where, filters.compile_where(filter)]}
            records = pair.full.get(where=where, include=[])["ids"]
        return self._not_hidden(pair, records)

    @staticmethod
    def _not_hidden(pair: Pair, records: Iterable[str]) -> list[str]:
        """Ids of bare records, without those that a coarse row wins over."""
        ids = [record.removeprefix(_BARE) for record in records]
        hidden = {id for part in parts(ids, IDS_PER_CALL) for id in pair.coarse.get(ids=part, include=[])["ids"]}
        return [id for id in ids if id not in hidden]

    def first(self, where: filters.Where) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and metadata of one row that matches, with a vector and without one, where there is any."""
        pair = self._pair()
        found = _metadata_by_id(pair.coarse.get(where=where, limit=1, include=["metadatas"]))
        for id in self._not_hidden(pair, pair.full.get(where=where, include=[])["ids"])[:1]:
            for metadata in pair.full.get(ids=[_BARE + id], include=["metadatas"])["metadatas"]:
                found[id] = metadata
        for id, metadata in found.items():
            yield id, json.loads(metadata[_JSON])


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    listed = list(items)
    for i in range(0, len(listed), size):
        yield listed[i : i + size]


def _metadata_by_id(answer: Any) -> dict[str, dict[str, Any]]:
    return dict(zip(answer["ids"], answer["metadatas"], strict=True))
