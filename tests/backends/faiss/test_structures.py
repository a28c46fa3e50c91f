"""Each structure of the coarse index holds what it was given, finds what is allowed, and comes back from its file."""

import numpy as np
import pytest

from mrl_adapters._faiss import graph
from mrl_adapters._faiss.coded import CodedStructure
from mrl_adapters._faiss.flat import FlatStructure
from mrl_adapters._faiss.graph import GraphStructure
from mrl_adapters._faiss.hnsw import HNSWStructure
from mrl_adapters._faiss.structure import Allowed
from mrl_retrieval.matryoshka import normalize

DIMS = 32


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(77).standard_normal((20, DIMS))
    return normalize((centres[rng.integers(0, 20, n)] + 0.5 * rng.standard_normal((n, DIMS))).astype(np.float32))


VECTORS = clustered(1500)


def within_a_margin():
    made = CodedStructure.empty(DIMS, VECTORS[::50], probes=6)
    made.margin = 0.2
    return made


MADE = {
    "flat": lambda: FlatStructure.empty(DIMS),
    "codes": lambda: CodedStructure.empty(DIMS),
    "lists": lambda: CodedStructure.empty(DIMS, VECTORS[::50], probes=6),
    "lists within a margin": within_a_margin,
    "hnsw": lambda: HNSWStructure.empty(VECTORS[:300], ef=64),
    "graph": lambda: GraphStructure.of(VECTORS[:1100]),
    "graph of none": lambda: GraphStructure.of(VECTORS[:0]),
}


@pytest.fixture(params=MADE)
def structure(request, monkeypatch):
    # Of so few, a scan of the codes would take less time than the graph.
    monkeypatch.setattr(graph, "_WIDEST", 0.3)
    made = MADE[request.param]()
    for start in range(made.count, 1500, 400):
        made.add(VECTORS[start : min(start + 400, 1500)])
    return made


def searched(structure, queries, limit, mask=None):
    allowed = Allowed(np.ones(structure.count, bool) if mask is None else mask)
    scores, places = structure.search(queries, limit, allowed)
    assert scores.shape == places.shape == (len(queries), limit)
    assert all(len(set(row)) == limit for row in places.tolist()), "each place once"
    return scores, places


def test_it_finds_most_of_the_nearest(structure):
    queries = clustered(40, 5)
    truth = np.argsort(-(queries @ VECTORS.T), axis=1)[:, :10]
    _, places = searched(structure, queries, 60)
    kept = np.mean([len(np.intersect1d(t, p)) / 10 for t, p in zip(truth, places, strict=True)])
    assert kept > (0.999 if isinstance(structure, FlatStructure) else 0.9)


def test_scores_are_near_the_cosines_or_equal_them(structure):
    queries = clustered(10, 6)
    scores, places = searched(structure, queries, 100)
    true = np.take_along_axis(queries @ VECTORS.T, places, axis=1)
    np.testing.assert_allclose(scores, true, atol=1e-6 if structure.exact_scores else 0.1)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01])
def test_only_allowed_places_are_found_and_as_many_as_asked_for(structure, share):
    mask = np.random.default_rng(1).random(1500) < share
    for limit in (1, 7, int(mask.sum())):
        _, places = searched(structure, clustered(5, 7), limit, mask)
        assert mask[places].all()


def test_all_are_found_where_all_are_asked_for(structure):
    searched(structure, clustered(3, 8), 1500)


def test_the_front_is_dropped(structure):
    structure.drop_front(100)
    assert structure.count == 1400
    _, places = searched(structure, VECTORS[100:140], 5)
    assert (places[:, :] < 1400).all()
    assert np.mean([i in row for i, row in enumerate(places)]) > 0.9
    structure.add(VECTORS[:50])
    _, places = searched(structure, VECTORS[:50], 5)
    assert np.mean([1400 + i in row for i, row in enumerate(places)]) > 0.9


