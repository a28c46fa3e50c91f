"""The answer of codes and bounds is the plain one, whatever is stored and asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval.exact import passes
from mrl_retrieval.exact.codes import parts
from mrl_retrieval.exact.layout import CHUNK, Layout
from tests.exact.hard import DTYPES, KINDS, Stored, check, encoded, queries_of, searched, vectors_of

COMPILED = [False, True]


@pytest.fixture(autouse=True)
def _needs_numba(request):
    if hasattr(request.node, "callspec") and request.node.callspec.params.get("compiled"):
        pytest.importorskip("numba", reason="numba is not installed: pip install 'mrl-retrieval[fast]'")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    n=st.sampled_from([0, 1, 2, 15, 16, 17, 100, 700]),
    dims=st.sampled_from([1, 2, 6, 7, 31, 96, 100, 128, 257]),
    k=st.sampled_from([1, 2, 10, 50, 699, 700, 1000]),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 2**20),
    compiled=st.booleans(),
)
def test_any_collection(kind, dtype, n, dims, k, share, seed, compiled):
    if compiled:
        pytest.importorskip("numba", reason="numba is not installed: pip install 'mrl-retrieval[fast]'")
    stored = Stored(vectors_of(kind, n, dims, seed), dtype, first=seed % 3 * 1000)
    queries = queries_of(stored.vectors, 6, dims, seed)
    allowed = np.random.default_rng(seed).random(n) < share
    check(stored, queries, k, allowed, searched(stored, queries, k, allowed, compiled=compiled))


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_thousands_of_documents(kind, dtype, compiled):
    n = 20_000 if compiled else 3000
    stored = Stored(vectors_of(kind, n, 48), dtype)
    queries = queries_of(stored.vectors, 7, 48)
    allowed = np.random.default_rng(0).random(n) < 0.9
    check(stored, queries, 10, allowed, searched(stored, queries, 10, allowed, compiled=compiled))


@pytest.mark.parametrize("compiled", COMPILED)
def test_little_is_scored(compiled):
    stored = Stored(vectors_of("decaying", 5000, 256), "float16")
    queries, allowed = queries_of(stored.vectors, 4, 256), np.ones(5000, dtype=bool)
    answer = searched(stored, queries, 10, allowed, compiled=compiled)
    check(stored, queries, 10, allowed, answer)
    assert stored.asked == answer.rescored <= 4 * 200
    assert answer.undecided == []


@pytest.mark.parametrize("compiled", COMPILED)
def test_where_bounds_decide_nothing_everything_is_scored(compiled):
    stored = Stored(vectors_of("clustered", 10_000, 16), "float16")
    queries, allowed = queries_of(stored.vectors, 2, 16), np.ones(10_000, dtype=bool)
    answer = searched(stored, queries, 5, allowed, compiled=compiled)
    check(stored, queries, 5, allowed, answer)
    assert answer.undecided == [0, 1] or answer.rescored < 20_000


@pytest.mark.parametrize(("threads", "compiled"), [(1, True), (2, True), (3, True), (50, True), (3, False)])
def test_threads_share_the_documents(threads, compiled):
    stored = Stored(vectors_of("tied", 2 * CHUNK + 35, 8), "float16")
    queries, allowed = queries_of(stored.vectors, 3, 8), np.ones(2 * CHUNK + 35, dtype=bool)
    allowed[CHUNK - 100 : CHUNK + 60] = False
    answer = searched(stored, queries, 9, allowed, threads=threads, compiled=compiled)
    check(stored, queries, 9, allowed, answer)


@pytest.mark.parametrize("compiled", COMPILED)
def test_many_queries_at_once(compiled):
    stored = Stored(vectors_of("random", 3000, 40), "int8")
    queries, allowed = queries_of(stored.vectors, 37, 40), np.ones(3000, dtype=bool)
    coded = encoded(stored.vectors)
    answer = searched(stored, queries, 10, allowed, coded=coded, compiled=compiled)
    check(stored, queries, 10, allowed, answer)
    for q in range(len(queries)):
        alone = searched(stored, queries[q : q + 1], 10, allowed, coded=coded, compiled=compiled)
        np.testing.assert_array_equal(np.sort(alone.found[0][0]), np.sort(answer.found[q][0]))


@pytest.mark.parametrize("compiled", COMPILED)
def test_parameters_of_another_collection_do_no_harm(compiled):
    other = encoded(vectors_of("spiked", 500, 64, seed=9))[1]
    stored = Stored(vectors_of("random", 5000, 64), "float16")
    queries, allowed = queries_of(stored.vectors, 4, 64), np.ones(5000, dtype=bool)
    answer = searched(stored, queries, 10, allowed, coded=encoded(stored.vectors, other), compiled=compiled)
    check(stored, queries, 10, allowed, answer)


def test_a_filter_spares_the_blocks_that_nobody_is_in():
    stored = Stored(vectors_of("random", 5000, 64), "float16")
    queries, allowed = queries_of(stored.vectors, 1, 64), np.zeros(5000, dtype=bool)
    allowed[64:96] = True
    answer = searched(stored, queries, 3, allowed, compiled=False)
    check(stored, queries, 3, allowed, answer)
    assert answer.bytes_read < 5000


def test_unscaled_queries_are_scored_as_they_are():
    stored = Stored(vectors_of("random", 500, 32), "float16")
    queries = queries_of(stored.vectors, 4, 32) * np.array([[1e-3], [1e3], [1], [0.9]], dtype=np.float32)
    allowed = np.ones(500, dtype=bool)
    answer = searched(stored, queries, 5, allowed, compiled=False)
    check(stored, queries, 5, allowed, answer)
    assert answer.undecided == [0, 1]


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_pass_that_finds_too_many_is_done_again_with_what_is_known_then(compiled, monkeypatch):
    monkeypatch.setattr(passes, "_ROOM", 2000)
    monkeypatch.setattr(passes, "_ROOM_SHARE", 100)
    stored = Stored(vectors_of("random", 20_000, 64), "float16")
    queries, allowed = queries_of(stored.vectors, 12, 64), np.ones(20_000, dtype=bool)
    answer = searched(stored, queries, 10, allowed, compiled=compiled)
    check(stored, queries, 10, allowed, answer)
    block_bytes = Layout(*parts(64)).block_bytes
    assert answer.bytes_read > 2 * 1250 * block_bytes
    assert len(answer.undecided) < 6
