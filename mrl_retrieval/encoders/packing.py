"""Texts to requests, and answers as they come: the plain parts of :mod:`mrl_retrieval.encoders.remote`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from typing import TypeVar

from mrl_retrieval.matryoshka import FloatArray

from .token_counts import TokenCounter

__all__ = ["as_they_come", "halved", "packed"]

Rows = TypeVar("Rows")


def packed(
    texts: Sequence[str],
    after: int,
    counter: TokenCounter,
    most_texts: int,
    most_tokens: int,
    taken_before: tuple[int, int] | None = None,
) -> list[list[int]]:
    """Positions of the texts beyond ``after`` that are not empty, in order, as requests within both limits.

    A text that is beyond ``most_tokens`` by itself is a request by itself. ``taken_before``, texts and tokens, is
    what a server that has refused a request is thought to take (see :func:`halved`). It seldom says which of the two
    was too much, so a request with more of only one of them is tried.

    >>> from .token_counts import Estimate
    >>> packed(["a", "", "b", "c"], -1, Estimate(), most_texts=2, most_tokens=100)
    [[0, 2], [3]]
    """
    rows = [i for i in range(after + 1, len(texts)) if texts[i]]
    # Counting takes time, and is not needed if even one token a byte would fit: a character has at most four bytes.
    most = sum(len(texts[i]) * (1 if texts[i].isascii() else 4) for i in rows)
    sizes = counter.counts([texts[i] for i in rows]) if most > most_tokens or taken_before else [0] * len(rows)
    room = most_tokens if counter.exact else most_tokens // 2  # estimates may be too low by half, for digits or base64
    fewer, smaller = taken_before or (most_texts, most_tokens)
    requests: list[list[int]] = []
    taken = 0
    for i, size in zip(rows, sizes, strict=True):
        beyond = taken + size > room or (taken + size > smaller and requests and len(requests[-1]) >= fewer)
        if not requests or len(requests[-1]) == most_texts or beyond:
            requests.append([])
            taken = 0
        requests[-1].append(i)
        taken += size
    return requests


def halved(texts: Sequence[str], counter: TokenCounter, before: tuple[int, int] | None) -> tuple[int, int]:
    """Half of a request that was refused as too much, in texts and tokens, or less if that is known ``before``."""
    half = len(texts) // 2, sum(counter.counts(texts)) // 2
    return half if before is None else (min(half[0], before[0]), min(half[1], before[1]))


def as_they_come(asked: dict[Future[FloatArray], Rows]) -> Iterator[tuple[Rows, FloatArray]]:
    """What was asked and its answer, the first to come first.

    If one fails, those not begun are given up, those under way are still given, and then its error is raised.
    """
    failure: Exception | None = None
    try:
        for future in as_completed(asked):
            try:
                vectors = future.result()
            except CancelledError:
                continue
            except Exception as error:  # noqa: BLE001 - raised below, when the answers under way have come
                failure = failure or error
                for other in asked:
                    other.cancel()
            else:
                yield asked[future], vectors
    finally:
        for future in asked:
            future.cancel()
    if failure is not None:
        raise failure
