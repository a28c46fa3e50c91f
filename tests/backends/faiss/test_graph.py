"""The graph that never changes, and the codes beside it: deletes, filters, what is added since, its file, its library."""

import logging
import os
import signal
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_adapters._faiss import choosing, graph, symphony
from mrl_adapters._faiss.graph import GraphStructure
from mrl_adapters._faiss.structure import Allowed
from mrl_adapters._faiss.symphony import SymphonyGraph, lacking, rabitq_errors
from mrl_retrieval.coarse.container import read_arrays, write_arrays
from mrl_retrieval.errors import BackendError, MissingExtra
from mrl_retrieval.matryoshka import normalize
from tests.backends.common import queries
from tests.backends.faiss.helpers import exact, folder, ids_of, rows, two_stages, vectors_of

pytest.importorskip("rabitqlib", reason="rabitqlib is not installed: pip install 'mrl-retrieval[graph]'")

DIMS = 80
N = 1200


def unit(n, seed=0, dims=DIMS):
    return normalize(np.random.default_rng(seed).standard_normal((n, dims)).astype(np.float32))


VECTORS = unit(N)
GRAPH = SymphonyGraph.of(VECTORS[:1000])


@pytest.fixture(autouse=True)
def always_the_graph(monkeypatch):
    """Of so few, a scan of the codes would take less time."""
    monkeypatch.setattr(graph, "_WIDEST", 0.3)


def made():
    structure = GraphStructure.of(VECTORS[:0])
    structure._graph = GRAPH
    structure._body.add(VECTORS[:1000])
    structure.add(VECTORS[1000:])
    return structure


def found(structure, asked, limit, mask=None, probes=None):
    allowed = Allowed(np.ones(structure.count, bool) if mask is None else mask)
    scores, places = structure.search(asked, limit, allowed, probes)
    assert scores.shape == places.shape == (len(asked), limit)
    assert all(len(set(row)) == limit for row in places.tolist())
    assert mask is None or mask[places].all()
    return scores, places


def kept(places, asked, vectors, mask=None, k=10):
    true = asked @ vectors.T
    if mask is not None:
        true[:, ~mask] = -2
    truth = np.argsort(-true, axis=1)[:, :k]
    return np.mean([len(np.intersect1d(t, p)) / k for t, p in zip(truth, places, strict=True)])


def test_both_parts_are_found():
    asked = unit(60, 3)
    _, places = found(made(), asked, 100)
    assert kept(places, asked, VECTORS) > 0.9
    assert (places >= 1000).any() and (places < 1000).any()


