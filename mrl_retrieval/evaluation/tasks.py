"""What an encoder is evaluated on: five kinds of task, each checked whole when it is made.

A task holds texts and what people said of them. How it is measured is in ``retrieval.py``, ``labels.py`` and
``similarity.py``, how it is read from files in ``reading.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import DuplicateIdError, InvalidInput

__all__ = ["ClassificationTask", "ClusteringTask", "PairsTask", "SearchTask", "StsTask", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """What all kinds have."""

    name: str

    kind: ClassVar[str]
    unit: ClassVar[str]
    """What is resampled for the intervals."""


@dataclass(frozen=True, slots=True)
class SearchTask(Task):
    """Which documents answer which query.

    Queries without a positive judgement are left out: no ranking can score on them. Documents without text are never
    found, but those that should be count as missed.

    Raises:
        InvalidInput: no documents, nobody judged, a query without text, lists of different lengths, or a judgement
            that names no document or query of this task.
        DuplicateIdError: two documents or two queries have the same id.
    """

    ids: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    judgements: Mapping[str, Mapping[str, float]]
    """By query id and document id; gains above 0 are relevant."""

    kind: ClassVar[str] = "search"
    unit: ClassVar[str] = "queries"

    def __post_init__(self) -> None:
        _same_length(self.name, ids=self.ids, documents=self.documents)
        _same_length(self.name, query_ids=self.query_ids, queries=self.queries)
        if not any(text.strip() for text in self.documents):
            raise InvalidInput(f"{self.name}: the corpus is empty; there is nothing to search")
        for what, ids in (("document", self.ids), ("query", self.query_ids)):
            twice = [id for id, count in Counter(ids).items() if count > 1]
            if twice:
                raise DuplicateIdError(f"{self.name}: the {what} id {twice[0]!r} is there {ids.count(twice[0])} times")
        _known(self.name, "query", self.judgements, self.query_ids)
        _known(self.name, "document", (id for gains in self.judgements.values() for id in gains), self.ids)
        judged = {id for id, gains in self.judgements.items() if any(gain > 0 for gain in gains.values())}
        if not judged:
            raise InvalidInput(
                f"{self.name}: no query has a document with a judgement above 0 ({len(self.query_ids)} queries, "
                f"{len(self.judgements)} judged)"
            )
        empty = [id for id, text in zip(self.query_ids, self.queries, strict=True) if id in judged and not text.strip()]
        if empty:
            raise InvalidInput(f"{self.name}: the query {empty[0]!r} has no text")

    @property
    def judged(self) -> list[int]:
        """Places of the queries that have a positive judgement."""
        return [
            place
            for place, id in enumerate(self.query_ids)
            if any(gain > 0 for gain in self.judgements.get(id, {}).values())
        ]


@dataclass(frozen=True, slots=True)
class ClassificationTask(Task):
    """Texts with labels to learn from, and others to be told.

    Raises:
        InvalidInput: labels of fewer than two classes, a label that is only in the test, no texts, one that is empty,
            or lists of different lengths.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    test_texts: tuple[str, ...]
    test_labels: tuple[str, ...]

    kind: ClassVar[str] = "classification"
    unit: ClassVar[str] = "test texts"

    def __post_init__(self) -> None:
        _same_length(self.name, texts=self.texts, labels=self.labels)
        _same_length(self.name, test_texts=self.test_texts, test_labels=self.test_labels)
        if not self.test_texts:
            raise InvalidInput(f"{self.name}: there are no texts to test on")
        _no_empty(self.name, (*self.texts, *self.test_texts))
        _two_classes(self.name, self.labels)
        _two_classes(f"{self.name} (test)", self.test_labels)
        new = sorted(set(self.test_labels) - set(self.labels))
        if new:
            raise InvalidInput(f"{self.name}: the label {new[0]!r} is in the test, but no text to learn from has it")


@dataclass(frozen=True, slots=True)
class ClusteringTask(Task):
    """Texts with labels that a clustering should find again.

    Raises:
        InvalidInput: labels of fewer than two classes, an empty text, or lists of different lengths.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    kind: ClassVar[str] = "clustering"
    unit: ClassVar[str] = "texts"

    def __post_init__(self) -> None:
        _same_length(self.name, texts=self.texts, labels=self.labels)
        _no_empty(self.name, self.texts)
        _two_classes(self.name, self.labels)


@dataclass(frozen=True, slots=True)
class StsTask(Task):
    """Pairs of texts, and how alike people found them.

    Raises:
        InvalidInput: fewer than three pairs, scores that are all the same or not finite, an empty text, or lists of
            different lengths.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]

    kind: ClassVar[str] = "sts"
    unit: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        _same_length(self.name, first=self.first, second=self.second, scores=self.scores)
        _no_empty(self.name, (*self.first, *self.second))
        if len(self.scores) < 3:
            raise InvalidInput(f"{self.name}: {len(self.scores)} pairs have no correlation; give three at least")
        if not np.isfinite(self.scores).all():
            raise InvalidInput(f"{self.name}: a score is not finite")
        if len(set(self.scores)) < 2:
            raise InvalidInput(f"{self.name}: every score is {self.scores[0]:g}; nothing correlates with a constant")


@dataclass(frozen=True, slots=True)
class PairsTask(Task):
    """Pairs of texts: how alike the encoder finds them, and how much of that a prefix keeps.

    Raises:
        InvalidInput: no pairs, an empty text, lists of different lengths, or ``alike`` that is the same for all.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    alike: tuple[bool, ...] | None = None
    """Which pairs belong together; None: all."""

    kind: ClassVar[str] = "pairs"
    unit: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        _same_length(self.name, first=self.first, second=self.second)
        if not self.first:
            raise InvalidInput(f"{self.name}: there are no pairs")
        _no_empty(self.name, (*self.first, *self.second))
        if self.alike is not None:
            _same_length(self.name, first=self.first, alike=self.alike)
            if len(set(self.alike)) < 2:
                raise InvalidInput(
                    f"{self.name}: every pair has the label {int(self.alike[0])}; give both, or leave the labels out"
                )


def _same_length(name: str, **lists: Sequence[Any]) -> None:
    (one, first), *others = lists.items()
    for other, values in others:
        if len(values) != len(first):
            raise InvalidInput(f"{name}: {len(first)} {one}, but {len(values)} {other}; there must be as many")


def _known(name: str, what: str, named: Any, ids: Sequence[str]) -> None:
    known = set(ids)
    unknown = [id for id in named if id not in known]
    if unknown:
        raise InvalidInput(
            f"{name}: the judgements name the {what} {unknown[0]!r}, which is not among the {len(known)} there are "
            f"({len(unknown)} such); take them out, or give the files that belong together"
        )


def _no_empty(name: str, texts: Sequence[str]) -> None:
    empty = [place for place, text in enumerate(texts) if not text.strip()]
    if empty:
        raise InvalidInput(f"{name}: text {empty[0] + 1} of {len(texts)} is empty; leave it out")


def _two_classes(name: str, labels: Sequence[str]) -> None:
    classes = set(labels)
    if len(classes) < 2:
        which = f"only the label {labels[0]!r}" if labels else "no labels"
        raise InvalidInput(f"{name}: {len(labels)} texts have {which}; two classes are needed at least")
