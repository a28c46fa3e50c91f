"""Searches in Milvus by one of the two vectors, filled up from all rows where its index or its limits fall short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.scoring import cosine_scores, top_k
from mrl_retrieval.two_stage import Candidates

from . import filters, rows
from .collections import COARSE, FULL, HAS_VECTOR, METADATA, PK, Table
from .entities import BYTES_PER_CALL, KEYS_PER_CALL, ROWS_PER_WRITE, Entities
from .options import EXACT_INDEXES

__all__ = ["Search"]

_MOST_RESULTS = 16_384
"""What Milvus gives back at most for one query vector, and for one query."""
_RESULTS_PER_CALL = 65_536
_LEAST_EF = 400

_HAS_ONE = f"{HAS_VECTOR} == true"


class Search:
    """One search, of any number of queries, by the vector field ``field``.

    Args:
        carry: have the full vectors of what is found come along, where they fit into a message: Milvus Lite has put
            them together anyway, and a server is spared a request.
    """

    def __init__(self, entities: Entities, field: str, *, carry: bool = False) -> None:
        self._entities = entities
        self._field = field
        self._carry = carry
        self.carried: dict[str, npt.NDArray[np.float32]] = {}
        """Full vectors by id, of what was found last; none where it was looked for in several parts."""

    def among(self, vectors: FloatArray, limit: int, keys: Iterable[str]) -> list[Candidates]:
        """The best of the rows with these primary keys, best first, for each of ``(Q, dims)``."""
        parts = list(rows.parts(keys, KEYS_PER_CALL))
        if len(parts) == 1:
            return self.where(vectors, limit, filters.key_in(PK, parts[0]))
        self.carried = {}
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in vectors]
        plain = Search(self._entities, self._field)  # most of what each part carried would be for nothing
        for part in parts:
            found = plain.where(vectors, limit, filters.key_in(PK, part))
            best = [_better(a, b, limit) for a, b in zip(best, found, strict=True)]
        return best

    def where(self, vectors: FloatArray, limit: int, condition: str) -> list[Candidates]:
        """The best of the rows for which a condition holds, or of all for an empty one."""
        self.carried = {}  # of an earlier search: the rows may have been written again since
        if not len(vectors):
            return []
        self._entities.settle()
        if self._entities.may_lack_vectors():
            return self._where(vectors, limit, f"{_HAS_ONE} and ({condition})" if condition else _HAS_ONE)
        found = self._where(vectors, limit, condition)
        if self._entities.may_lack_vectors():  # the first such row was written meanwhile
            return self.where(vectors, limit, condition)
        return found

    def _where(self, vectors: FloatArray, limit: int, expression: str) -> list[Candidates]:
        if limit > _MOST_RESULTS:
            there = self._entities.count(expression)
            if there > _MOST_RESULTS:
                return self._score_all(vectors, limit, expression)
            limit = max(1, there)
        answers = self._ask(vectors, limit, expression)
        shortest = min(map(len, answers))
        if (
            shortest < limit
            and self._field == COARSE
            and self._entities.table().index_type not in EXACT_INDEXES
            and shortest < self._entities.count(expression)
        ):
            # The graph has parts that the filter cuts off, or not every list of the index was looked into.
            return self._score_all(vectors, limit, expression)
        return self._candidates(answers, limit)

    def _ask(self, vectors: FloatArray, limit: int, expression: str) -> list[list[dict[str, Any]]]:
        table = self._entities.table()
        queries = vectors if vectors.shape[1] > 1 else np.pad(vectors, ((0, 0), (0, 1)))
        carry = self._carry and 4 * table.manifest.fine_dims * limit * len(queries) <= BYTES_PER_CALL
        answers: list[list[dict[str, Any]]] = []
        for part in rows.parts(queries, max(1, _RESULTS_PER_CALL // limit)):
            answers += self._entities.call(
                "searching",
                "search",
                data=part,
                anns_field=self._field,
                limit=limit,
                filter=expression,
                output_fields=[FULL] if carry else [PK],
                search_params={"metric_type": "IP", "params": self._params(table, limit)},
                consistency_level="Strong",
            )
        return answers

    def _params(self, table: Table, limit: int) -> dict[str, Any]:
        if self._field == FULL:
            return {}
        params: dict[str, Any] = {}
        if table.index_type.startswith("HNSW"):
            params["ef"] = _LEAST_EF
        if table.index_type.startswith("IVF"):
            params["nprobe"] = 32
        params |= table.search_params
        if "ef" in params:
            params["ef"] = max(params["ef"], limit)  # Milvus refuses less
        return params

    def _candidates(self, answers: list[list[dict[str, Any]]], limit: int) -> list[Candidates]:
        """Ids for keys, best first."""
        ids = self._ids_of(str(hit[PK]) for hits in answers for hit in hits)
        dims = self._entities.table().manifest.fine_dims
        found = []
        for hits in answers:
            # A row may have been deleted since it was found, or be there twice as in Entities.pages.
            alive: dict[str, float] = {}
            for hit in hits:
                id = ids.get(str(hit[PK]))
                if id is None:
                    continue
                alive[id] = float(hit["distance"])
                if id not in self.carried and (full := hit["entity"].get(FULL)) is not None:
                    self.carried[id] = np.array(full[:dims], dtype=np.float32)
            scores = np.array(list(alive.values()), dtype=np.float32)
            found.append(Candidates(*top_k(scores, list(alive), limit)))
        return found

    def _ids_of(self, keys: Iterable[str]) -> Mapping[str, str]:
        """The id of each primary key; of a hashed one only where the row is still there."""
        ids = {key: key for key in keys}
        if hashed := [key for key in ids if rows.is_hashed(key)]:
            for key in hashed:
                del ids[key]
            for page in self._entities.with_keys("reading ids", hashed, [PK, METADATA], ROWS_PER_WRITE):
                ids |= {str(entity[PK]): rows.id_of(entity) for entity in page}
        return ids

    def _score_all(self, queries: FloatArray, limit: int, expression: str) -> list[Candidates]:
        """The true best of all that match: read their vectors and score them here."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in queries]
        dims = queries.shape[1]
        size = max(1, min(KEYS_PER_CALL, BYTES_PER_CALL // (4 * dims)))
        for page in self._entities.pages("searching", expression, [PK, METADATA, self._field], size):
            ids = [rows.id_of(entity) for entity in page]
            matrix = rows.vectors_of(page, self._field, dims)
            new = [Candidates(*top_k(cosine_scores(query, matrix), ids, limit)) for query in queries]
            best = [_better(a, b, limit) for a, b in zip(best, new, strict=True)]
        return best


def _better(a: Candidates, b: Candidates, limit: int) -> Candidates:
    """The best of two lists of candidates that have no id in common."""
    return Candidates(*top_k(np.concatenate([a.scores, b.scores]), a.ids + b.ids, limit))
