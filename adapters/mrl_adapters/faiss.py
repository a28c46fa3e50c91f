"""The ``faiss`` backend, the embedded default: a store on disk, and a FAISS index over its prefixes as a cache.

Documents, metadata and full vectors are in :class:`~mrl_retrieval.storage.Store`, which is the truth. The index is
flat, holds the renormalised prefixes of the vectors, and follows the store: each search first adds what was committed
since. What was deleted stays in the index, behind a selector.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import AddressError, InvalidInput, MRLError
from mrl_retrieval.filters import OPERATORS, Filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import (
    BackupReport,
    CompactionReport,
    Problem,
    ReadWriteLock,
    RepairReport,
    Reranker,
    RestoreReport,
    Snapshot,
    Store,
    VerifyReport,
    can_query,
    candidates,
    collection_names,
    exact_scan,
    ranking,
)
from mrl_retrieval.storage.forks import register
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, StageTrace, Trace

from ._faiss_index import CoarseIndex, after_fork, cache_problem, rows_in_cache

__all__ = ["FaissBackend"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

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
        vector_dtype="float16",
    )
    options: ClassVar[frozenset[str]] = frozenset({"compact_at", "fine_dtype", "lock_timeout"})

    def __init__(self, address: Address, store: Store) -> None:
        super().__init__(address)
        self._store = store
        self._lock = ReadWriteLock()
        self._coarse: CoarseIndex | None = None
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
                ``compact_at``: the share of dead vectors beyond which writes clean up, default 0.5; 1: never.

        Raises:
            AddressError: it names no folder.
            InvalidInput: an option is unknown, or has a value that it cannot have.
            NotACollection: the folder, or file, is not ours.
        """
        if unknown := sorted(options.keys() - cls.options):
            raise InvalidInput(f"the faiss backend takes the options {sorted(cls.options)}, got {unknown}")
        cls._check_address(address)
        return cls(address, Store(address.folder, address.collection, **options))

    @staticmethod
    def _check_address(address: Address) -> None:
        if address.url or address.in_memory:
            raise AddressError(
                f"address {str(address)!r} names no folder; write 'faiss:./folder', or 'memory:' for a collection that "
                "lives in this process alone"
            )

    def after_fork(self) -> None:
        """Start afresh in a child process: a thread of the parent may have been changing the index."""
        self._lock = ReadWriteLock()
        self._coarse = None
        self._wrote = False
        after_fork()

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
        with self._lock.write():
            self._coarse = None
            self._wrote = False
            self._store.drop()
            self._manifest = None

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
            return self._exact(request, resolved)
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            snapshot, (coarse_scores, positions) = self._searched(
                stack, request.vectors, request.stages[0].limit, resolved
            )
            coarse_seconds = time.perf_counter() - started
            rerank = Reranker(request, snapshot)
            rankings = [rerank.query(q, positions[q], coarse_scores[q]) for q in range(len(request.vectors))]
        if not request.explain:
            return rankings
        first = StageTrace("coarse", request.stages[0].dims, None, positions.size, coarse_seconds)
        trace = Trace((first, *rerank.traces()))
        return [replace(answer, trace=trace) for answer in rankings]

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See :meth:`Backend.coarse_search`."""
        with contextlib.ExitStack() as stack:
            snapshot, (scores, positions) = self._searched(stack, vectors, limit, filter)
            return [candidates(snapshot, p, s, limit) for p, s in zip(positions, scores, strict=True)]

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See :meth:`Backend.exact_search`: every stored vector that the filter lets through, in blocks."""
        with self._store.snapshot() as snapshot:
            found = exact_scan(snapshot.fine, _positions(snapshot, filter), vectors, limit)
            return [candidates(snapshot, p, s, limit) for p, s in found]

    def _exact(self, request: SearchRequest, filter: Filter | None) -> list[Ranking]:
        started = time.perf_counter()
        with self._store.snapshot() as snapshot:
            allowed = _positions(snapshot, filter)
            found = exact_scan(snapshot.fine, allowed, request.vectors, request.k)
            seconds = time.perf_counter() - started
            rankings = [ranking(snapshot, p, s, None, request.k, filter) for p, s in found]
        if not request.explain:
            return rankings
        kept = sum(len(answer.rows) for answer in rankings)
        scored = len(allowed) * len(rankings)
        trace = Trace((StageTrace("exact", request.stages[0].dims, scored, kept, seconds),))
        return [replace(answer, trace=trace) for answer in rankings]

    def _searched(
        self, stack: contextlib.ExitStack, vectors: FloatArray, limit: int, filter: Filter | None
    ) -> tuple[Snapshot, tuple[FloatArray, npt.NDArray[np.int64]]]:
        """The coarse stage, on a snapshot that is left open in ``stack`` and that the index stands for exactly."""

        def coarse_stage(snapshot: Snapshot, coarse: CoarseIndex) -> tuple[FloatArray, npt.NDArray[np.int64]]:
            allowed = None if filter is None else snapshot.vector_mask(filter)
            return coarse.search(prefix(vectors, coarse.dims), limit, allowed)

        return self._with_index(stack, coarse_stage)

    # -- the index -----------------------------------------------------------------------------------------

    def _with_index(
        self, stack: contextlib.ExitStack, work: Callable[[Snapshot, CoarseIndex], T]
    ) -> tuple[Snapshot, T]:
        """Do ``work`` on the index while nobody changes it, and on a snapshot of the same generation."""
        with self._lock.read():
            # The lock first: the index cannot run ahead of a snapshot that is begun while it stands still.
            snapshot = stack.enter_context(self._store.snapshot())
            coarse = self._coarse
            if coarse is not None and coarse.fits(snapshot):
                return snapshot, work(snapshot, coarse)
        stack.close()
        with self._lock.write():
            snapshot = stack.enter_context(self._store.snapshot())
            self._coarse = coarse = CoarseIndex.follow(snapshot, self._coarse, self._store.files)
            return snapshot, work(snapshot, coarse)

    def flush(self) -> None:
        """Write the index to its cache file, so that the next opening does not make it again.

        Raises:
            LockTimeout: somebody else is writing.
        """
        self._save(worth_it=lambda missing, covered: missing > 0, lock_timeout=None)

    def _save(self, worth_it: Callable[[int, int], bool], lock_timeout: float | None) -> None:
        def save(snapshot: Snapshot, coarse: CoarseIndex) -> None:
            coarse.save(snapshot, self._store.files)
            self._coarse = replace(coarse, cache_is_bad=False)

        with contextlib.ExitStack() as stack:
            snapshot = stack.enter_context(self._store.snapshot())
            bad = self._coarse is not None and self._coarse.cache_is_bad
            covered = 0 if bad else rows_in_cache(self._store.files, snapshot.state.collection_id)
            if not worth_it(snapshot.state.vectors - covered, covered):
                return
            stack.close()
            # The writer lock keeps two processes from mixing an index of one with the sidecar of the other.
            with self._store.writing_files(lock_timeout):
                self._with_index(stack, save)

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """Counts and sizes; the details have the kind of index, the dtype, and what deletions left behind."""
        with self._store.snapshot() as snapshot:
            state, fine = snapshot.state, snapshot.fine
            vectors = int(np.count_nonzero(snapshot.vector_mask(None)))
        sizes = self._store.sizes()
        return BackendStats(
            rows=state.rows,
            vectors=vectors,
            bytes={"coarse": (state.vectors - state.first) * state.coarse_dims * 4, **sizes},
            details={
                "index": "flat, exact",
                "fine_dtype": fine.layout.dtype,
                "format_version": snapshot.version,
                "generation": state.generation,
                "tombstones": state.vectors - state.first - vectors,
                "segments": len(fine.parts),
            },
        )

    def refresh(self) -> None:
        """Bring the index up to date with what others committed. Searches do so by themselves; after this, the next one
        need not."""
        with contextlib.ExitStack() as stack:
            self._with_index(stack, lambda snapshot, coarse: None)

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
        with self._lock.write():
            report = self._store.repair()
            self._coarse = None
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
        if self._wrote:
            self._wrote = False
            try:
                self._save(
                    lambda missing, covered: missing >= _WORTH_ROWS and missing * _WORTH_SHARE >= covered,
                    lock_timeout=0,
                )
            except MRLError as error:
                logger.info("the coarse index of %s was not saved: %s", self.address, error)
        self._store.close()
        with self._lock.write():
            self._coarse = None


def _positions(snapshot: Snapshot, filter: Filter | None) -> npt.NDArray[np.int64]:
    return np.flatnonzero(snapshot.vector_mask(filter)) + snapshot.state.first
