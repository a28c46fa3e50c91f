"""Full vectors on a GPU: a shortlist has all that are best, whatever is rounded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrl_adapters._faiss import half_matrix, shortlists
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.gpu_rerank import DeviceVectors, fits
from mrl_adapters._faiss.shortlists import Shortlists
from mrl_retrieval.storage.stored_cosines import stored_cosines
from tests.backends.common import DIM
from tests.backends.faiss.gpu.helpers import CPU, filled, prefixes, scores_of
from tests.backends.faiss.helpers import ids_of, rows, two_stages, vectors_of


def best_of(snapshot, query, candidates, k):
    """The best ``k`` by the scores of storage, with all that tie with the last."""
    scores = stored_cosines(snapshot.fine, candidates, query, DIM)
    return set(candidates[scores >= np.sort(scores)[-k]].tolist())


def shortened(found):
    return [len(near) for near in found]


def test_the_vectors_come_when_batches_have_been_many(opened, address, manifest, device):
    backend = opened(address)
    filled(backend, manifest)
    lists, positions = Shortlists(device), np.tile(np.arange(200), (17, 1))
    with backend._store.snapshot() as snapshot:
        assert lists.of(snapshot, vectors_of(15), positions[:15], 5) is None
        for batch in range(2):  # 300 + 43 vectors are worth bringing over after 9 queries
            found = lists.of(snapshot, vectors_of(17, batch), positions, 5)
            assert max(shortened(found)) < 40


def test_the_vectors_do_not_come_before(opened, address, manifest, monkeypatch):
    monkeypatch.setattr(shortlists, "_VECTORS_PER_QUERY", 10)
    backend = opened(address)
    filled(backend, manifest)
    lists, positions = Shortlists(CPU), np.tile(np.arange(200), (17, 1))
    with backend._store.snapshot() as snapshot:
        found = [lists.of(snapshot, vectors_of(17, i), positions, 5) for i in range(3)]
    assert found[:2] == [None, None] and max(shortened(found[2])) < 40


@pytest.mark.parametrize("why", ["no device", "no room", "failure"])
def test_without_the_vectors_all_candidates_are_kept(opened, address, manifest, monkeypatch, why, caplog):
    backend = opened(address)
    filled(backend, manifest)
    lists, positions = Shortlists(None if why == "no device" else CPU), np.tile(np.arange(200), (17, 1))
    if why == "no room":
        monkeypatch.setattr(Device, "free_bytes", lambda self: 1000)
    if why == "failure":
        monkeypatch.setattr(half_matrix.torch, "from_numpy", raiser(torch.cuda.OutOfMemoryError("2 GiB")))
    with backend._store.snapshot() as snapshot:
        for _ in range(2):
            assert lists.of(snapshot, vectors_of(17), positions, 5) is None
    assert len(caplog.messages) == (why == "failure")


def raiser(error):
    def function(*_):
        raise error

    return function


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_the_shortlist_has_all_that_are_best(device, dtype, opened, address, manifest):
    backend = opened(address, fine_dtype=dtype)
    backend.write_manifest(manifest, None)
    vectors = prefixes(400, DIM, seed=5)
    backend.upsert(rows([f"d{i:03}" for i in range(400)], vectors))
    queries = np.concatenate([vectors_of(6, 7), vectors[:2], np.zeros((1, DIM), np.float32)])
    rng = np.random.default_rng(1)
    store, held = backend._store, None
    for change in ("nothing", "more", "fewer"):
        if change == "more":
            backend.upsert(rows([f"e{i:03}" for i in range(50)], vectors_of(50, 9)))
        if change == "fewer":
            backend.delete([f"d{i:03}" for i in range(200)])
            backend.compact()
        with store.snapshot() as snapshot:
            assert fits(snapshot, device)
            held = held or DeviceVectors(snapshot, device, scratch=10 * 100 * DIM * 4)
            state = snapshot.state
            positions = np.stack(
                [rng.choice(np.arange(state.first, state.vectors), 100, replace=False) for _ in queries]
            )
            kept = held.shortlist(snapshot, queries, positions, 5)
            assert kept is not None and held.first == state.first
            for query, near, of in zip(queries, kept, positions, strict=True):
                assert set(near.tolist()) <= set(of.tolist())
                assert best_of(snapshot, query, near, 5) == best_of(snapshot, query, of, 5)
            assert len(kept[-1]) == 100, "a query of zero likes all candidates the same"
            assert np.mean([len(near) for near in kept]) < 60
    assert held.nbytes


def test_no_shortlist_of_few_candidates_or_another_collection(opened, address, manifest):
    a, b = opened(f"{address}?collection=a"), opened(f"{address}?collection=b")
    filled(a, manifest)
    filled(b, replace(manifest, collection_id="another"))
    with a._store.snapshot() as snapshot, b._store.snapshot() as other:
        held = DeviceVectors(snapshot, CPU)
        positions = np.arange(100)[None]
        assert held.shortlist(snapshot, vectors_of(1), positions[:, :26], 5) is None
        assert held.shortlist(other, vectors_of(1), positions, 5) is None
        assert held.shortlist(snapshot, vectors_of(1)[:0], positions[:0], 5) is None
        assert held.shortlist(snapshot, vectors_of(1), positions, 5) is not None


def test_short_vectors_that_would_be_rounded_much(opened, address, manifest):
    backend = opened(address, fine_dtype="float32")
    backend.write_manifest(manifest, None)
    backend.upsert(rows([f"d{i:03}" for i in range(100)], vectors_of(100) * np.float32(1e-3)))
    with backend._store.snapshot() as snapshot:
        assert DeviceVectors(snapshot, CPU).shortlist(snapshot, vectors_of(1), np.arange(100)[None], 5) is None


def test_the_error_is_never_larger_than_said(device, opened, address, manifest):
    from mrl_adapters._faiss.gpu_rerank import _cosines

    for dtype in ("float16", "float32", "int8"):
        backend = opened(f"{address}?collection={dtype}", fine_dtype=dtype)
        backend.write_manifest(manifest, None)
        backend.upsert(rows([f"d{i:03}" for i in range(200)]))
        with backend._store.snapshot() as snapshot:
            held = DeviceVectors(snapshot, device)
            held.shortlist(snapshot, vectors_of(1), np.arange(200)[None], 5)
            queries, numbers = vectors_of(10, 3), np.arange(200)
            found = _cosines(
                held._matrix.rows,
                torch.tensor(np.tile(numbers, (10, 1)), device=device.name),
                torch.tensor(queries, device=device.name),
            )
            expected = [stored_cosines(snapshot.fine, numbers, query, DIM) for query in queries]
            off = np.abs(found.cpu().numpy() - np.array(expected)).max()
            assert off <= DeviceVectors.error(DIM, dtype != "float16")


def test_a_batch_is_reranked_with_the_gpu(opened, address, manifest, as_gpu, monkeypatch):
    here, there = opened(f"{address}?collection=a"), opened(f"{address}?collection=b", index="gpu")
    for backend in (here, there):
        filled(backend, manifest)
        backend.flush()
    lengths, shortlist = [], DeviceVectors.shortlist

    def watched(*args):
        found = shortlist(*args)
        lengths.extend(shortened(found))
        return found

    monkeypatch.setattr(DeviceVectors, "shortlist", watched)
    request = two_stages(vectors_of(40, 7), candidates=200)
    a, b = (backend.search(request) for backend in (here, there))
    assert ids_of(a) == ids_of(b) and scores_of(a) == scores_of(b)
    assert len(lengths) == 40 and max(lengths) < 40
