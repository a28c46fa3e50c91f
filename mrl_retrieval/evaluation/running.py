"""``evaluate``: every text encoded once, every length measured from that, on every task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from ..encoder import as_encoder
from ..encoders.embedding_cache import cached
from ..errors import DimensionError, InvalidInput
from ..matryoshka import FloatArray, ladder
from ..progress import progress_report
from ..rotation import Rotation
from ..settings import check_positive
from .bootstrap import DRAWS, SEED
from .labels import Codes, measure_classification, measure_clustering
from .measured import Measured, rows
from .reading import load_task
from .report import EvaluationReport, TaskReport
from .retrieval import Corpus, main_metric
from .similarity import measure_pairs, measure_sts
from .tasks import ClassificationTask, ClusteringTask, PairsTask, SearchTask, StsTask, Task
from .texts import Form, TextVectors, all_forms, fitted

__all__ = ["evaluate"]

_PACKAGES = ("mrl-retrieval", "numpy", "scikit-learn", "scipy")


def evaluate(
    encoder: Any,
    tasks: str | Task | Sequence[str | Task],
    *,
    dims: Sequence[int] | None = None,
    k: int = 10,
    candidates: int = 100,
    rotate: bool = False,
    cache: bool | str | Path = False,
    batch_size: int = 256,
    progress: bool | Callable[[int, int | None], None] = False,
) -> EvaluationReport:
    """What each prefix length of an encoder is worth on tasks of one's own. The same call gives the same values.

    Args:
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it.
        tasks: as :func:`~mrl_retrieval.evaluation.load_task` reads them, or made by hand.
        dims: prefix lengths; the full one is always measured too. None: the powers of two from 32 up.
        k: hits of a search that count: nDCG@k, recall@k, MRR@k, and the coverage of the true top k.
        candidates: of the coarse stage, at least ``k``.
        rotate: measure rotated prefixes too; the rotation is fitted on each task's own texts (of a search its
            documents, of a classification those to learn from), never on its labels.
        cache: True, or a file, to keep embeddings in, as for remote encoders (:mod:`mrl_retrieval.encoders`).
        batch_size: texts encoded at a time.
        progress: as :meth:`~mrl_retrieval.MatryoshkaRetriever.index` takes it.

    Raises:
        DimensionError: a length is beyond the encoder's.
        InvalidInput: a task cannot be used, or an argument; said before anything is encoded.
        EncoderError: the encoder failed.

    >>> from mrl_retrieval.evaluation import SearchTask
    >>> task = SearchTask("fruit", ("a", "b"), ("a red apple", "a blue plum"), ("q",), ("apples",), {"q": {"a": 1.0}})
    >>> report = evaluate("hashing:64", task, dims=[32], candidates=10)
    >>> report.task("fruit").at(64).metrics["ndcg@10"].value
    1.0
    """
    check_positive(k, "k")
    check_positive(candidates, "candidates")
    check_positive(batch_size, "batch_size")
    if candidates < k:
        raise InvalidInput(f"candidates={candidates} cannot hold the true top k={k}")
    given = [tasks] if isinstance(tasks, (str, Task)) else list(tasks)
    if not given:
        raise InvalidInput("there are no tasks; give one at least")
    model = as_encoder(encoder)
    too_long = [length for length in dims or () if length > model.dim]
    if too_long:
        raise DimensionError(
            f"dims has {too_long[0]}, the encoder {model.identity.name or model.identity.model or ''} gives "
            f"{model.dim}; ask for at most so many"
        )
    lengths = ladder(model.dim, dims)
    loaded = _named_apart([load_task(task) if isinstance(task, str) else task for task in given])
    model = cached(model, cache)
    began = datetime.now(UTC)
    with progress_report(progress, range(sum(_texts(task) for task in loaded))) as report:
        vectors = TextVectors(model, batch_size, report)
        found = tuple(_measured(task, vectors, lengths, k, candidates, rotate) for task in loaded)
    return EvaluationReport(
        encoder=model.identity,
        date=began.isoformat(timespec="seconds"),
        versions={"python": python_version(), **{name: _version(name) for name in _PACKAGES}},
        settings={
            "dims": list(lengths),
            "k": k,
            "candidates": candidates,
            "rotate": bool(rotate),
            "draws": DRAWS,
            "confidence": 0.95,
            "seed": SEED,
        },
        tasks=found,
    )


def _measured(
    task: Task, vectors: TextVectors, lengths: tuple[int, ...], k: int, candidates: int, rotate: bool
) -> TaskReport:
    encoded, seconds = vectors.encoded, vectors.seconds
    turning: list[float] = []

    def forms(sample: FloatArray) -> list[Form]:
        rotation: Rotation | None = None
        if rotate and len(lengths) > 1:
            began = time.perf_counter()
            rotation = fitted(sample, lengths)
            turning.append(time.perf_counter() - began)
        return all_forms(lengths, rotation)

    main, counts, found = _by_kind(task, vectors, forms, k, candidates)
    return TaskReport(
        name=task.name,
        kind=task.kind,
        main=main,
        counts=counts,
        encoded=vectors.encoded - encoded,
        encode_seconds=vectors.seconds - seconds,
        rotation_seconds=turning[0] if turning else None,
        rows=rows(found, lengths[-1]),
    )


def _by_kind(
    task: Task, vectors: TextVectors, forms: Callable[[FloatArray], list[Form]], k: int, candidates: int
) -> tuple[str, dict[str, int], list[Measured]]:
    """The main metric, what the task is made of, and what was measured."""
    match task:
        case SearchTask():
            corpus = Corpus(task, vectors)
            return main_metric(k), corpus.counts, corpus.measure(forms(corpus.documents), k, candidates)
        case ClassificationTask():
            train, test = vectors.of(task.texts), vectors.of(task.test_texts)
            labels, expected = _codes(task.labels, task.labels), _codes(task.test_labels, task.labels)
            counts = {"texts": len(labels), "test_texts": len(expected), "classes": int(labels.max()) + 1}
            return "accuracy", counts, measure_classification(forms(train), train, labels, test, expected)
        case ClusteringTask():
            texts, labels = vectors.of(task.texts), _codes(task.labels, task.labels)
            counts = {"texts": len(labels), "classes": int(labels.max()) + 1}
            return "v-measure", counts, measure_clustering(forms(texts), texts, labels)
        case StsTask() | PairsTask():
            both = vectors.of([*task.first, *task.second])
            first, second = both[: len(task.first)], both[len(task.first) :]
            counts = {"pairs": len(first)}
            if isinstance(task, StsTask):
                return "spearman", counts, measure_sts(forms(both), first, second, np.array(task.scores, np.float64))
            alike = None if task.alike is None else np.array(task.alike, dtype=np.bool_)
            return "similarity", counts, measure_pairs(forms(both), first, second, alike)
    raise InvalidInput(f"{type(task).__name__} is no task that is known")


def _codes(labels: Sequence[str], known: Sequence[str]) -> Codes:
    """Each label's place among the sorted ones."""
    places = {label: place for place, label in enumerate(sorted(set(known)))}
    return np.array([places[label] for label in labels], dtype=np.intp)


def _texts(task: Task) -> int:
    match task:
        case SearchTask():
            return sum(bool(text.strip()) for text in task.documents) + len(task.judged)
        case ClassificationTask():
            return len(task.texts) + len(task.test_texts)
        case ClusteringTask():
            return len(task.texts)
        case StsTask() | PairsTask():
            return 2 * len(task.first)
    raise InvalidInput(f"{type(task).__name__} is no task: pass one of {Task.__subclasses__()}, or a text")


def _named_apart(tasks: list[Task]) -> list[Task]:
    names = [task.name for task in tasks if isinstance(task, Task)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"two tasks are called {twice[0]!r}; give each once, or name the files differently")
    return tasks


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
