"""Vectors that make exact search hard, and the plain answer."""

import numpy as np

from mrl_retrieval.exact.codes import Coder
from mrl_retrieval.exact.layout import CHUNK, Layout
from mrl_retrieval.exact.search import search
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.storage.records import SegmentFormat
from mrl_retrieval.storage.scan import best_of, cosines

KINDS = ("random", "clustered", "tied", "spiked", "denormal", "decaying", "zeros", "cone", "few values", "scaled")
DTYPES = ("float16", "float32", "int8")


def vectors_of(kind, n, dims, seed=0):
    """n unit rows (or zero rows) of a hard kind, float32."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dims)).astype(np.float32)
    if kind == "clustered":
        rows = rng.normal(size=(1, dims)) + 1e-5 * rows
    elif kind == "tied":
        rows = rows[rng.integers(0, max(1, n // 7), n)] if n else rows
    elif kind == "spiked":
        rows[:, rng.integers(0, dims)] += 50
        rows[rng.random(n) < 0.2, rng.integers(0, dims)] = 1e4
    elif kind == "denormal":
        rows *= np.float32(10.0) ** rng.integers(-40, 1, (n, dims)).astype(np.float32)
    elif kind == "decaying":
        rows *= np.float32(0.9) ** np.arange(dims, dtype=np.float32)
    elif kind == "zeros":
        rows[rng.random(n) < 0.5] = 0
    elif kind == "cone":
        rows = rows * np.float32(0.1) + rng.normal(size=dims).astype(np.float32)
    elif kind == "few values":
        rows = rng.integers(-1, 2, (n, dims)).astype(np.float32)
    elif kind == "scaled":  # not unit at all: the store never holds such, and the search must not care
        return (normalize(rows) * np.float32(10.0) ** rng.integers(-30, 15, (n, 1))).astype(np.float32)
    return normalize(rows)


def queries_of(vectors, count, dims, seed=0):
    """Queries: strangers, stored vectors, neighbours of stored ones, and one of zeros."""
    rng = np.random.default_rng(seed + 1)
    rows = rng.normal(size=(count, dims)).astype(np.float32)
    for i in range(count):
        if len(vectors) and i % 4:
            near = normalize(vectors[rng.integers(0, len(vectors))][None])[0]
            rows[i] = near if i % 4 == 1 else near + 1e-3 * normalize(rows[i : i + 1])[0]
    if count > 4:
        rows[4] = 0
    return normalize(rows)


class Stored:
    """Vectors as a store would hold them, and which were asked for."""

    def __init__(self, vectors, dtype, first=0):
        dims = vectors.shape[1]
        layout = SegmentFormat(dtype, dims, 1000, "c")
        with np.errstate(over="ignore"):
            self.vectors = layout.decode(np.ascontiguousarray(layout.encode(vectors)))
        self.first = first
        self.asked = 0

    def gather(self, numbers):
        self.asked += len(numbers)
        return np.ascontiguousarray(self.vectors[numbers - self.first])

    def read(self, start, stop):
        return self.gather(np.arange(start, stop))


def encoded(vectors, coder=None, sizes=(512,)):
    """Chunks of codes, appended in pieces of some sizes."""
    coder = Coder.fit(vectors[::3]) if coder is None else coder
    layout, chunks, reach, at, piece = Layout(coder.head, coder.tail), [], np.zeros(2), 0, 0
    while at < len(vectors):
        if not chunks or chunks[-1].rows == CHUNK:
            chunks.append(layout.empty())
        stop = min(at + sizes[piece % len(sizes)], len(vectors), at + CHUNK - chunks[-1].rows)
        codes = coder.encode(vectors[at:stop])
        chunks[-1], reach = chunks[-1].extended([codes]), np.maximum(reach, codes.reach)
        at, piece = stop, piece + 1
    return chunks, coder, reach


def searched(stored, queries, k, allowed, *, coded=None, **options):
    """The answer of the search, over codes of all that is stored."""
    chunks, coder, reach = encoded(stored.vectors) if coded is None else coded
    return search(chunks, coder, reach, stored, stored.first, queries, k, allowed, **options)


def plain(stored, query, k, allowed):
    """Every allowed vector scored, none left out: numbers ascending, and scores."""
    numbers = np.flatnonzero(allowed)
    scores = cosines(query, stored.vectors[numbers], len(query)) if len(numbers) else np.empty(0, np.float32)
    chosen = best_of(scores, k) if len(numbers) else numbers
    return numbers[chosen] + stored.first, scores[chosen]


def check(stored, queries, k, allowed, answer):
    """Hold an answer to the plain one: the same numbers, ties included, and the same scores to the last bit."""
    assert len(answer.found) == len(queries)
    for query, (numbers, scores) in zip(queries, answer.found, strict=True):
        expected, expected_scores = plain(stored, query, k, allowed)
        order = np.argsort(numbers)
        np.testing.assert_array_equal(numbers[order], expected)
        np.testing.assert_array_equal(scores[order], expected_scores)
        assert scores.dtype == np.float32 and numbers.dtype == np.int64
