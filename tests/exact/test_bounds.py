"""Each step of the proof, held to numbers computed in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval.exact.bounds import QueryCodes, gamma
from mrl_retrieval.exact.codes import Coder, from_short, short_above
from mrl_retrieval.exact.passes import first_pass, reread
from mrl_retrieval.exact.reference import refined, scanned
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.storage.scan import cosines
from tests.exact.hard import DTYPES, KINDS, Stored, encoded, queries_of, vectors_of


def case(kind, dtype, n, dims, seed):
    stored = Stored(vectors_of(kind, n, dims, seed), dtype)
    chunks, coder, reach = encoded(stored.vectors)
    queries = queries_of(stored.vectors, 6, dims, seed)
    return stored, chunks, coder, queries, QueryCodes.of(queries, coder, reach)


def values(coder, codes, scales):
    """What codes stand for, in float64: (n, D) in the coder's order, by head and tail."""
    scale = np.repeat(from_short(scales).astype(np.float64), [coder.head, coder.dims - coder.head], axis=1)
    order = coder.order
    return coder.mean[order] + coder.spread[order].astype(np.float64) * scale * (codes[:, : coder.dims] - 128.0)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    dims=st.sampled_from([1, 6, 7, 100, 256]),
    seed=st.integers(0, 2**20),
)
def test_stored_errors_are_never_too_small(kind, dtype, dims, seed):
    stored = Stored(vectors_of(kind, 60, dims, seed), dtype)
    coder = Coder.fit(stored.vectors[:20])
    made, head = coder.encode(stored.vectors), coder.head
    x = stored.vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    units = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)[:, coder.order]
    high = np.where(np.arange(coder.width) < head, made.codes, made.codes // 16 * 16.0 + 7.5)
    full, coarse = units - values(coder, made.codes, made.scales), units - values(coder, high, made.scales)
    errors = from_short(made.errors)
    assert (np.linalg.norm(full[:, :head], axis=1) <= errors[:, 0]).all()
    assert (np.linalg.norm(full[:, head:], axis=1) <= errors[:, 1]).all()
    assert (np.linalg.norm(coarse[:, head:], axis=1) <= errors[:, 2]).all()
    if kind not in ("scaled",):
        assert np.isfinite(errors).all()


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    dims=st.sampled_from([1, 6, 7, 100, 256, 400]),
    seed=st.integers(0, 2**20),
)
def test_scores_lie_within_their_margins(kind, dtype, dims, seed):
    stored, chunks, _, queries, codes = case(kind, dtype, 50, dims, seed)
    scores, margins = scanned(chunks[0], np.arange(4), codes)
    for q in np.flatnonzero(codes.usable):
        truth = cosines(queries[q], stored.vectors, dims).astype(np.float64)
        assert (np.abs(truth - scores[q, :50]) <= margins[q, :50].astype(np.float64)).all()
        better, narrower = refined(chunks, codes, q, np.arange(50), scores[q, :50])
        assert (np.abs(truth - better) <= narrower).all()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["random", "cone", "decaying", "tied", "denormal"]),
    dtype=st.sampled_from(DTYPES),
    dims=st.sampled_from([6, 100, 256, 400]),
    high=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_queries_along_what_the_codes_miss_use_up_the_margin(kind, dtype, dims, high, seed):
    """The worst there is: the inequality of step 2 is an equality for them, so nothing is to spare."""
    stored = Stored(vectors_of(kind, 40, dims, seed), dtype)
    chunks, coder, reach = encoded(stored.vectors)
    made = coder.encode(stored.vectors)
    codes = np.where(high & (np.arange(coder.width) >= coder.head), made.codes // 16 * 16.0 + 7.5, made.codes)
    missed = np.empty((40, dims))
    missed[:, coder.order] = normalize(stored.vectors)[:, coder.order] - values(coder, codes, made.scales)
    queries = normalize(missed)
    asked = QueryCodes.of(queries, coder, reach)
    scores, margins = (found[:, :40] for found in scanned(chunks[0], np.arange(3), asked))
    if not high:
        both = [refined(chunks, asked, q, np.arange(40), scores[q]) for q in range(40)]
        scores, margins = (np.stack(arrays) for arrays in zip(*both, strict=True))
    truth = np.stack([cosines(query, stored.vectors, dims) for query in queries]).astype(np.float64)
    off = np.abs(truth - scores)
    assert (off <= margins).all()
    if dims >= 100 and kind == "random":
        assert (np.diag(off) > 0.6 * np.diag(margins)).all()


def test_no_allowance_is_needed_for_more_than_rounding():
    """What is added to the error norms stays near the rounding of a dot product in float32."""
    *_, codes = case("random", "float16", 2000, 768, 0)
    assert (codes.numbers[codes.usable, 6] < 4 * gamma(768)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_plain_passes_agree_to_the_last_bit(kind, dtype):
    pytest.importorskip("numba", reason="numba is not installed: pip install 'mrl-retrieval[fast]'")
    for dims in (1, 7, 100, 256):
        _, chunks, _, _, codes = case(kind, dtype, 300, dims, 3)
        usable = codes.chosen(np.flatnonzero(codes.usable))
        allowed = np.random.default_rng(0).random(300) < 0.7
        for k in (1, 7):
            plain, read = first_pass(chunks, usable, k, allowed, compiled=False)
            fast, read_fast = first_pass(chunks, usable, k, allowed, compiled=True)
            assert read == read_fast
            for a, b in zip(plain, fast, strict=True):
                np.testing.assert_array_equal(a.places, b.places)
                np.testing.assert_array_equal(a.scores, b.scores)
                np.testing.assert_array_equal(a.margins, b.margins)
        q, places = int(np.flatnonzero(codes.usable)[0]), np.arange(300)[allowed]
        start = np.linspace(-1, 1, len(places)).astype(np.float32)
        plain, fast = (reread(chunks, codes, q, places, start, compiled=c) for c in (False, True))
        for x, y in zip(plain, fast, strict=True):
            np.testing.assert_array_equal(x, y)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20))
