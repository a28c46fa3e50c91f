"""The ``lancedb`` backend: prefixes and full vectors as two columns of one LanceDB table.

The coarse stage is LanceDB's search over the prefixes, with the filter applied before it. The same query brings the
candidates' full vectors along, and they are scored here, which is faster than asking a second time. What a row looks
like is in ``_lancedb_rows``, how a filter becomes SQL without a user's words in it in ``_lancedb_filters``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import BackendError, CollectionNotFound, InvalidInput
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

from . import _lancedb_filters as filters
from . import _lancedb_reading as reading
from . import _lancedb_rows as rows
from ._lancedb_collections import Collections, Entry
from ._lancedb_database import Database, table_is_gone
from ._lancedb_options import QUANTIZATION, Opening, Settings
from ._lancedb_upkeep import Upkeep, vector_index

__all__ = ["LanceDBBackend"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# How often a read is repeated whose table, or version of it, was removed under its feet.
_READ_AGAIN = 3

_FIXED = frozenset(f.name for f in fields(Settings))
_OPENING = frozenset(f.name for f in fields(Opening))


def _read_again(
    read: Callable[Concatenate[LanceDBBackend, P], R],
) -> Callable[Concatenate[LanceDBBackend, P], R]:
    """Repeat a read that met files which another process had just removed; the new table is looked up first."""

    @functools.wraps(read)
    def reading(self: LanceDBBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_READ_AGAIN):
            try:
                return read(self, *args, **kwargs)
            except BackendError as error:
                if not table_is_gone(error):
                    raise
                self._forget()
        return read(self, *args, **kwargs)

    return reading


class LanceDBBackend(Backend):
    """One collection of ours in a LanceDB database.

    Options: ``index``, ``coarse_quantization``, ``index_threshold``, ``num_partitions`` and ``fine_dtype``, fixed when
    the collection is made; ``nprobes``, ``refine_factor``, ``lock_timeout`` and ``keep_versions`` (seconds) of each
    opening.
    """

    capabilities = Capabilities(
        transactions=True,
        concurrent_writers=True,
        filter_operators=filters.OPERATORS,
        exact_search=True,
        approximate_coarse=True,
        quantization=QUANTIZATION,
    )
    options: ClassVar[frozenset[str]] = _FIXED | _OPENING

    def __init__(self, address: Address, database: Database, fixed: dict[str, Any], opening: Opening) -> None:
        super().__init__(address)
        self._database = database
        self._opening = opening
        self._collections = Collections(database, address.collection, fixed, opening.keep_versions)
        self._current: tuple[Entry, Any] | None = None
        self._declare(Settings.of(fixed))

    def _declare(self, settings: Settings) -> None:
        """What this collection's settings make of the capabilities, and of the search."""
        self._effort = reading.Effort(self._opening.nprobes, self._opening.refine_factor or settings.refine_factor)
        self.capabilities = replace(
            type(self).capabilities,
            persistent=not self.address.in_memory,
            concurrent_writers=not self.address.in_memory,
            approximate_coarse=settings.approximate,
            exact_search=settings.fine_dtype == "float32",
            vector_dtype=settings.fine_dtype,
        )

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> LanceDBBackend:
        """Connect at the first use; nothing is created before the first write.

        Raises:
            NotACollection: the folder is a file, or not empty and no LanceDB database.
            InvalidInput: an option has a wrong value.
        """
        unknown = options.keys() - cls.options
        if unknown:
            raise InvalidInput(
                f"the lancedb backend takes {', '.join(sorted(cls.options))}; got {', '.join(sorted(unknown))}"
            )
        given = {name: value for name, value in options.items() if value is not None}
        opening = Opening(**{name: value for name, value in given.items() if name in _OPENING})
        fixed = {name: value for name, value in given.items() if name in _FIXED}
        return cls(address, Database(address, opening.lock_timeout), fixed, opening)

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        return self._entered(self._collections.read())

    def _entered(self, entry: Entry | None) -> Manifest | None:
        self._forget()
        self._manifest = None if entry is None else entry.manifest
        if entry is not None:
            self._declare(entry.settings)
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        with self._writing():
            self._entered(self._collections.write(manifest, expected))

    def collections(self) -> list[str]:
        return self._collections.names()

    def drop(self) -> None:
        if self._database.reader() is not None:
            with self._writing():
                self._manifest = None
                self._forget()
                self._collections.drop()

    def _writing(self) -> Any:
        return self._database.writing(f"rows.{self.address.collection}")

    def _forget(self) -> None:
        self._current = None

    def _table(self) -> Any:
        """The table of rows, which looks for its newest version by itself.

        Raises:
            CollectionNotFound: there is no collection.
        """
        current = self._current
        return self._look_up()[1] if current is None else current[1]

    def _look_up(self) -> tuple[Entry, Any]:
        """Ask the catalogue which table holds the rows, now."""
        entry = self._collections.read()
        table = None if entry is None else self._same_table(entry) or self._database.open_table(entry.rows)
        if entry is None or table is None:
            self._manifest = None
            self._forget()
            raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
        self._manifest = entry.manifest
        self._current = entry, table
        return entry, table

    def _same_table(self, entry: Entry) -> Any | None:
        current = self._current
        return current[1] if current is not None and current[0].rows == entry.rows else None

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        if not len(batch):
            return
        with self._writing(), self._database.errors("writing rows"):
            entry, table = self._look_up()
            written = rows.to_arrow(batch, rows.row_schema(entry.manifest, entry.settings.fine_dtype))
            merge = table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
            # LanceDB refuses a vector that is not there unless told to write it as that.
            merge.execute(written, on_bad_vectors="null")
            self._tidy(entry, table)

    def delete(self, ids: Sequence[str]) -> int:
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return 0
        with self._writing(), self._database.errors("deleting rows"):
            entry, table = self._look_up()
            removed = int(table.delete(filters.keys_in(wanted)).num_deleted_rows)
            self._tidy(entry, table)
            return removed

    def _tidy(self, entry: Entry, table: Any) -> None:
        """Upkeep after a commit, which stands whatever becomes of this."""
        try:
            with self._database.errors("tidying up"):
                Upkeep(table, entry.settings, self._opening.keep_versions).if_due()
        except BackendError as error:
            logger.warning("%s: %s; it is tried again after a later write", self.address, error)

    def flush(self) -> None:
        """Merge small files, bring the indexes up to date, and remove versions older than ``keep_versions``."""
        with self._writing(), self._database.errors("tidying up"):
            entry, table = self._look_up()
            Upkeep(table, entry.settings, self._opening.keep_versions).run()

    def repair(self) -> None:
        """Remove what killed writers left behind. Call it while nobody writes who is not of this library."""
        with self._writing(), self._database.errors("repairing"):
            entry, table = self._look_up()
            self._collections.drop_orphans()
            Upkeep(table, entry.settings, self._opening.keep_versions).run(unfinished=True)

    # -- reading -------------------------------------------------------------------------------------------

    @_read_again
    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        found: dict[str, Row] = {}
        with self._database.errors("reading rows"):
            wanted = rows.columns(vectors=vectors, documents=True)
            for part in reading.by_ids(self._table(), list(dict.fromkeys(ids)), wanted):
                batch = rows.to_batch(part, self.manifest.fine_dims)
                found.update((row.id, row) for row in batch.rows())
        return [found.get(id) for id in ids]

    @_read_again
    def count(self, filter: Filter | None = None) -> int:
        pushed = self.resolve_filter(filter)
        with self._database.errors("counting"):
            return reading.count(self._table(), pushed)

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        pushed = self.resolve_filter(filter)
        with self._database.errors("listing rows"):
            wanted = rows.columns(vectors=vectors, documents=documents)
            for part in reading.stream(self._table(), pushed, wanted, batch_size=batch_size):
                yield rows.to_batch(part, self.manifest.fine_dims)

    @_read_again
    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        unique = list(dict.fromkeys(ids))
        at = {id: i for i, id in enumerate(unique)}
        out = np.zeros((len(unique), self.manifest.fine_dims), dtype=np.float32)
        found = np.zeros(len(unique), dtype=np.bool_)
        with self._database.errors("reading vectors"):
            for part in reading.by_ids(self._table(), unique, ["id", "full", "has_vector"]):
                positions = [at[id] for id in part["id"].to_pylist()]
                out[positions] = rows.matrix(part["full"], out.shape[1])
                found[positions] = part["has_vector"].to_numpy()
        asked = np.fromiter((at[id] for id in ids), dtype=np.intp, count=len(ids))
        return out[asked], found[asked]

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """As everywhere, but for the full vectors, which come with the candidates."""
        if request.exact:
            return super().search(request)
        fetched: dict[str, tuple[Any, int]] = {}

        def perform(step: Request) -> Any:
            match step:
                case CoarseSearch(vectors, limit, filter):
                    found = self._nearest(vectors, limit, filter, full=True)
                    for _, table in found:
                        if table is not None:
                            full = rows.matrix(table["full"], self.manifest.fine_dims)
                            fetched.update((id, (full, i)) for i, id in enumerate(table["id"].to_pylist()))
                    return [candidates for candidates, _ in found]
                case FetchVectors(ids) if ids and all(id in fetched for id in ids):
                    return np.array([fetched[id][0][fetched[id][1]] for id in ids]), np.ones(len(ids), dtype=np.bool_)
                case _:
                    return self.perform(step)

        return drive(two_stage(request), perform)

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        return [candidates for candidates, _ in self._nearest(vectors, limit, filter, full=False)]

    @_read_again
    def _nearest(
        self, vectors: FloatArray, limit: int, filter: Filter | None, *, full: bool
    ) -> list[tuple[Candidates, Any]]:
        with self._database.errors("searching"):
            return reading.nearest(self._table(), vectors, limit, filter, self._effort, full=full)

    @_read_again
    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with self._database.errors("searching exactly"):
            return reading.exactly(self._table(), vectors, limit, filter)

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        return isinstance(filter, IdIn) or filters.can_compile(filter)

    @_read_again
    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        offenders = filters.order_offenders(filter) if filter is not None and self.can_filter(filter) else None
        if offenders is not None:
            with self._database.errors("checking the filter"):
                found = self._table().search().where(offenders).select(["id", "metadata", "has_vector"]).limit(1)
                for row in rows.to_batch(found.to_arrow(), 0).rows():
                    check_order(filter, row.id, row.metadata)
        return super().resolve_filter(filter)

    # -- the rest ------------------------------------------------------------------------------------------

    @_read_again
    def stats(self) -> BackendStats:
        with self._database.errors("counting"):
            table = self._table()
            index = vector_index(table)
            parts = table.stats()
            return BackendStats(
                rows=int(table.count_rows()),
                vectors=int(table.count_rows("has_vector")),
                bytes={"coarse": None, "fine": None, "rows": None},
                details={
                    "index": "flat" if index is None else str(table.index_stats(index[0]).index_type).lower(),
                    "table_bytes": int(parts["total_bytes"]),
                    "files": int(parts["fragment_stats"]["num_fragments"]),
                    "version": int(table.version),
                },
            )

    def close(self) -> None:
        self._forget()
        self._database.close()