def test_scores_of_the_graph_are_cosines():
    scores, numbers = GRAPH.search(unit(20, 3), 50, 64)
    np.testing.assert_allclose(scores, np.take_along_axis(unit(20, 3) @ VECTORS.T, numbers, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 1e-6).all(), "best first"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
def test_filters(share):
    mask = np.random.default_rng(2).random(N) < share
    asked = unit(40, 4)
    limit = min(60, int(mask.sum()))
    _, places = found(made(), asked, limit, mask)
    assert kept(places, asked, VECTORS, mask, k=min(10, limit)) > 0.9


def test_a_filter_of_what_is_far_from_the_query(monkeypatch):
    monkeypatch.setattr(graph, "_WIDEST", 0.5)
    there = np.zeros((1, DIMS), np.float32)
    there[0, 0] = 1
    mask = np.random.default_rng(5).random(800) < 0.3
    vectors = normalize(1.5 * unit(800, 5) + np.where(mask[:, None], -there, there))
    structure = GraphStructure.of(vectors)
    widths = []
    search = SymphonyGraph.search
    monkeypatch.setattr(SymphonyGraph, "search", lambda self, *args: (widths.append(args[1]), search(self, *args))[1])
    _, places = found(structure, there, 20, mask)
    assert kept(places, there, vectors, mask) >= 0.9
    assert len(widths) == 2 and widths[1] == 4 * widths[0], "then all codes are scanned"


def test_wide_searches_scan_the_codes(monkeypatch):
    monkeypatch.setattr(graph, "_WIDEST", 100)
    monkeypatch.setattr(SymphonyGraph, "search", lambda *_: pytest.fail("the graph is not to be searched"))
    asked = unit(5, 6)
    _, places = found(made(), asked, 100)
    assert kept(places, asked, VECTORS) > 0.95


def test_a_graph_that_leads_nowhere(monkeypatch):
    monkeypatch.setattr(SymphonyGraph, "search", lambda *_: None)
    asked = unit(5, 6)
    _, places = found(made(), asked, 60)
    assert kept(places, asked, VECTORS) > 0.9


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exactly_as_many_allowed_places_as_asked_for(data):
    structure = made()
    dropped = data.draw(st.sampled_from([0, 0, 1, 300, 999, 1000, 1100]))
    structure.drop_front(dropped)
    n = structure.count
    assert n == N - dropped
    chosen = data.draw(st.sampled_from(["all", "few", "half", "head", "body"]))
    mask = np.random.default_rng(data.draw(st.integers(0, 9))).random(n) < {"few": 0.01, "half": 0.5}.get(chosen, 2)
    if chosen == "head":
        mask[: max(0, 1000 - dropped)] = False
    if chosen == "body":
        mask[max(0, 1000 - dropped) :] = False
    mask[-1] |= not mask.any()
    limit = data.draw(st.integers(1, int(mask.sum())))
    probes = data.draw(st.sampled_from([None, 1, 5000]))
    scores, places = found(structure, unit(3, 8), limit, mask, probes)
    np.testing.assert_allclose(scores, np.take_along_axis(unit(3, 8) @ VECTORS[dropped:].T, places, axis=1), atol=0.15)


@pytest.mark.parametrize("kind", ["duplicates", "zeros", "some zeros", "one direction"])
def test_hard_vectors(kind):
    vectors = VECTORS[:200].copy()
    if kind == "duplicates":
        vectors[50:] = vectors[np.arange(150) % 3]
    elif kind == "zeros":
        vectors[:] = 0
    elif kind == "some zeros":
        vectors[::2] = 0
    else:
        vectors[:, 1:] *= 1e-6
        vectors = normalize(vectors)
    structure = GraphStructure.of(vectors)
    asked = np.concatenate([vectors[1:4], np.zeros((1, DIMS), np.float32), unit(3, 7)])
    for limit in (1, 20, 199, 200):
        scores, places = found(structure, asked, limit)
        np.testing.assert_allclose(scores, np.take_along_axis(asked @ vectors.T, places, axis=1), atol=0.15)
        if kind == "some zeros" and limit == 1:
            assert (places[:3] % 2 == 1).all(), "a zero vector is not near"


@pytest.mark.parametrize("dims", [1, 7, 64, 65, 130])
@pytest.mark.parametrize("n", [1, 32, 33, 100])
def test_any_dims_and_any_number(dims, n, tmp_path):
    vectors = unit(n, 1, dims)
    structure = GraphStructure.of(vectors)
    assert (structure.count, structure.dims) == (n, dims)
    _, places = found(structure, vectors[:5], n)
    structure.write(tmp_path / "index")
    again = GraphStructure.read(np.fromfile(tmp_path / "index", np.uint8))
    np.testing.assert_array_equal(np.sort(found(again, vectors[:5], n)[1]), np.sort(places))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_bytes_are_those_of_the_file(tmp_path):
    for dims in (32, 64, 100, 256):
        SymphonyGraph.of(unit(300, 1, dims)).write(tmp_path / str(dims))
        assert (tmp_path / str(dims)).stat().st_size == pytest.approx(symphony.bytes_for(300, dims), rel=0.01)


def test_what_was_dropped_stays_dropped_in_the_file(tmp_path):
    structure = made()
    structure.drop_front(700)
    structure.write(tmp_path / "index")
    again = GraphStructure.read(np.fromfile(tmp_path / "index", np.uint8))
    assert again.count == 500
    for a, b in zip(found(structure, unit(5, 2), 50), found(again, unit(5, 2), 50), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not again.differing(0, VECTORS[700:]) and again.differing(0, VECTORS[:500])
    again.drop_front(400)
    assert again._graph is None and again.count == 100


def test_parts_that_do_not_fit_are_refused(tmp_path):
    made().write(tmp_path / "index")
    arrays = read_arrays(np.fromfile(tmp_path / "index", np.uint8))
    other = SymphonyGraph.of(unit(100, 1, 64))
    other.write(tmp_path / "other")
    wrong = {
        "dropped": {"dropped": np.array([1], np.int64)},
        "dims": {"graph": np.fromfile(tmp_path / "other", np.uint8)},
        "nonsense": {"graph": np.zeros(1000, np.uint8)},
        "cut": {"graph": arrays["graph"][:-1]},
    }
    for name, change in wrong.items():
        write_arrays(tmp_path / name, {**arrays, **change})
        with pytest.raises(ValueError, match="graph"):
            GraphStructure.read(np.fromfile(tmp_path / name, np.uint8))


def test_nothing_stays_in_the_temporary_folder(tmp_path, monkeypatch):
    made().write(tmp_path / "index")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    content = np.fromfile(tmp_path / "index", np.uint8)
    GraphStructure.read(content)
    assert not list((tmp_path / "tmp").iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="its graph cannot be read"):
        GraphStructure.read(content)


def test_threads_search_with_different_widths():
    structure = made()
    asked = unit(4, 9)
    limits = (3, 300)
    alone = {limit: found(structure, asked, limit)[1] for limit in limits}
    wrong = []

    def search(limit):
        for _ in range(50):
            if not np.array_equal(found(structure, asked, limit)[1], alone[limit]):
                wrong.append(limit)

    threads = [threading.Thread(target=search, args=(limit,)) for limit in limits * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    batch = found(structure, np.repeat(asked, 20, axis=0), 3)[1]
    np.testing.assert_array_equal(np.sort(batch[::20]), np.sort(alone[3]))


def test_when_it_is_to_be_made_again(monkeypatch):
    monkeypatch.setattr(graph, "_HEAD", 0)
    structure = GraphStructure.of(VECTORS[:100])
    assert not structure.wants_renewal
    structure.add(VECTORS[:25])
    assert not structure.wants_renewal
    structure.add(VECTORS[:1])
    assert structure.wants_renewal
    dropped = GraphStructure.of(VECTORS[:100])
    dropped.drop_front(30)
    assert dropped.wants_renewal
    monkeypatch.setattr(graph, "_HEAD", 1000)
    assert not dropped.wants_renewal


# -- in a collection -------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(opened, address, manifest, monkeypatch):
    monkeypatch.setattr(choosing, "_EXACT_ROWS", 10)
    kb = opened(address, index="graph")
    kb.write_manifest(manifest, None)
    return kb


def filled(kb, n, start=0):
    kb.upsert(rows([f"d{i:05}" for i in range(start, start + n)], vectors_of(n, seed=start)))
    kb._index.choose_if_due()


def details(kb):
    return kb.stats().details


def recall(kb, candidates=300):
    """Of many queries: the library's graphs differ from run to run, and a few queries would show it."""
    asked = queries(300, seed=99)
    truth = ids_of(kb.search(exact(asked, 10)))
    hits = ids_of(kb.search(two_stages(asked, 10, candidates)))
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, hits, strict=True)])


