"""Spreading the queries of a batch, or the rows of a block, over threads; for work that mostly holds no lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["THREADS", "spread"]

THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Threads that a batch is spread over at most: the processors that this process may use, and no more than eight."""


def spread(n: int, work: Callable[[int, int], object], *, least: int, threads: int | None = None) -> None:
    """Call ``work(start, stop)`` for parts of 0..``n`` that make up the whole, in threads if it is at least two parts.

    Args:
        n: how much there is.
        work: called once for each part, in any order; what one raises is raised here, when all have ended.
        least: less than this is not worth a thread.
        threads: at most; None: :data:`THREADS`.

    >>> squares = [0] * 10
    >>> def work(start, stop):
    ...     for i in range(start, stop):
    ...         squares[i] = i * i
    >>> spread(10, work, least=3)
    >>> squares[9]
    81
    """
    parts = min(THREADS if threads is None else threads, n // least)
    if parts < 2:
        if n:
            work(0, n)
        return
    # More parts than threads, so that nobody waits long for the slowest.
    pieces = min(4 * parts, n // least)
    bounds = [n * i // pieces for i in range(pieces + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
