"""The compressed copy of a collection's vectors: follows the store, and answers exact searches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import CollectionFiles, Snapshot

from .codes import SAMPLE, ByteArray, Coder, Codes
from .files import Reach, SavedCopy, load, save, write
from .layout import CHUNK, Chunk, Layout
from .search import Answer, search

__all__ = ["ExactCopy"]

Mask = npt.NDArray[np.bool_]

_ENCODED_AT_ONCE = 512
_READ = 8192
# The parameters are made again when there is this many times as much as they were made from.
_GROWTH = 4
# Dead chunks at the beginning are cut off when they are this share of all. Until then they cost no time.
_CUT_SHARE = 4


@dataclass(frozen=True, slots=True)
class ExactCopy:
    """The copy as it stands for one generation of a store. Never changed, so any number of threads may search it."""

    collection_id: str
    generation: int
    first: int
    """Number of the first vector in it."""
    coder: Coder
    fitted: int
    reach: Reach
    chunks: tuple[Chunk, ...] = field(repr=False)
    """All but the last are full."""

    @property
    def rows(self) -> int:
        """Vectors in it, those included that belong to no row any more."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, mapped or in memory."""
        return sum(chunk.content.nbytes for chunk in self.chunks)

    @property
    def end(self) -> int:
        """The number after that of the last vector in it."""
        return self.first + self.rows

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether it stands for exactly this snapshot, and has all of it."""
        state = snapshot.state
        same = self.generation == state.generation and self.collection_id == state.collection_id
        return same and self.end == state.vectors

    def is_outgrown(self, snapshot: Snapshot) -> bool:
        """Whether following a snapshot means to begin anew: it is another collection, or one grown fourfold."""
        state = snapshot.state
        if self.collection_id != state.collection_id or self.generation > state.generation:
            return True
        return state.vectors - state.first > _GROWTH * max(self.fitted, SAMPLE)

    def search(self, snapshot: Snapshot, queries: FloatArray, k: int, allowed: Mask, *, threads: int = 1) -> Answer:
        """The exact best ``k`` for each of ``queries`` (Q, D), as :func:`~mrl_retrieval.storage.exact_scan` gives them.

        Args:
            snapshot: one that it fits.
            queries: unit rows, or zero rows.
            k: at least 1.
            allowed: which vectors from ``snapshot.state.first`` on take part, as of ``snapshot.vector_mask``.
            threads: that share the documents.
        """
        gone = snapshot.state.first - self.first
        if gone:
            allowed = np.concatenate([np.zeros(gone, dtype=np.bool_), allowed])
        reach = np.array(self.reach)
        return search(self.chunks, self.coder, reach, snapshot.fine, self.first, queries, k, allowed, threads=threads)

    @staticmethod
    def follow(
        snapshot: Snapshot, before: ExactCopy | None, files: CollectionFiles, most: int | None = None
    ) -> ExactCopy:
        """The copy for a snapshot: made from an earlier one, or from the file, or from nothing. Writes nothing.

        Args:
            snapshot: what it is to stand for.
            before: stays as it is, and may be searched meanwhile.
            files: where the file may be.
            most: vectors to add; then it may lack the last, does not fit, and is good for being followed alone.

        Raises:
            CorruptionError: a stored vector is not as it was written.
        """
        state = snapshot.state
        if before is None or before.collection_id != state.collection_id or before.generation > state.generation:
            saved = load(snapshot, files)
            before = None if saved is None else _of(saved, snapshot)
        if before is None or before.is_outgrown(snapshot):
            before = _empty(snapshot)
        chunks, first, reach = list(before.chunks), before.first, before.reach
        dead = (state.first - first) // CHUNK
        if first + before.rows <= state.first:
            chunks, first = [], state.first
        elif dead * _CUT_SHARE > len(chunks):
            chunks, first = chunks[dead:], first + dead * CHUNK
        end = first + sum(chunk.rows for chunk in chunks)
        goal = state.vectors if most is None else min(state.vectors, end + most)
        while end < goal:
            if not chunks or chunks[-1].rows == CHUNK:
                chunks.append(_layout(before.coder).empty())
            stop = min(end + CHUNK - chunks[-1].rows, goal)
            chunks[-1], reach = _extended(chunks[-1], before.coder, snapshot, end, stop, reach)
            end = stop
        return ExactCopy(
            state.collection_id, state.generation, first, before.coder, before.fitted, reach, tuple(chunks)
        )

    def save(self, snapshot: Snapshot, files: CollectionFiles) -> ExactCopy:
        """Write the file, as far as chunks are full; the same copy, of which these are mapped now.

        The caller holds the writer lock, and the snapshot fits.

        Raises:
            BackendError: the disk is full, or fails; the file is as it was, or gone.
        """
        full = tuple(chunk.content for chunk in self.chunks if chunk.rows == CHUNK)
        if not full:
            return self
        saved = save(snapshot, files, SavedCopy(self.coder, self.fitted, self.first, self.reach, full, ()))
        mapped = _of(saved, snapshot).chunks[: len(full)]
        return ExactCopy(
            self.collection_id,
            self.generation,
            self.first,
            self.coder,
            self.fitted,
            self.reach,
            mapped + self.chunks[len(full) :],
        )

    @staticmethod
    def make(snapshot: Snapshot, files: CollectionFiles) -> ExactCopy:
        """A new copy, written to the file chunk by chunk, so that memory does not grow. Else as :meth:`save`."""
        new, state = _empty(snapshot), snapshot.state

        def chunks() -> Iterator[tuple[ByteArray, Reach]]:
            reach = new.reach
            for start in range(state.first, state.vectors - CHUNK + 1, CHUNK):
                empty = _layout(new.coder).empty()
                chunk, reach = _extended(empty, new.coder, snapshot, start, start + CHUNK, reach)
                yield chunk.content, reach

        if state.vectors - state.first >= CHUNK:
            write(snapshot, files, SavedCopy(new.coder, new.fitted, state.first, new.reach, (), ()), chunks())
        return ExactCopy.follow(snapshot, None, files)


def _empty(snapshot: Snapshot) -> ExactCopy:
    """A copy of nothing, with parameters for the vectors of a snapshot."""
    state = snapshot.state
    count = state.vectors - state.first
    places = np.unique(np.linspace(state.first, state.vectors - 1, min(SAMPLE, count)).astype(np.int64))
    coder = Coder.fit(snapshot.fine.gather(places) if count else snapshot.fine.read(0, 0))
    return ExactCopy(state.collection_id, state.generation, state.first, coder, count, (0.0, 0.0), ())


def _of(saved: SavedCopy, snapshot: Snapshot) -> ExactCopy:
    layout, state = _layout(saved.coder), snapshot.state
    chunks = tuple(layout.chunk(content, CHUNK) for content in saved.chunks)
    return ExactCopy(state.collection_id, state.generation, saved.first, saved.coder, saved.fitted, saved.reach, chunks)


def _layout(coder: Coder) -> Layout:
    return Layout(coder.head, coder.tail)


def _extended(
    chunk: Chunk, coder: Coder, snapshot: Snapshot, start: int, stop: int, reach: Reach
) -> tuple[Chunk, Reach]:
    """The chunk with the vectors ``start`` to ``stop`` appended, and how far codes reach then."""
    farthest = np.array(reach)

    def codes() -> Iterator[Codes]:
        for first in range(start, stop, _READ):
            vectors = snapshot.fine.read(first, min(first + _READ, stop))
            for at in range(0, len(vectors), _ENCODED_AT_ONCE):
                some = coder.encode(vectors[at : at + _ENCODED_AT_ONCE])
                np.maximum(farthest, some.reach, out=farthest)
                yield some

    made = chunk.extended(codes())
    return made, (float(farthest[0]), float(farthest[1]))
