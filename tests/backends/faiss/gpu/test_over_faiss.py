"""The structure over FAISS's GPUs, with an index of the CPU in the place of theirs."""

import numpy as np
import pytest

from mrl_adapters._faiss import devices, faiss_gpu
from mrl_adapters._faiss.choosing import Wish, is_usable
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.faiss_gpu import FaissGPUStructure
from mrl_adapters._faiss.gpu import GPUStructure
from tests.backends.faiss.gpu.helpers import check, filled, prefixes, scores_of, written
from tests.backends.faiss.helpers import ids_of, two_stages, vectors_of


@pytest.fixture
def faiss_gpu_structure(monkeypatch):
    """FAISS's flat index on the CPU in the place of that on a GPU, which can do the same and more."""
    monkeypatch.setattr(faiss_gpu, "_on_device", lambda index: index)
    return lambda dims, **options: GPUStructure.empty(dims, Device("cuda", "a GPU", "faiss"), **options)


@pytest.mark.parametrize("most", [20, 2048])
def test_over_faiss_it_finds_what_is_nearest(faiss_gpu_structure, monkeypatch, most):
    monkeypatch.setattr(faiss_gpu, "_MOST", most)
    monkeypatch.setattr(faiss_gpu, "_BLOCK", 70)
    held, queries = prefixes(300, 24), np.concatenate([prefixes(8, 24, seed=1), np.zeros((1, 24), np.float32)])
    structure = faiss_gpu_structure(24)
    structure.add(held[:200])
    structure.drop_front(50)
    structure.add(held[200:])
    assert (structure.dims, structure.count) == (24, 250)
    rng = np.random.default_rng(3)
    for share in (1.0, 0.95, 0.5, 0.1):
        mask = rng.random(250) < share
        for limit in (1, 10, int(mask.sum())):
            check(structure, held[50:], queries, limit, mask)


def test_over_faiss_it_is_written_and_read(faiss_gpu_structure, tmp_path, monkeypatch):
    structure = faiss_gpu_structure(16)
    structure.add(prefixes(150, 16))
    monkeypatch.setattr(devices, "find", lambda: structure.device)
    read = GPUStructure.read(written(structure, tmp_path))
    assert isinstance(read, FaissGPUStructure) and is_usable(read, {}, Wish())
    check(read, prefixes(150, 16), prefixes(5, 16, seed=1), 10, np.ones(150, dtype=np.bool_))
    assert not read.differing(0, prefixes(150, 16)) and read.differing(1, prefixes(149, 16))


def test_over_faiss_in_a_backend(faiss_gpu_structure, opened, address, manifest, monkeypatch):
    here, there = opened(f"{address}?collection=a"), opened(f"{address}?collection=b")
    monkeypatch.setattr(devices, "find", lambda: Device("cuda", "a GPU", "faiss"))
    for backend in (here, there):
        filled(backend, manifest)
    there.optimize(index="gpu")
    request = two_stages(vectors_of(40, 7), candidates=200)
    a, b = (backend.search(request) for backend in (here, there))
    assert ids_of(a) == ids_of(b) and scores_of(a) == scores_of(b)
