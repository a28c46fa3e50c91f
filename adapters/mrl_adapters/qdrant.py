"""The ``qdrant`` backend: both stages of a search in one request to Qdrant.

One Qdrant collection holds one of ours. A point has the vectors ``coarse`` (the only one with a graph), ``full``, and
one for each of ``funnel_dims``; all have unit length, so the dot product is the cosine. The manifest lies in the
Qdrant collection's own metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import BackendError, ConflictError, MissingExtra, MRLError, NotACollection
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.scoring import cosine_scores, rank, top_k
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, Stage, drive, two_stage

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise MissingExtra("the qdrant backend", "qdrant") from error

from . import _qdrant_filters as filters
from . import _qdrant_points as points
from ._qdrant_client import Connection, Options
from ._qdrant_points import COARSE, FULL, parts

__all__ = ["QdrantBackend"]

T = TypeVar("T")

_IDS_PER_REQUEST = 5_000
_QUERIES_PER_REQUEST = 100
_IDS_IN_FILTER = 100_000
_IDS_IN_LOCAL_FILTER = 1_000
"""Local mode goes through the whole list of a filter's ids once for each point."""


class QdrantBackend(Backend):
    """A collection in memory, in a folder (Qdrant's local mode), or on a Qdrant server of version 1.16 or later."""

    options: ClassVar[frozenset[str]] = frozenset(f.name for f in fields(Options))

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._options = options
        self._connection = Connection(address, options)
        self._local = self._connection.local
        self._name = address.collection
        self._quantized = False
        self.capabilities = Capabilities(
            persistent=not address.in_memory,
            concurrent_writers=not self._local,
            server_side_rerank=True,
            filter_operators=filters.OPERATORS_PUSHED,
            exact_search=True,
            approximate_coarse=not self._local,
        )

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> QdrantBackend:
        """Check the address and the options. Neither a folder nor a connection is opened yet.

        Raises:
            InvalidInput: an unknown option, or a wrong value.
            NotACollection: the folder holds something else.
        """
        return cls(address, Options.parse(address, options))

    def _run(self, doing: str, action: Callable[[QdrantClient], T]) -> T:
        return self._connection.run(action, doing=doing)

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """See the base class. A folder is opened, and so locked, by the first call that finds something in it."""
        self._manifest = None
        info = self._info(self._name)
        if info is not None:
            text = points.manifest_text(info)
            if text is None:
                raise self._not_ours("choose another ?collection=")
            vectors = info.config.params.vectors
            coarse = vectors.get(COARSE) if isinstance(vectors, Mapping) else None
            self._quantized = coarse is not None and coarse.quantization_config is not None
            self._manifest = Manifest.loads(text)
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See the base class. Creating is atomic; replacing is a comparison and then a write, with a gap between."""
        found = self.read_manifest()
        if (found and found.checksum) != (expected and expected.checksum):
            raise self._conflict()
        if found is None:
            self._create(manifest)
        else:
            metadata = points.with_manifest(manifest)
            self._run("writing the manifest", lambda c: c.update_collection(self._name, metadata=metadata))
        # Somebody else who wrote in the same instant is found out here.
        kept = self.read_manifest()
        if kept is None or kept.checksum != manifest.checksum:
            raise self._conflict()

    def _create(self, manifest: Manifest) -> None:
        options = self._options
        config = points.vectors_config(manifest, on_disk=options.on_disk, quantization=options.quantization)
        try:
            self._run(
                "creating the collection",
                lambda c: c.create_collection(
                    self._name,
                    vectors_config=config,
                    shard_number=options.shard_number,
                    replication_factor=options.replication_factor,
                    write_consistency_factor=options.write_consistency_factor,
                    metadata=points.with_manifest(manifest),
                ),
            )
        except BackendError as error:
            if "already exists" in str(error):
                raise self._conflict() from error
            raise
        if points.manifest_text(self._info(self._name)) is None:
            self._run("removing the collection", lambda c: c.delete_collection(self._name))
            raise BackendError(
                f"the Qdrant server at {self.address.url} does not keep the metadata of a collection, as servers do "
                "from version 1.16 on: upgrade it"
            )
        self._index_payload()

    def _index_payload(self) -> None:
        """Payload indexes make filters fast on a server. Local mode has none."""
        if self._local:
            return
        schemas = {filters.TAGS: "keyword", filters.ID: "keyword"}
        for path, kind in self._options.index_fields.items():
            # An index of integers would not find 2020.5, one of floats finds both.
            schemas[filters.metadata_path(path.split("."))] = "float" if kind == "integer" else kind
        make = partial(QdrantClient.create_payload_index, collection_name=self._name, wait=True)
        for key, kind in schemas.items():
            schema = models.PayloadSchemaType(kind)
            self._run(f"indexing the payload key {key}", partial(make, field_name=key, field_schema=schema))

    def collections(self) -> list[str]:
        """See the base class. Asks for the settings of every Qdrant collection at this place."""
        if not self._connection.exists():
            return []
        found = self._run("listing collections", lambda c: c.get_collections()).collections
        return sorted(each.name for each in found if points.manifest_text(self._info(each.name)) is not None)

    def drop(self) -> None:
        """See the base class. A Qdrant collection that is not ours is left alone: :class:`NotACollection`."""
        info = self._info(self._name)
        if info is not None:
            if points.manifest_text(info) is None:
                raise self._not_ours("it is not dropped: use Qdrant's own tools")
            self._run("dropping the collection", lambda c: c.delete_collection(self._name))
        self._manifest = None

    def _info(self, name: str) -> models.CollectionInfo | None:
        if not self._connection.exists():
            return None
        if not self._run("looking for the collection", lambda c: c.collection_exists(name)):
            return None
        return self._run("reading the collection's settings", lambda c: c.get_collection(name))

    def _not_ours(self, remedy: str) -> NotACollection:
        return NotACollection(
            f"the Qdrant collection {self._name!r} at {self.address} was not made by this library; {remedy}"
        )

    def _conflict(self) -> ConflictError:
        return ConflictError(f"the manifest of {self.address} was changed meanwhile; read it again and repeat")

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """See the base class. Each row is written whole; a large batch takes several requests."""
        done: list[str] = []
        for ids, part in points.requests_of(batch, self.manifest):
            try:
                self._upsert(part)
            except MRLError as error:
                error.indexed_ids = tuple(done)
                raise
            done += ids

    def _upsert(self, part: list[models.PointStruct]) -> None:
        self._run("writing rows", lambda c: c.upsert(self._name, points=part, wait=True))

    def delete(self, ids: Sequence[str]) -> int:
        """See the base class."""
        return sum(self._delete(part) for part in parts(dict.fromkeys(ids), _IDS_PER_REQUEST))

    def _delete(self, ids: list[str]) -> int:
        there = [record.id for record in self._retrieve(ids, payload=False)]
        if there:
            selector = models.PointIdsList(points=there)
            self._run("deleting rows", lambda c: c.delete(self._name, points_selector=selector, wait=True))
        return len(there)

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """See the base class."""
        found: dict[str, models.Record] = {}
        for part in parts(dict.fromkeys(ids), self._rows_per_read(vectors)):
            records = self._retrieve(part, payload=points.ROW, vectors=[FULL] if vectors else False)
            found |= {str(record.id): record for record in records}
        wanted = (found.get(filters.point_id(each)) for each in ids)
        return [None if record is None else points.read_row(record.payload, record.vector) for record in wanted]

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """See the base class. Reads no payload."""
        return self._vectors(FULL, ids)

    def _vectors(self, name: str, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        out = np.zeros((len(ids), points.vector_dims(self.manifest)[name]), dtype=np.float32)
        found = np.zeros(len(ids), dtype=np.bool_)
        at: dict[str, list[int]] = {}
        for i, each in enumerate(ids):
            at.setdefault(filters.point_id(each), []).append(i)
        for part in parts(dict.fromkeys(ids), self._rows_per_read(vectors=True)):
            for record in self._retrieve(part, payload=False, vectors=[name]):
                vector = points.vector_named(record.vector, name)
                if vector is not None:
                    out[at[str(record.id)]] = vector
                    found[at[str(record.id)]] = True
        return out, found

    def _rows_per_read(self, vectors: bool) -> int:
        per_row = 4096 + (points.FLOAT_BYTES * self.manifest.fine_dims if vectors else 0)
        return max(1, min(_IDS_PER_REQUEST, points.REQUEST_BYTES // per_row))

    def _retrieve(
        self, ids: Sequence[str], *, payload: bool | list[str], vectors: bool | list[str] = False
    ) -> list[models.Record]:
        wanted = list(map(filters.point_id, ids))
        return self._run(
            "reading rows", lambda c: c.retrieve(self._name, wanted, with_payload=payload, with_vectors=vectors)
        )

    def count(self, filter: Filter | None = None) -> int:
        """See the base class."""
        self._require()
        pushed = self.resolve_filter(filter)
        if isinstance(pushed, IdIn):
            listed = parts(sorted(pushed.ids), _IDS_PER_REQUEST)
            return sum(len(self._retrieve(part, payload=False)) for part in listed)
        return self._count(filters.compile_filter(pushed))

    def _count(self, condition: models.Filter | None) -> int:
        return self._run("counting", lambda c: c.count(self._name, count_filter=condition, exact=True)).count

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """See the base class. In the order of Qdrant's point ids."""
        self._require()
        pushed = self.resolve_filter(filter)
        payload = [key for key in points.ROW if documents or key != points.DOCUMENT]
        wanted: bool | list[str] = [FULL] if vectors else False
        size = min(batch_size, self._rows_per_read(vectors))
        pages: Iterator[list[models.Record]]
        if isinstance(pushed, IdIn):
            pages = (self._retrieve(part, payload=payload, vectors=wanted) for part in parts(sorted(pushed.ids), size))
        else:
            pages = self._scroll(filters.compile_filter(pushed), size, payload, wanted)
        for page in pages:
            if page:
                yield points.row_batch(page, self.manifest.fine_dims if vectors else None)

    def _scroll(
        self, condition: models.Filter | None, size: int, payload: list[str], vectors: bool | list[str] = False
    ) -> Iterator[list[models.Record]]:
        scroll = partial(
            QdrantClient.scroll,
            collection_name=self._name,
            scroll_filter=condition,
            limit=size,
            with_payload=payload,
            with_vectors=vectors,
        )
        page, offset = self._run("scanning", scroll)
        yield page
        while offset is not None:
            page, offset = self._run("scanning", partial(scroll, offset=offset))
            yield page

    def _require(self) -> Manifest:
        """The manifest; raises where there is no collection."""
        return self.manifest

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        """Whether Qdrant can say it: all but substrings, the order of strings, and the order of huge numbers."""
        return filters.can_push(filter)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        """See the base class. One small request finds rows whose type has no order with the operand's."""
        resolved = super().resolve_filter(filter)
        if resolved is filter and (wrong := filters.out_of_order(filter)) is not None:
            for record in next(self._scroll(wrong, 1, points.ROW)):
                row = points.read_row(record.payload)
                check_order(filter, row.id, row.metadata)
        return resolved

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """See the base class. One request for all stages and the rows, unless a stage's dims have no vector of their
        own, or ``explain`` asks for what happens between the stages."""
        names = self._names_of(request.stages)
        if request.explain or names is None:
            return super().search(request)
        request = replace(request, filter=self.resolve_filter(request.filter))
        if self._too_long_a_list(request):
            return super().search(request) if request.exact else drive(two_stage(request), self.perform)
        condition = filters.compile_filter(request.filter)
        queries = [prefix(request.vectors, stage.dims) for stage in request.stages]

        def one(i: int, exact: bool) -> models.QueryRequest:
            """One query's whole funnel; its innermost prefetch is the coarse stage, and there the filter applies."""
            inner: models.Prefetch | None = None
            for name, vectors, stage in zip(names[:-1], queries, request.stages, strict=False):
                inner = models.Prefetch(
                    prefetch=inner,
                    query=vectors[i].tolist(),
                    using=name,
                    limit=stage.limit,
                    filter=condition if inner is None else None,
                    params=self._params(name, exact) if inner is None else None,
                )
            return models.QueryRequest(
                prefetch=inner,
                query=queries[-1][i].tolist(),
                using=FULL,
                limit=request.k,
                filter=condition if inner is None else None,
                params=self._params(FULL, exact) if inner is None else None,
                with_payload=points.ROW,
            )

        return [_ranking(found) for found in self._query(len(request.vectors), one, request.k, condition)]

    def _names_of(self, stages: Sequence[Stage]) -> list[str] | None:
        """The named vector of each stage; None where one has none."""
        by_dims = {dims: name for name, dims in reversed(points.vector_dims(self.manifest).items())}
        names = [by_dims.get(stage.dims, "") for stage in stages[:-1]]
        return [*names, FULL] if all(names) else None

    def _too_long_a_list(self, request: SearchRequest) -> bool:
        """Whether a list of ids, the allowed ones or the candidates, is more than one request should hold."""
        allowed = len(request.filter.ids) if isinstance(request.filter, IdIn) else 0
        candidates = max((stage.limit for stage in request.stages[:-1]), default=0)
        return max(allowed, candidates if self._local else 0) > self._longest_list

    @property
    def _longest_list(self) -> int:
        return _IDS_IN_LOCAL_FILTER if self._local else _IDS_IN_FILTER

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class."""
        return self._nearest(COARSE, vectors, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class. Scored inside Qdrant."""
        return self._nearest(FULL, vectors, limit, filter)

    def _nearest(self, name: str, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        if isinstance(filter, IdIn) and len(filter.ids) > self._longest_list:
            return self._nearest_among(name, vectors, limit, filter)
        condition = filters.compile_filter(filter)

        def one(i: int, exact: bool) -> models.QueryRequest:
            return models.QueryRequest(
                query=vectors[i].tolist(),
                using=name,
                limit=limit,
                filter=condition,
                params=self._params(name, exact),
                with_payload=[filters.ID],
            )

        answers = []
        for found in self._query(len(vectors), one, limit, condition):
            ids = [(point.payload or {})[filters.ID] for point in found]
            answers.append(Candidates(*top_k(_scores(found), ids, limit)))
        return answers

    def _nearest_among(self, name: str, vectors: FloatArray, limit: int, allowed: IdIn) -> list[Candidates]:
        """The same among more ids than one filter should list."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in vectors]
        for ids in parts(sorted(allowed.ids), self._longest_list):
            if self._local:
                matrix, has = self._vectors(name, ids)
                kept = [ids[i] for i in np.flatnonzero(has)]
                more = [Candidates(kept, cosine_scores(query, matrix[has])) for query in vectors]
            else:
                more = self._nearest(name, vectors, limit, IdIn(frozenset(ids)))
            for q, found in enumerate(more):
                scores = np.concatenate([best[q].scores, found.scores])
                best[q] = Candidates(*top_k(scores, best[q].ids + found.ids, limit))
        return best

    def _params(self, name: str, exact: bool) -> models.SearchParams | None:
        if self._local:  # it searches exactly anyway, and would warn that it does
            return None
        if exact or name == FULL:
            return models.SearchParams(exact=True)
        if self._quantized:
            return models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))
        return None

    def _query(
        self,
        queries: int,
        one: Callable[[int, bool], models.QueryRequest],
        limit: int,
        condition: models.Filter | None,
    ) -> list[list[models.ScoredPoint]]:
        """Ask ``one(i, exact)`` for each query; with a filter there are ``limit`` points wherever as many match."""
        answers = self._send([one(i, False) for i in range(queries)])
        short = [i for i, found in enumerate(answers) if len(found) < limit]
        if self._local or condition is None or not short:
            return answers
        # A graph cut up by a filter may fall apart: ask without the graph where it gave too little.
        there = self._count(models.Filter(must=[condition, models.HasVectorCondition(has_vector=FULL)]))
        short = [i for i in short if len(answers[i]) < min(limit, there)]
        for i, found in zip(short, self._send([one(i, True) for i in short]), strict=True):
            answers[i] = found
        return answers

    def _send(self, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        answers: list[list[models.ScoredPoint]] = []
        if requests:
            size = len(requests[0].model_dump_json(exclude_none=True))
            together = max(1, min(_QUERIES_PER_REQUEST, points.REQUEST_BYTES // size))
            send = partial(QdrantClient.query_batch_points, collection_name=self._name)
            for part in parts(requests, together):
                answers += [answer.points for answer in self._run("searching", partial(send, requests=part))]
        return answers

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See the base class. Sizes are those of the raw vectors; a server does not tell that of its graph."""
        dims = points.vector_dims(self.manifest)
        vectors = self._count(models.Filter(must=[models.HasVectorCondition(has_vector=FULL)]))
        details: dict[str, Any] = {"index": "flat, exact (Qdrant's local mode)"}
        info = None if self._local else self._info(self._name)
        if info is not None:
            details = {
                "index": "HNSW over the coarse vectors",
                "quantized": self._quantized,
                "indexed_vectors": info.indexed_vectors_count,
                "segments": info.segments_count,
                "status": info.status.value,
            }
        return BackendStats(
            rows=self._count(None),
            vectors=vectors,
            bytes={
                "coarse": 4 * vectors * dims[COARSE] if self._local else None,
                "fine": 4 * vectors * (sum(dims.values()) - dims[COARSE]),
                "rows": None,
            },
            details=details,
        )

    def repair(self) -> None:
        """Make the payload indexes that an interrupted creation left out. Rows need none: each is written whole."""
        self._require()
        self._index_payload()

    def close(self) -> None:
        """See the base class. The last backend of this process to close a folder frees it for others."""
        self._connection.close()


def _scores(found: Sequence[models.ScoredPoint]) -> FloatArray:
    return np.array([point.score for point in found], dtype=np.float32)


def _ranking(found: Sequence[models.ScoredPoint]) -> Ranking:
    rows, scores = [points.read_row(point.payload) for point in found], _scores(found)
    best = rank(scores, [row.id for row in rows])
    return Ranking([rows[i] for i in best], scores[best])
