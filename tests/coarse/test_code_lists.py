"""Code lists: compiled and NumPy loops agree to the last bit; all that is asked for is found; nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval.coarse import kernels, reference
from mrl_retrieval.coarse.codes import byte_centroids, padded
from mrl_retrieval.coarse.lists import CodeLists
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import normalize


def clustered(n, dims, seed=0, clusters=12):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dims))
    vectors = centres[rng.integers(0, clusters, n)] + 0.4 * rng.standard_normal((n, dims))
    return normalize(vectors.astype(np.float32))


def centroids(vectors, lists):
    return vectors[np.random.default_rng(5).choice(len(vectors), lists, replace=False)]


def made(vectors, lists=1, compiled=True, batch=10_000):
    index = CodeLists(vectors.shape[1], centroids(vectors, lists) if lists > 1 else None, compiled=compiled)
    for start in range(0, len(vectors), batch):
        index.add(vectors[start : start + batch])
    return index


def found(index, queries, limit, probes=None, allowed=None):
    mask = np.ones(index.count, bool) if allowed is None else allowed
    scores, places = index.search(queries, limit, probes or index.lists, mask, int(mask.sum()))
    return [dict(zip(p.tolist(), s.tolist(), strict=True)) for s, p in zip(scores, places, strict=True)]


@pytest.mark.parametrize("dims", [1, 6, 8, 24, 64, 100])
@pytest.mark.parametrize("lists", [1, 2, 20])
def test_compiled_and_numpy_agree(dims, lists):
    vectors = clustered(500, dims)
    vectors[7] = 0
    vectors[8] = vectors[9]
    queries = np.concatenate([clustered(5, dims, seed=3), np.zeros((1, dims), np.float32)])
    fast, slow = (made(vectors, lists, compiled, batch=130) for compiled in (True, False))
    for (name, a), (_, b) in zip(fast.arrays(), slow.arrays(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    rng = np.random.default_rng(2)
    for share in (1.0, 0.5, 0.02):
        allowed = rng.random(500) < share
        for limit, probes in ((1, 1), (10, 3), (500, lists)):
            for a, b in zip(*(found(i, queries, limit, probes, allowed) for i in (fast, slow)), strict=True):
                # Which of equal scores are taken at the end of the candidates is open.
                assert sorted(a.values()) == sorted(b.values())
                least = min(a.values(), default=0)
                assert {p: s for p, s in a.items() if s > least} == {p: s for p, s in b.items() if s > least}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("lists", [1, 20])
def test_all_lists_find_what_a_scan_of_the_decoded_codes_finds(compiled, lists):
    vectors, queries = clustered(800, 32), clustered(4, 32, seed=9)
    index = made(vectors, lists, compiled)
    all_of_them = found(index, queries, 800)
    for query, scores in zip(queries, all_of_them, strict=True):
        assert set(scores) == set(range(800))
        np.testing.assert_allclose([scores[i] for i in range(800)], vectors @ query, atol=0.08)
        best = found(index, query[None], 50)[0]
        assert sorted(best.values()) == sorted(scores.values())[-50:]


def test_the_estimate_of_a_vector_with_itself_is_its_length():
    vectors = clustered(300, 64)
    index = made(vectors)
    own = [found(index, v[None], 300)[0][i] for i, v in enumerate(vectors[:50])]
    np.testing.assert_allclose(own, 1, atol=0.01)


@pytest.mark.parametrize("lists", [1, 16])
def test_only_what_is_allowed_is_found_and_enough_of_it(lists):
    vectors = clustered(2000, 16)
    index = made(vectors, lists)
    rng = np.random.default_rng(4)
    for share in (0.9, 0.1, 0.03, 0.002):
        allowed = rng.random(2000) < share
        for limit in (1, 20, 3000):
            for scores in found(index, vectors[:6], limit, 1, allowed):
                assert len(scores) == min(limit, allowed.sum())
                assert allowed[list(scores)].all()


def test_nobody_is_found_where_nobody_is():
    index = CodeLists(8)
    assert found(index, np.ones((2, 8), np.float32), 5) == [{}, {}]
    index.add(np.eye(8, dtype=np.float32))
    assert found(index, np.ones((1, 8), np.float32), 5, allowed=np.zeros(8, bool)) == [{}]
    assert found(index, np.empty((0, 8), np.float32), 5) == []


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=8),
    lists=st.sampled_from([1, 3, 17]),
    drop=st.integers(0, 40),
    seed=st.integers(0, 5),
)
def test_however_they_were_added_the_same_are_found(sizes, lists, drop, seed):
    n = sum(sizes)
    vectors = clustered(max(n, 20), 12, seed)
    index = made(vectors[:0], 1) if lists == 1 else CodeLists(12, centroids(vectors, lists))
    start = 0
    for size in sizes:
        index.add(vectors[start : start + size])
        start += size
    dropped = min(drop, n)
    if dropped:
        index.drop_front(dropped)
    at_once = CodeLists(12) if lists == 1 else CodeLists(12, centroids(vectors, lists))
    at_once.add(vectors[dropped:n])
    query = vectors[:1]
    assert index.count == at_once.count == n - dropped
    assert found(index, query, n + 1) == found(at_once, query, n + 1)
    again = CodeLists.of_arrays({name: array.copy() for name, array in index.arrays()})
    again.add(vectors[:5])
    index.add(vectors[:5])
    assert found(again, query, n + 9) == found(index, query, n + 9)
    before = found(index, query, n + 9)
    index.settle()
    assert found(index, query, n + 9) == before
    index.add(vectors[:7])
    again.add(vectors[:7])
    assert found(again, query, n + 9) == found(index, query, n + 9)
    at = index.count - 7
    assert not index.differing(at, vectors[:7])
    assert index.differing(at, -vectors[:7])


def test_encoding_in_threads_is_the_same():
    vectors = clustered(40_000, 8)
    one, two = CodeLists(8), CodeLists(8)
    one.add(vectors)
    two.add(vectors, threads=2)
    for (name, a), (_, b) in zip(one.arrays(), two.arrays(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("loops", [kernels, reference])
def test_documents_go_to_the_nearest_centroid(loops):
    vectors = clustered(300, 24)
    held = byte_centroids(np.pad(centroids(vectors, 10), ((0, 0), (0, padded(24) - 24))))
    owners = np.empty(300, np.int64)
    loops.assign(vectors, held.codes, held.scales, held.half_squares[:10], owners)
    far = ((vectors[:, None] - held.values[None, :10]) ** 2).sum(axis=2)
    # Vectors in bytes are off by up to half a unit a component.
    assert (far[np.arange(300), owners] <= far.min(axis=1) + 0.01).all()
    assert np.mean(owners == far.argmin(axis=1)) > 0.98


def test_arrays_that_do_not_fit_are_refused():
    index = made(clustered(400, 24), 5)
    arrays = {name: array.copy() for name, array in index.arrays()}
    CodeLists.of_arrays(arrays)
    wrong = {
        "following": np.zeros_like(arrays["following"]),
        "owner": arrays["owner"] + 5,
        "places": arrays["places"] + 1,
        "slots": arrays["slots"] + 1000,
        "codes": arrays["codes"][:, :1],
        "fill": arrays["fill"][1:],
        "first": arrays["first"] + 1000,
        "rotation": arrays["rotation"][:8],
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError):
            CodeLists.of_arrays({**arrays, name: array})
    with pytest.raises(ValueError, match="lacks"):
        CodeLists.of_arrays({name: array for name, array in arrays.items() if name != "owner"})


def test_trained_lists_follow_the_clusters():
    vectors = clustered(4000, 32, clusters=30)
    index = CodeLists.trained(vectors, 30, threads=2)
    index.add(vectors)
    random = made(vectors, 30)

    def kept(lists):
        truth = np.argsort(-(vectors[:200] @ vectors.T), axis=1)[:, :10]
        got = found(lists, vectors[:200], 50, 3)
        return np.mean([len(set(t) & g.keys()) / 10 for t, g in zip(truth.tolist(), got, strict=True)])

    assert kept(index) > max(0.9, kept(random))


def test_too_few_vectors_are_refused():
    with pytest.raises(InvalidInput, match="9 vectors cannot be put into 10 lists"):
        CodeLists.trained(np.eye(9, dtype=np.float32), 10)


def test_equal_vectors_can_be_clustered():
    index = CodeLists.trained(np.ones((50, 8), np.float32) / np.float32(8**0.5), 7)
    index.add(np.ones((50, 8), np.float32) / np.float32(8**0.5))
    assert len(found(index, np.ones((1, 8), np.float32), 50, 1)[0]) == 50