def test_it_is_made_again_when_much_was_added(graphs, monkeypatch):
    monkeypatch.setattr(graph, "_HEAD", 100)
    filled(graphs, 400)
    assert (details(graphs)["in_graph"], details(graphs)["added_since"]) == (400, 0)
    filled(graphs, 100, 400)
    assert (details(graphs)["in_graph"], details(graphs)["added_since"]) == (400, 100)
    filled(graphs, 10, 500)
    assert (details(graphs)["in_graph"], details(graphs)["added_since"]) == (510, 0)
    graphs.delete([f"d{i:05}" for i in range(0, 510, 2)])
    assert recall(graphs, 200) > 0.9
    assert graphs.verify().ok


def test_it_comes_back_from_the_cache_and_damage_never_reaches_it(graphs, opened, address, caplog, monkeypatch):
    filled(graphs, 400)
    filled(graphs, 30, 400)
    graphs.flush()
    graphs.close()
    again = opened(address)
    again.read_manifest()
    before = recall(again)
    assert (details(again)["in_graph"], details(again)["added_since"]) == (400, 30) and before > 0.9
    again.close()
    path = folder(again) / "coarse.faiss"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(SymphonyGraph, "read", lambda *_: pytest.fail("unchecked bytes"))
    other = opened(address)
    other.read_manifest()
    with caplog.at_level(logging.WARNING):
        assert recall(other) > 0.9
    assert "its checksum is wrong" in caplog.text


def test_a_cache_without_the_library(graphs, opened, address, monkeypatch, caplog):
    filled(graphs, 400)
    graphs.flush()
    graphs.close()
    monkeypatch.setitem(sys.modules, "rabitqlib", None)
    with pytest.raises(MissingExtra, match=r"index='graph' needs .* pip install 'mrl-retrieval\[graph\]'"):
        opened(address, index="graph")
    other = opened(address)
    other.read_manifest()
    with caplog.at_level(logging.WARNING):
        assert recall(other, 400) > 0.9
    assert "its graph cannot be read: index='graph' needs a package" in caplog.text


# -- the library and the processor -----------------------------------------------------------------------------


def test_a_processor_without_its_instructions(tmp_path, opened, address, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu sse4_2 avx fma\n")
    assert lacking("x86_64", cpuinfo) == ["avx2"]
    assert lacking("aarch64", cpuinfo) == [] and lacking("x86_64", tmp_path / "none") == []
    cpuinfo.write_text("flags : fpu avx avx2 fma\n")
    assert lacking("AMD64", cpuinfo) == []
    monkeypatch.setattr(symphony, "lacking", lambda machine: ["avx2", "fma"])
    with pytest.raises(BackendError, match="this one lacks avx2 and fma: use index='hnsw' or 'ivf'"):
        opened(address, index="graph")


def test_its_errors_are_ours(tmp_path):
    with pytest.raises(BackendError, match="building the graph failed, rabitqlib says: .*degree bound"):
        SymphonyGraph.of(VECTORS[:20])
    with pytest.raises(BackendError, match="rabitqlib says: k must be"):
        GRAPH.search(VECTORS[:1], 1001, 2000)
    with pytest.raises(BackendError, match="rabitqlib says: Cannot open"):
        GRAPH.write(tmp_path / "missing" / "file")
    with pytest.raises(BackendError, match="counting failed, rabitqlib says: no"), rabitq_errors("counting"):
        raise ValueError("no")


def test_a_forked_child_searches_and_builds():
    """The library's own threads do not survive a fork."""
    alone = GRAPH.search(VECTORS[:5], 3, 64)[1]
    child = os.fork()
    if not child:
        signal.alarm(30)
        status = 1
        try:
            again = GRAPH.search(VECTORS[:5], 3, 64)[1]
            own = SymphonyGraph.of(VECTORS[:300]).search(VECTORS[:5], 1, 64)[1]
            status = 0 if np.array_equal(again, alone) and own[:, 0].tolist() == [0, 1, 2, 3, 4] else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
