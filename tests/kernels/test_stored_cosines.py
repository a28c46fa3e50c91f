"""Compiled cosines of stored vectors are those of NumPy, to the last bit, and refuse what NumPy refuses."""

import mmap

import numpy as np
import pytest

from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.storage.checks import vector_sums
from mrl_retrieval.storage.records import SegmentFormat
from mrl_retrieval.storage.scan import cosines
from mrl_retrieval.storage.segments import Segments
from mrl_retrieval.storage.stored_cosines import best_stored, stored_cosines


def stored(tmp_path, dtype, dims, rows=300, first=7, per_segment=128, sums=True):
    rng = np.random.default_rng(dims)
    vectors = normalize(rng.standard_normal((rows, dims)).astype(np.float32))
    vectors[5] = 0
    vectors[6] = vectors[9]
    layout = SegmentFormat(dtype, dims, per_segment, "a")
    segments = Segments(tmp_path / "segments", layout)
    records = layout.encode(vectors)
    spans = segments.append(None, 0, np.concatenate([records[:first], records]))
    kept = vector_sums(records) if sums else None
    return segments.view(first, first + rows, spans, kept), vectors


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("dims", [1, 3, 6, 63, 64, 65, 100, 128, 250, 768])
@pytest.mark.parametrize("sums", [True, False])
def test_the_same_to_the_last_bit(tmp_path, dtype, dims, sums):
    fine, _ = stored(tmp_path, dtype, dims, sums=sums)
    rng = np.random.default_rng(1)
    numbers = rng.permutation(np.arange(fine.first, fine.vectors))[:257]
    for query in (rng.standard_normal(dims).astype(np.float32), np.zeros(dims, np.float32)):
        for part in {dims, max(1, dims // 2), max(1, dims - 1), min(64, dims)}:
            ours = stored_cosines(fine, numbers, query, part, compiled=True)
            expected = cosines(query, fine.gather(numbers), part)
            np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))
            np.testing.assert_array_equal(stored_cosines(fine, numbers, query, part, compiled=False), expected)


def test_equal_vectors_score_equally_wherever_they_stand(tmp_path):
    fine, _ = stored(tmp_path, "float16", 100)
    scores = stored_cosines(fine, np.array([13, 16, 14, 16, 13]), np.arange(100, dtype=np.float32), 100, compiled=True)
    assert scores[0] == scores[1] == scores[3] == scores[4] != scores[2]


def test_scores_are_the_cosines(tmp_path):
    fine, vectors = stored(tmp_path, "float32", 250)
    query = normalize(np.random.default_rng(3).standard_normal((1, 250)))[0]
    numbers = np.arange(fine.first, fine.vectors)
    scores = stored_cosines(fine, numbers, query, 250, compiled=True)
    np.testing.assert_allclose(scores, vectors.astype(np.float64) @ query.astype(np.float64), atol=2e-7)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_changed_byte_is_refused(tmp_path, compiled):
    fine, _ = stored(tmp_path, "float16", 101)
    path = fine.parts[1].path
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[64 + 3 * 202 + 201] ^= 1  # the last byte of the fourth row of the second segment
    query = np.ones(101, np.float32)
    stored_cosines(fine, np.array([128, 129, 130, 132]), query, 101, compiled=compiled)
    with pytest.raises(CorruptionError, match="another vector than was written"):
        stored_cosines(fine, np.array([128, 131]), query, 101, compiled=compiled)


def test_nothing_is_scored_for_nobody(tmp_path):
    fine, _ = stored(tmp_path, "float16", 6)
    assert stored_cosines(fine, np.empty(0, np.int64), np.ones(6, np.float32), 6, compiled=True).shape == (0,)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dims", [64, 100])
def test_the_best_of_each_query_with_what_ties(tmp_path, dims, compiled):
    fine, _ = stored(tmp_path, "float16", dims)
    rng = np.random.default_rng(2)
    queries = np.concatenate([fine.gather(np.array([16, 100])), np.zeros((1, dims), np.float32)])
    queries = np.concatenate([queries, rng.standard_normal((3, dims)).astype(np.float32)])
    numbers = np.stack([rng.permutation(np.arange(fine.first, fine.vectors))[:200] for _ in queries])
    numbers[0, :3] = 13, 16, 13  # two equal vectors, one of them twice
    counts = np.array([200, 150, 40, 5, 0, 7])
    asked = numbers.copy()
    found = best_stored(fine, numbers.copy(), counts.copy(), queries, 7, compiled=compiled)
    for q, (kept, scores) in enumerate(found):
        given = asked[q, : counts[q]]
        expected = cosines(queries[q], fine.gather(given), dims)
        best = expected >= np.sort(expected)[max(0, len(given) - 7)] if len(given) else np.zeros(0, bool)
        np.testing.assert_array_equal(kept, given[best])
        np.testing.assert_array_equal(scores.view(np.uint32), expected[best].view(np.uint32))
    assert [len(kept) for kept, _ in found[1:]] == [7, 40, 5, 0, 7]  # everything is equally far from nothing
    assert np.count_nonzero(np.isin(found[0][0], [13, 16])) >= 3


@pytest.mark.parametrize("compiled", [True, False])
def test_the_best_of_vectors_that_were_changed_are_refused(tmp_path, compiled):
    fine, _ = stored(tmp_path, "float16", 101)
    with fine.parts[1].path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[64 + 3 * 202] ^= 1  # the vector 131
    numbers, queries = np.array([[128, 129], [130, 131]]), np.ones((2, 101), np.float32)
    best_stored(fine, numbers.copy(), np.array([2, 1]), queries, 1, compiled=compiled)
    with pytest.raises(CorruptionError, match="at byte 670"):
        best_stored(fine, numbers.copy(), np.array([2, 2]), queries, 1, compiled=compiled)


def test_more_candidates_than_pages_are_looked_up_at_once(tmp_path):
    fine, _ = stored(tmp_path, "float16", 64, rows=3000, per_segment=1000)
    numbers, query = np.arange(fine.first, fine.vectors)[::-1].copy(), np.ones(64, np.float32)
    expected = cosines(query, fine.gather(numbers), 64)
    np.testing.assert_array_equal(stored_cosines(fine, numbers, query, 64, compiled=True), expected)
    numbers = np.stack([numbers, numbers])
    (kept, scores), _ = best_stored(fine, numbers, np.array([3000, 2047]), np.stack([query, query]), 10, compiled=True)
    assert sorted(scores) == sorted(expected)[-10:] and len(kept) == 10