def test_it_comes_back_from_its_file_and_grows_on(structure, tmp_path):
    structure.write(tmp_path / "index")
    again = type(structure).read(np.fromfile(tmp_path / "index", np.uint8))
    queries = clustered(6, 9)
    before = searched(structure, queries, 20)
    for a, b in zip(before, searched(again, queries, 20), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (again.count, again.dims, again.kind) == (1500, DIMS, structure.kind)
    again.add(VECTORS[:30])
    assert again.count == 1530
    assert not again.differing(1500, VECTORS[:30]) and not again.differing(0, VECTORS[:200])
    assert again.differing(0, VECTORS[1:200])


@pytest.mark.parametrize("kind", [FlatStructure, CodedStructure, HNSWStructure, GraphStructure])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"mrl-arrays 1\n[]\n", b"mrl-arrays 1\nno json\n"])
def test_nonsense_is_refused(kind, content):
    with pytest.raises(ValueError):
        kind.read(np.frombuffer(content, np.uint8))


def test_a_file_of_another_kind_is_refused(tmp_path):
    VECTORS_FEW = VECTORS[:20]
    pairs = [("flat", "codes"), ("codes", "flat"), ("hnsw", "flat"), ("flat", "hnsw"), ("graph", "codes")]
    for i, (a, b) in enumerate([*pairs, ("codes", "graph"), ("hnsw", "graph")]):
        made = MADE[a]()
        made.add(VECTORS_FEW)
        made.write(tmp_path / f"{i}")
        with pytest.raises(ValueError):
            type(MADE[b]()).read(np.fromfile(tmp_path / f"{i}", np.uint8))


@pytest.mark.parametrize("name", ["lists", "graph"])
def test_a_file_that_was_cut_off_is_refused(tmp_path, name):
    made = MADE[name]()
    made.add(VECTORS)
    made.write(tmp_path / "index")
    content = np.fromfile(tmp_path / "index", np.uint8)
    for length in (5, 20, 300, len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError):
            type(made).read(content[:length])


def test_lists_within_the_margin_are_searched_if_no_number_is_given(tmp_path):
    made = within_a_margin()
    made.add(VECTORS)
    everyone, queries = Allowed(np.ones(1500, bool)), clustered(50, 9)
    for one in (made, CodedStructure.read(written(made, tmp_path))):
        assert one.margin == 0.2 and one.details()["margin"] == 0.2
        gaps = one.within.gaps(queries)
        for q, places in enumerate(one.search(queries, 20, everyone)[1]):
            owners = one.codes._owner[one.codes._slots[places] >> 4]
            assert (gaps[q][owners] <= np.float32(0.2)).all() or np.isin(owners, np.argmin(gaps[q])).any()
        all_lists = one.search(queries, 20, everyone, one.codes.lists)
        np.testing.assert_array_equal(
            np.sort(all_lists[0]), np.sort(one.codes.search(queries, 20, one.codes.lists, everyone.mask, 1500)[0])
        )
    alone = [made.search(query[None], 20, everyone)[1][0] for query in queries]
    together = made.search(queries, 20, everyone)[1]
    assert [set(a) for a in alone] == [set(b) for b in together]


def test_what_a_filter_leaves_is_searched_in_more_lists():
    made = within_a_margin()
    made.margin, made.probes = 1e-6, 10
    made.add(VECTORS)
    few = Allowed(np.random.default_rng(3).random(1500) < 0.4)
    queries = clustered(30, 10)
    found = made.search(queries, 20, few)
    expected = made.codes.search(queries, 20, 10, few.mask, few.count)
    np.testing.assert_array_equal(np.sort(found[0]), np.sort(expected[0]))


def test_a_file_without_a_margin_is_read_and_a_wrong_one_is_not(tmp_path):
    made = CodedStructure.empty(DIMS, VECTORS[::50], probes=6)
    made.add(VECTORS)
    assert CodedStructure.read(written(made, tmp_path)).margin is None
    for wrong in (0.0, -1.0, float("nan")):
        made.margin = wrong
        with pytest.raises(ValueError, match="its margin is"):
            CodedStructure.read(written(made, tmp_path))


def written(structure, folder):
    path = folder / "file"
    path.unlink(missing_ok=True)
    structure.write(path)
    return np.frombuffer(bytearray(path.read_bytes()), np.uint8)
