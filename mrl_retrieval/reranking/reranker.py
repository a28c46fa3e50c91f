"""What can be a reranker, and how it is asked: whatever it answers is checked, whatever it raises is mapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput, MRLError, RerankerError

__all__ = ["Reranker", "as_reranker"]

_PREFIX = "cross-encoder:"

Scores = npt.NDArray[np.float64]


class Reranker:
    """Scores texts for queries; a higher score is better. What :func:`as_reranker` makes. Thread-safe if its model is.

    Args:
        name: for messages and reports.
        load: gives the model; called once, when it is first needed.
    """

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name = name
        self._load = load
        self._model: Any = None
        self._lock = threading.Lock()

    def scores(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[Scores]:
        """For each query the scores of its documents: ``(n,)`` each.

        A model with ``predict`` gets all pairs in one call, a function each query with its documents; neither is called
        where there are no documents.

        Raises:
            RerankerError: it failed, or did not answer with one finite number for each document.
            MissingExtra: the package it needs is not installed.
        """
        with self._lock:
            if self._model is None:
                self._model = self._load()
        model = self._model
        if not callable(getattr(model, "predict", None)):
            return [
                self._asked(partial(model, query, list(texts)), len(texts))
                for query, texts in zip(queries, documents, strict=True)
            ]
        pairs = [(query, text) for query, texts in zip(queries, documents, strict=True) for text in texts]
        flat = self._asked(lambda: model.predict(pairs), len(pairs))
        return np.split(flat, np.cumsum([len(texts) for texts in documents])[:-1])

    def _asked(self, call: Callable[[], Any], count: int) -> Scores:
        if not count:
            return np.empty(0)
        try:
            answer = call()
            scores = np.asarray(answer.tolist() if hasattr(answer, "tolist") else list(answer), dtype=np.float64)
        except MRLError:
            raise
        except Exception as error:  # whatever a foreign model raises
            raise RerankerError(f"the reranker {self.name} failed on {count} documents: {error}") from error
        if scores.shape != (count,):
            raise RerankerError(
                f"the reranker {self.name} answered with shape {scores.shape} for {count} documents, expected "
                f"({count},): one score a document"
            )
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise RerankerError(
                f"the reranker {self.name} scored document {at} of {count} with {scores[at]}, expected a finite number"
            )
        return scores

    def __repr__(self) -> str:
        return f"Reranker({self.name!r})"


def as_reranker(given: Any) -> Reranker:
    """A reranker of whatever can be one.

    Args:
        given: a sentence-transformers ``CrossEncoder`` (anything with ``predict(pairs)``), ``"cross-encoder:NAME"``
            with a folder or a name on the Hub, or a function ``(query, documents) -> scores``.

    Raises:
        InvalidInput: it is none of these.
    """
    if isinstance(given, Reranker):
        return given
    if isinstance(given, str):
        name = given.removeprefix(_PREFIX)
        if name == given or not name:
            raise InvalidInput(f"reranker={given!r}: a name is written {_PREFIX}FOLDER_OR_NAME")
        return Reranker(given, lambda: _cross_encoder(name))
    if callable(getattr(given, "predict", None)) or callable(given):
        return Reranker(getattr(given, "__name__", None) or type(given).__name__, lambda: given)
    raise InvalidInput(
        f"reranker is {type(given).__name__}; pass a CrossEncoder, a function (query, documents) -> scores, or "
        f"{_PREFIX}FOLDER_OR_NAME"
    )


def _cross_encoder(name: str) -> Any:
    from .cross_encoder import load_cross_encoder  # here: it needs an extra

    return load_cross_encoder(name)
