"""The ``lancedb`` backend: prefixes and full vectors as two columns of one LanceDB table.

The coarse stage is LanceDB's search over the prefixes, with the filter applied before it. The same query brings the
candidates' full vectors along, and they are scored here, which is faster than asking a second time. What a row looks
like is in ``_lancedb/rows.py``, how a filter becomes SQL without a user's words in it in ``_lancedb/filters.py``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal, unseal
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import BackendError, CollectionNotFound, InvalidInput
from mrl_retrieval.filters import Filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest

from ._lancedb import filters, rows
from ._lancedb.again import read_again
from ._lancedb.collections import Collections, Entry
from ._lancedb.database import Database, Handles
from ._lancedb.options import QUANTIZATION, Opening, Settings
from ._lancedb.search import Effort
from ._lancedb.snapshot import Snapshot
from ._lancedb.upkeep import Upkeep

__all__ = ["LanceDBBackend"]

logger = logging.getLogger(__name__)

_FIXED = frozenset(f.name for f in fields(Settings))
_OPENING = frozenset(f.name for f in fields(Opening))


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
        attachments=True,
    )
    options: ClassVar[frozenset[str]] = _FIXED | _OPENING

    def __init__(self, address: Address, database: Database, fixed: dict[str, Any], opening: Opening) -> None:
        super().__init__(address)
        self._database = database
        self._opening = opening
        self._collections = Collections(database, address.collection, fixed, opening.keep_versions)
        self._current: tuple[Entry, Handles] | None = None
        self._declare(Settings.of(fixed))

    def _declare(self, settings: Settings) -> None:
        """What this collection's settings make of the capabilities, and of the search."""
        self._effort = Effort(self._opening.nprobes, self._opening.refine_factor or settings.refine_factor)
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
        self.forget()
        if entry is not None:
            self._declare(entry.settings)
        self._manifest = manifest = None if entry is None else entry.manifest
        return manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        with self._writing():
            self._entered(self._collections.write(manifest, expected))

    def collections(self) -> list[str]:
        return self._collections.names()

    def drop(self) -> None:
        if self._database.reader() is not None:
            with self._writing():
                self._manifest = None
                self.forget()
                self._collections.drop()

    def write_attachment(self, name: str, content: bytes) -> None:
        sealed = seal(name, content)
        if self._collections.read() is None:
            raise self._not_there()
        with self._writing(), self._database.errors("writing an attachment"):
            entry, _ = self._look_up()
            self._collections.attachments(entry).write(name, sealed)

    @read_again
    def read_attachment(self, name: str) -> bytes | None:
        checked_name(name)
        with self._database.errors("reading an attachment"):
            entry = self._collections.read()
            sealed = None if entry is None else self._collections.attachments(entry).read(name)
            return None if sealed is None else unseal(name, sealed, self.address)

    def _writing(self) -> Any:
        return self._database.writing(f"rows.{self.address.collection}")

    def forget(self) -> None:
        """Look up anew, at the next call, which table holds the rows."""
        self._current = None

    def _look_up(self) -> tuple[Entry, Any]:
        """Ask the catalogue which table holds the rows, now, and open that.

        Raises:
            CollectionNotFound: there is no collection.
        """
        entry = self._collections.read()
        table = None if entry is None else self._database.open_table(entry.rows)
        if entry is None or table is None:
            raise self._not_there()
        current = self._current  # other threads forget it
        if current is None or current[0].rows != entry.rows:
            self._current = entry, Handles(self._database, entry.rows)
        self._manifest = entry.manifest
        return entry, table

    def _not_there(self) -> CollectionNotFound:
        self._manifest = None
        self.forget()
        return CollectionNotFound(f"there is no collection at {self.address}; index something first")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Snapshot]:
        """The collection as the last commit of whichever process left it."""
        entry, handles = self._current or (None, None)
        if entry is not None and handles is not None:
            with handles.newest() as table:
                if table is not None:
                    yield self._snapshot_of(entry, table)
                    return
        yield self._snapshot_of(*self._look_up())

    def _snapshot_of(self, entry: Entry, table: Any) -> Snapshot:
        return Snapshot(table, entry.manifest.fine_dims, self._effort)

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
            self._collections.attachments(entry).clear()
            Upkeep(table, entry.settings, self._opening.keep_versions).run(unfinished=True)

    # -- reading -------------------------------------------------------------------------------------------

    @read_again
    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        with self._database.errors("reading rows"), self._snapshot() as snapshot:
            return snapshot.get(ids, vectors=vectors)

    @read_again
    def count(self, filter: Filter | None = None) -> int:
        with self._database.errors("counting"), self._snapshot() as snapshot:
            return snapshot.count(snapshot.resolve(filter))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        with self._database.errors("listing rows"):
            snapshot, resolved = self._resolved(filter)
            yield from snapshot.scan(resolved, vectors=vectors, documents=documents, batch_size=batch_size)

    @read_again
    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        with self._database.errors("reading vectors"), self._snapshot() as snapshot:
            return snapshot.fetch_vectors(ids)

    # -- search --------------------------------------------------------------------------------------------

    @read_again
    def search(self, request: SearchRequest) -> list[Ranking]:
        """As everywhere, but all on one version, and the full vectors come with the candidates."""
        with self._database.errors("searching"), self._snapshot() as snapshot:
            return snapshot.search(request)

    @read_again
    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with self._database.errors("searching"), self._snapshot() as snapshot:
            return [each.candidates for each in snapshot.nearest(vectors, limit, filter, full=False)]

    @read_again
    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with self._database.errors("searching exactly"), self._snapshot() as snapshot:
            return [each.candidates for each in snapshot.exactly(vectors, limit, filter)]

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        return filters.can_push_down(filter)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        return self._resolved(filter)[1]

    @read_again
    def _resolved(self, filter: Filter | None) -> tuple[Snapshot, Filter | None]:
        with self._database.errors("checking the filter"):
            snapshot = self._snapshot_of(*self._look_up())
            return snapshot, snapshot.resolve(filter)

    # -- the rest ------------------------------------------------------------------------------------------

    @read_again
    def stats(self) -> BackendStats:
        with self._database.errors("counting"), self._snapshot() as snapshot:
            return snapshot.stats()

    def close(self) -> None:
        self.forget()
        self._database.close()
