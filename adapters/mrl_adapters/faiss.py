"""The ``faiss`` backend, the embedded default: a store on disk, and an index over its prefixes as a cache.

Documents, metadata and full vectors are in :class:`~mrl_retrieval.storage.Store`, which is the truth. The index holds
the renormalised prefixes of the vectors, in a structure that suits their number, and follows the store: each search
first adds what was committed since. What was deleted stays in the index, behind a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.coarse.depth import LearnedDepth
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import AddressError, InvalidInput, MRLError
from mrl_retrieval.filters import OPERATORS, Filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import (
    BackupReport,
    CompactionReport,
    Problem,
    RepairReport,
    RestoreReport,
    Store,
    VerifyReport,
    can_query,
    collection_names,
)
from mrl_retrieval.storage.forks import register
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest

from ._faiss.cache import cache_problem
from ._faiss.choosing import Choice, Wish
from ._faiss.devices import warn_if_faiss_is_doubled
from ._faiss.exact import ExactSearcher
from ._faiss.following import FollowingIndex
from ._faiss.lessons import Sample
from ._faiss.row_copies import RowCopies
from ._faiss.search import coarse_candidates, exact_candidates, exact_rankings, rankings

__all__ = ["FaissBackend"]

logger = logging.getLogger(__name__)

_INDEX_OPTIONS = ("index", "memory_budget", "probes")

# Closing saves the index only where that spares the next opening noticeable work.
_WORTH_ROWS = 1000
_WORTH_SHARE = 20


class FaissBackend(Backend):
    """One collection of an embedded store, searched with FAISS. See ``docs/faiss.md``."""

    capabilities = Capabilities(
        persistent=True,
        transactions=True,
        concurrent_writers=True,
        server_side_rerank=True,
        server_side_funnel=True,
        filter_operators=OPERATORS,
        exact_search=True,
        approximate_coarse=True,
        depth_by_query=True,
        vector_dtype="float16",
        attachments=True,
    )
    options: ClassVar[frozenset[str]] = frozenset(
        {"compact_at", "exact_copy", "fine_dtype", "index", "lock_timeout", "memory_budget", "probes", "row_copy"}
    )

    def __init__(
        self,
        address: Address,
        store: Store,
        wish: Wish | None = None,
        exact_copy: bool | None = None,
        row_copy: bool | None = None,
    ) -> None:
        super().__init__(address)
        self._store = store
        self._rows = RowCopies(store, row_copy)
        self._index = FollowingIndex(store, wish or Wish(), self._rows.follow)
        self._exact = ExactSearcher(store, exact_copy)
        self._wrote = False
        self._bind(None)
        register(self)

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> FaissBackend:
        """Open a folder: ``faiss:PATH?collection=NAME``. Creates nothing, takes no lock.

        Args:
            address: the folder and the collection.
            options: ``fine_dtype``: ``"float16"`` (default for a new collection), ``"float32"`` or ``"int8"``, how
                full vectors are stored; ``lock_timeout``: seconds a write waits for another writer, default 30;
                ``compact_at``: the share of dead vectors beyond which writes clean up, default 0.5; 1: never;
                ``index``: the structure of the coarse index, one of ``choosing.INDEXES`` (default:
                as it was, at first ``"auto"``); ``memory_budget``: bytes that it may take; ``probes``: how many of its
                lists a search looks into, where it has lists (default: as many as was measured to be enough);
                ``exact_copy``: whether a copy of the vectors in codes is kept, about one byte a component, which makes
                ``exact=True`` an order of magnitude faster (default: once somebody has searched exactly);
                ``row_copy``: whether a copy of documents and metadata is kept where searches find them faster (default:
                from 20,000 rows on, where they take no more room than the vectors).

        Raises:
            AddressError: it names no folder.
            InvalidInput: an option is unknown, or has a value that it cannot have.
            NotACollection: the folder, or file, is not ours.
        """
        if unknown := sorted(options.keys() - cls.options):
            raise InvalidInput(f"the faiss backend takes the options {sorted(cls.options)}, got {unknown}")
        cls._check_address(address)
        warn_if_faiss_is_doubled()
        wish = Wish.checked(*(options.pop(name, None) for name in _INDEX_OPTIONS))
        copies = {name: options.pop(name, None) for name in ("exact_copy", "row_copy")}
        for name, wanted in copies.items():
            if wanted is not None and not isinstance(wanted, bool):
                raise InvalidInput(f"{name}={wanted!r}; expected True, False or None")
        return cls(address, Store(address.folder, address.collection, **options), wish, **copies)

    @staticmethod
    def _check_address(address: Address) -> None:
        if address.url or address.in_memory:
            raise AddressError(
                f"address {str(address)!r} names no folder; write 'faiss:./folder', or 'memory:' for a collection that "
                "lives in this process alone"
            )

    def after_fork(self) -> None:
        """Start afresh in a child process."""
        self._index.after_fork()
        self._exact.after_fork()
        self._rows.after_fork()
        self._wrote = False

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """See :meth:`Backend.read_manifest`; also checks that the vector files are what they should be."""
        self._bind(self._store.read_manifest())
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See :meth:`Backend.write_manifest`."""
        self._store.write_manifest(manifest, expected)
        self._bind(manifest)

    def _bind(self, manifest: Manifest | None) -> None:
        self._manifest = manifest
        self.capabilities = replace(type(self).capabilities, vector_dtype=self._store.fine_dtype)

    def collections(self) -> list[str]:
        """Names of the collections in this folder, sorted."""
        return collection_names(self.address.folder)

    def drop(self) -> None:
        """Remove the collection's folder; the others, and the store, stay."""
        self._exact.forget()
        self._rows.stop()
        with self._index.forgotten():
            self._wrote = False
            self._store.drop()
            self._manifest = None

    def write_attachment(self, name: str, content: bytes) -> None:
        """See :meth:`Backend.write_attachment`. One transaction."""
        self._store.write_attachment(name, content)

    def read_attachment(self, name: str) -> bytes | None:
        """See :meth:`Backend.read_attachment`."""
        return self._store.read_attachment(name)

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """See :meth:`Backend.upsert`. The index follows with the next search."""
        self._store.upsert(batch)
        self._wrote = True

    def delete(self, ids: Sequence[str]) -> int:
        """See :meth:`Backend.delete`."""
        return self._store.delete(ids)

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """See :meth:`Backend.get`."""
        with self._store.snapshot() as snapshot:
            return snapshot.get(ids, vectors=vectors)

    def count(self, filter: Filter | None = None) -> int:
        """See :meth:`Backend.count`."""
        resolved = self.resolve_filter(filter)
        with self._store.snapshot() as snapshot:
            return snapshot.state.rows if resolved is None else int(np.count_nonzero(snapshot.mask(resolved)))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """See :meth:`Backend.scan`. All batches show the same commit, whatever is written meanwhile."""
        resolved = self.resolve_filter(filter)
        with self._store.snapshot() as snapshot:
            yield from snapshot.batches(resolved, vectors=vectors, documents=documents, batch_size=batch_size)

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """See :meth:`Backend.fetch_vectors`."""
        with self._store.snapshot() as snapshot:
            numbers = snapshot.numbers_of(ids)
            positions = np.array([numbers.get(asked, -1) for asked in ids], dtype=np.int64)
            found = positions >= 0
            out = np.zeros((len(ids), snapshot.fine.layout.dims), dtype=np.float32)
            if found.any():
                out[found] = snapshot.fine.gather(positions[found])
            return out, found

    def can_filter(self, filter: Filter) -> bool:
        """Everything but numbers beyond 64 bits and paths that a filter dict cannot write."""
        return can_query(filter)

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """Both stages and the rows of the hits, on one snapshot of the store."""
        resolved = self.resolve_filter(request.filter)
        if request.exact:
            return exact_rankings(self._store, self._exact, request, resolved)
        return rankings(self._index, request, resolved)

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See :meth:`Backend.coarse_search`."""
        return coarse_candidates(self._index, vectors, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See :meth:`Backend.exact_search`: of every stored vector that the filter lets through."""
        return exact_candidates(self._store, self._exact, vectors, limit, filter)

    def refresh(self) -> None:
        """Bring the index up to date with what others committed. Searches do so by themselves; after this, the next one
        need not."""
        self._index.on(lambda snapshot, coarse: None, lambda snapshot, _: None)

    def flush(self) -> None:
        """Choose the structure of the index again where that is due, and write it to its cache file, so that the next
        opening does not make it again.

        Raises:
            LockTimeout: somebody else is writing.
            BackendError: this process may not write there.
        """
        self._index.choose_if_due()
        self._index.save(worth_it=lambda missing, covered: missing > 0, lock_timeout=None)
        self._exact.make_if_wanted()
        self._rows.make_if_due()

    def learn_depth(self, queries: FloatArray | None, k: int) -> LearnedDepth:
        """See :meth:`Backend.learn_depth`. Makes the coarse index anew, as one that has learned, and keeps it."""
        self._index.choose(sample=Sample(queries, k))
        self._index.save(worth_it=lambda missing, covered: True, lock_timeout=None)
        return self._index.learned()

    def optimize(self, *, index: str | None = None, memory_budget: int | None = None) -> Choice:
        """Choose the structure of the index now, whether it is due or not, and write it to its cache file.

        Args:
            index: ``"auto"``, ``"flat"``, ``"ivf"``, ``"hnsw"``, ``"graph"`` or ``"gpu"``; None: what was asked
                for before.
            memory_budget: bytes that it may take; None: likewise.

        Raises:
            InvalidInput: it cannot be made of so few vectors, or not within the budget (MemoryBudgetError). The index
                is as it was.
            LockTimeout: somebody else is writing.
        """
        choice = self._index.choose(Wish.checked(index, memory_budget))
        self._index.save(worth_it=lambda missing, covered: True, lock_timeout=None)
        return choice

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """Counts and sizes; the details have the kind of index, the dtype, and what deletions left behind."""
        with self._store.snapshot() as snapshot:
            state, fine = snapshot.state, snapshot.fine
            vectors = int(np.count_nonzero(snapshot.vector_mask(None)))
        sizes = self._store.sizes()
        details, index_bytes = self._index.described()
        return BackendStats(
            rows=state.rows,
            vectors=vectors,
            bytes={"coarse": index_bytes, **sizes},
            details={
                **details,
                "fine_dtype": fine.layout.dtype,
                "format_version": snapshot.version,
                "generation": state.generation,
                "tombstones": state.vectors - state.first - vectors,
                "segments": len(fine.parts),
            },
        )

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its checksums, the cache file of the index too. Changes nothing.

        Raises:
            CollectionNotFound: there is none.
            NewerFormatError: a newer version of this library made it.
        """
        report = self._store.verify()
        if not report.ok:
            return report
        with self._store.snapshot() as snapshot:
            problem = cache_problem(snapshot, self._store.files)
        return report if problem is None else replace(report, problems=(Problem("coarse index", problem),))

    def repair(self) -> RepairReport:
        """Bring a damaged collection back in order, without the encoder; see :meth:`Store.repair`. Afterwards read the
        manifest again.

        Raises:
            CorruptionError: nothing can be saved: restore a backup.
            LockTimeout: somebody else is writing.
        """
        self._exact.forget()
        self._rows.stop()
        with self._index.forgotten():
            report = self._store.repair()
        files = self._store.files
        with self._store.snapshot() as snapshot:
            problem = None if report.rebuilt else cache_problem(snapshot, files)
        if problem is not None or report.rebuilt:
            with self._store.writing_files(None):
                files.sidecar.unlink(missing_ok=True)
                files.index.unlink(missing_ok=True)
            self.flush()
            report = replace(report, index_rebuilt=True)
        if problem is not None:
            report = replace(report, problems=(Problem("coarse index", problem),))
        self.read_manifest()
        return report

    def compact(self) -> CompactionReport:
        """Take back the room of what was deleted and overwritten, while others read and write; see
        :meth:`Store.compact`."""
        return self._store.compact()

    def backup(self, target: str | Path, *, overwrite: bool = False) -> BackupReport:
        """Write the collection to one file, as the last commit left it; see :meth:`Store.backup`."""
        return self._store.backup(Path(target), overwrite=overwrite)

    @classmethod
    def restore(cls, archive: str | Path, address: Address | str) -> RestoreReport:
        """Make a collection of a backup, at an address where there is none; see :meth:`Store.restore`."""
        place = Address.parse(address) if isinstance(address, str) else address
        cls._check_address(place)
        return Store.restore(Path(archive), place.folder, place.collection)

    def close(self) -> None:
        """Release everything, after saving the index where that is worth it; a second call is no error."""
        self._index.stop()
        self._exact.stop()
        self._rows.stop()
        if self._wrote:
            self._wrote = False
            try:
                self._index.save(
                    lambda missing, covered: missing >= _WORTH_ROWS and missing * _WORTH_SHARE >= covered,
                    lock_timeout=0,
                )
            except MRLError as error:
                logger.info("the coarse index of %s was not saved: %s", self.address, error)
        self._store.close()
        self._index.forget()
        self._exact.forget()
