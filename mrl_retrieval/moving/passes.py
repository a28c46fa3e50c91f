"""Bringing a target up to its source, in passes, until there is nothing left to bring.

A pass reads the source batch by batch and writes what the target does not hold as it should; passes go on until one
finds nothing to write and both sides hold as many rows. So the last pass is a check of every row, what was interrupted
is taken up by running it again, and rows that were written to the source meanwhile arrive too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..backend import Backend
from ..documents import RowBatch
from ..errors import ConflictError
from ..progress import progress_report
from ..retrying import repeated

__all__ = ["Moved", "Mover", "Progress", "bring_over", "equal_json"]

Progress = bool | Callable[[int, int | None], None]

_MOST_PASSES = 10
_FIRST_PASSES = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """What the passes did."""

    rows: int
    """Rows in the source, and now in the target."""
    vectors: int
    """Of these, rows that have a vector in the source."""
    written: int
    removed: int


class Mover(ABC):
    """What makes one kind of move: which rows of a batch are still to be written, and in what form."""

    vectors: bool
    """Whether the source's vectors are needed."""

    @abstractmethod
    def missing(self, batch: RowBatch, target: Backend) -> list[int]:
        """Positions of the rows that the target does not hold as it should."""

    def check(self, target: Backend) -> None:
        """Called before every write: raises where the move is no longer ours to make."""

    @abstractmethod
    def converted(self, batch: RowBatch) -> RowBatch:
        """The rows as the target is to hold them."""


def bring_over(
    source: Backend,
    target: Backend,
    mover: Mover,
    *,
    batch_size: int,
    started: bool,
    progress: Progress,
    to_the_end: bool = True,
) -> Moved:
    """Passes until nothing is left to write or to remove.

    Args:
        source, target: open, each with a manifest.
        mover: what to write.
        batch_size: rows read and written at a time.
        started: the target may hold rows already; False saves the first comparison.
        progress: as :meth:`~mrl_retrieval.MatryoshkaRetriever.index` takes it; a function sees one call after another
            begin at zero, one for each pass.
        to_the_end: False: it is enough that a pass wrote no more than a batch, or that there were three; writers may go
            on meanwhile.

    Raises:
        ConflictError: the source was written to during every pass.
    """
    written = removed = 0
    total = source.count()
    for number in range(_MOST_PASSES):
        with progress_report(progress, range(total)) as report:
            n, rows, vectors = _pass(source, target, mover, batch_size, number > 0 or started, report)
        gone = _remove_others(source, target, mover, batch_size) if to_the_end and target.count() != rows else 0
        written, removed = written + n, removed + gone
        if not to_the_end and (n <= batch_size or number == _FIRST_PASSES - 1):
            return Moved(rows, vectors, written, removed)
        if n == gone == 0 and target.count() == rows == source.count():
            return Moved(rows, vectors, written, removed)
    raise ConflictError(
        f"{source.address} was written to during each of {_MOST_PASSES} passes, so that {target.address} is still "
        "behind: stop the writers, and run it again; what is there is kept"
    )


def _pass(
    source: Backend, target: Backend, mover: Mover, batch_size: int, compare: bool, report: Callable[[int], None]
) -> tuple[int, int, int]:
    """One pass: rows written, rows seen, rows with a vector seen."""
    written = seen = vectors = 0
    for batch in source.scan(vectors=mover.vectors, batch_size=batch_size):
        kept = mover.missing(batch, target) if compare else list(range(len(batch)))
        if kept:
            part = mover.converted(_part(batch, kept))
            mover.check(target)
            repeated(partial(target.upsert, part), f"writing {len(part)} rows to {target.address}")
        written, seen, vectors = written + len(kept), seen + len(batch), vectors + int(batch.has_vector.sum())
        report(seen)
    return written, seen, vectors


def _part(batch: RowBatch, kept: list[int]) -> RowBatch:
    if len(kept) == len(batch):
        return batch
    return RowBatch(
        [batch.ids[i] for i in kept],
        [batch.documents[i] for i in kept],
        [batch.metadatas[i] for i in kept],
        None if batch.vectors is None else batch.vectors[kept],
        batch.has_vector[kept],
    )


def _remove_others(source: Backend, target: Backend, mover: Mover, batch_size: int) -> int:
    """Delete from the target what the source does not have."""
    removed = 0
    listed = [id for batch in target.scan(documents=False, batch_size=batch_size) for id in batch.ids]
    for start in range(0, len(listed), batch_size):
        ids = listed[start : start + batch_size]
        others = [id for id, row in zip(ids, source.get(ids), strict=True) if row is None]
        mover.check(target)
        removed += target.delete(others) if others else 0
    return removed


def equal_json(a: Any, b: Any) -> bool:
    """Equal with their types: 1, 1.0 and True are three values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_json(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal_json, a, b))
    return bool(a == b)
