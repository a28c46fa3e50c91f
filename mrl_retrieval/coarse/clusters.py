"""K-means for the lists of the coarse index: Lloyd's iterations, with vectors and centroids in bytes.

Nearest centroids are found with integer products, an order of magnitude faster than with matrix products in single
precision; the centroids are means in single precision. What is lost by the bytes is less than what another random
start changes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import FloatArray

from .codes import ByteCentroids, byte_centroids

__all__ = ["k_means"]

_ITERATIONS = 8
_BLOCK = 8192


def k_means(
    vectors: FloatArray,
    clusters: int,
    *,
    loops: ModuleType,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
    seed: int = 20262,
) -> ByteCentroids:
    """Centroids of ``clusters`` clusters of vectors (n, d), in 8 bits.

    Args:
        vectors: at least as many as ``clusters``.
        clusters: at least 1.
        loops: the module with ``assign``.
        threads: to use.
        stop: asked between iterations; once it says so, the centroids are left as they are.
        seed: of the random start.

    Raises:
        InvalidInput: there are fewer vectors than clusters.
    """
    if len(vectors) < clusters:
        raise InvalidInput(f"{len(vectors)} vectors cannot be put into {clusters} lists; index more, or ask for fewer")
    rng = np.random.default_rng(seed)
    centroids = vectors[rng.choice(len(vectors), clusters, replace=False)]
    for _ in range(_ITERATIONS):
        if stop():
            break
        owners = _assigned(vectors, byte_centroids(centroids), clusters, loops, threads)
        counts = np.bincount(owners, minlength=clusters)
        order = np.argsort(owners, kind="stable")
        held = np.flatnonzero(counts)
        begins = np.concatenate([[0], np.cumsum(counts[held])[:-1]])
        centroids[held] = np.add.reduceat(vectors[order], begins, axis=0) / counts[held, None].astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        # A list that nobody is in starts anew at a document of a large one.
        crowded = counts[owners] / counts[owners].sum()
        centroids[empty] = vectors[rng.choice(len(vectors), len(empty), replace=False, p=crowded)]
    return byte_centroids(centroids)


def _assigned(
    vectors: FloatArray, centroids: ByteCentroids, clusters: int, loops: ModuleType, threads: int
) -> npt.NDArray[np.int64]:
    owners = np.empty(len(vectors), np.int64)

    def assign(start: int) -> None:
        part = slice(start, start + _BLOCK)
        loops.assign(vectors[part], centroids.codes, centroids.scales, centroids.half_squares[:clusters], owners[part])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(assign, range(0, len(vectors), _BLOCK)))
    return owners