def test_short_numbers_are_rounded_up(numbers):
    numbers = np.array(numbers)
    found = from_short(short_above(numbers)).astype(np.float64)
    assert (found >= numbers).all()
    assert (found <= numbers * (1 + 2**-7) + 1e-38).all()


@settings(max_examples=60, deadline=None)
@given(dims=st.sampled_from([1, 6, 100, 768, 5000]), seed=st.integers(0, 2**20))
def test_planes_make_the_integers_and_sums_stay_below_the_limit(dims, seed):
    vectors = vectors_of("spiked", 5, dims, seed)
    coder = Coder.fit(vectors)
    codes = QueryCodes.of(vectors, coder, np.ones(2))
    whole = codes.planes[:, 0].astype(np.int64) * 256 + codes.planes[:, 1]
    np.testing.assert_array_equal(whole[:, coder.head :], codes.integers)
    sums = np.abs(whole)
    assert (255 * sums[:, : coder.head].sum(axis=1) < 2**31).all()
    assert (15 * sums[:, coder.head :].sum(axis=1) < 2**31).all()
    np.testing.assert_array_equal(codes.offsets[:, 1], 8 * whole[:, coder.head :].sum(axis=1))


def test_equal_vectors_score_equally_alone_and_among_others():
    """The last pass scores few vectors where a full scan scores blocks of them: the numbers must be the same."""
    for dims in (1, 6, 7, 100, 257, 768):
        vectors = vectors_of("random", 500, dims)
        query = queries_of(vectors, 1, dims)[0]
        among = cosines(query, vectors, dims)
        for some in ([0], [499], [3, 4], list(range(100, 117))):
            np.testing.assert_array_equal(cosines(query, vectors[some], dims), among[some])
