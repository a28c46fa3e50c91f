"""A collection with its index on a GPU, beside one without."""

import numpy as np
import pytest

from mrl_adapters._faiss import choosing, devices
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.gpu import GPUStructure
from mrl_retrieval.errors import MemoryBudgetError
from tests.backends.common import COARSE
from tests.backends.faiss.gpu.helpers import filled, needs_gpu, scores_of
from tests.backends.faiss.helpers import ids_of, rows, two_stages, vectors_of


def test_answers_are_the_same_with_and_without(opened, address, manifest, as_gpu, monkeypatch):
    here, there = opened(f"{address}?collection=a"), opened(f"{address}?collection=b", index="gpu")
    for backend in (here, there):
        filled(backend, manifest)
    there.flush()
    assert there.stats().details["index"] == "flat, float16, on the GPU"
    queries = vectors_of(20, 7)
    for filter in (None, {"n": {"$lt": 100}}, {"n": 250}):
        request = two_stages(queries, candidates=200, filter=filter, explain=True)
        a, b = (backend.search(request) for backend in (here, there))
        assert ids_of(a) == ids_of(b) and scores_of(a) == scores_of(b)
    there.upsert(rows(["new"], vectors_of(1, 9)))
    assert ids_of(there.search(two_stages(vectors_of(1, 9), k=1))) == [["new"]]
    there.flush()
    assert there.verify().ok
    there.close()
    monkeypatch.setattr(devices, "find", lambda: None)
    again = opened(f"{address}?collection=b")
    assert again.verify().ok
    assert ids_of(again.search(two_stages(vectors_of(1, 9), k=1))) == [["new"]]
    assert again.stats().details["index"] == "flat, exact"


def test_the_cache_file_is_used(opened, address, manifest, as_gpu, monkeypatch):
    with opened(address, index="gpu") as backend:
        filled(backend, manifest)
        backend.flush()
        expected = ids_of(backend.search(two_stages(vectors_of(5, 7))))
    added, add = [], GPUStructure.add
    monkeypatch.setattr(GPUStructure, "add", lambda self, vectors: (added.append(vectors.dtype), add(self, vectors)))
    again = opened(address, index="gpu")
    assert ids_of(again.search(two_stages(vectors_of(5, 7)))) == expected
    assert added == [np.float16], "those of the file, and none from the store"


def test_auto_takes_a_gpu_from_so_many_on(opened, address, manifest, as_gpu, monkeypatch):
    monkeypatch.setattr(choosing, "_GPU_ROWS", 200)
    backend = opened(address)
    backend.write_manifest(manifest, None)
    backend.upsert(rows([f"d{i:03}" for i in range(199)]))
    backend.flush()
    assert backend.stats().details["index"] == "flat, exact"
    backend.upsert(rows(["more"], vectors_of(1, 9)))
    backend.flush()
    assert backend.stats().details["index"] == "flat, float16, on the GPU"
    assert backend.stats().details["why"] == "a GPU compares all of them at once"


def test_auto_leaves_a_gpu_that_is_full(opened, address, manifest, as_gpu, monkeypatch):
    monkeypatch.setattr(choosing, "_GPU_ROWS", 10)
    monkeypatch.setattr(Device, "free_bytes", lambda self: 1 << 20)
    backend = opened(address)
    filled(backend, manifest)
    backend.flush()
    assert backend.stats().details["index"] == "flat, exact"


def test_a_budget_that_it_does_not_fit(opened, address, manifest, as_gpu):
    backend = opened(address)
    filled(backend, manifest)
    with pytest.raises(MemoryBudgetError, match="'gpu'"):
        backend.optimize(index="gpu", memory_budget=1000)


@needs_gpu
def test_a_whole_collection_on_a_gpu(opened, address, manifest):
    here, there = opened(f"{address}?collection=a"), opened(f"{address}?collection=b", index="gpu")
    for backend in (here, there):
        filled(backend, manifest)
        backend.flush()
    request = two_stages(vectors_of(1100, 7), candidates=200, coarse=COARSE)
    a, b = (backend.search(request) for backend in (here, there))
    assert ids_of(a) == ids_of(b) and scores_of(a) == scores_of(b)
