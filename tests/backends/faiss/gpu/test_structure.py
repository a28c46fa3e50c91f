"""The structure on a GPU, held to the flat one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_adapters._faiss import devices, gpu
from mrl_adapters._faiss.choosing import Wish, is_usable
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.flat import FlatStructure
from mrl_adapters._faiss.gpu import GPUStructure
from mrl_adapters._faiss.structure import Allowed
from mrl_retrieval.errors import BackendError
from mrl_retrieval.matryoshka import normalize
from tests.backends.faiss.gpu.helpers import CPU, ERROR, check, prefixes, written
from tests.backends.faiss.helpers import vectors_of


@pytest.mark.parametrize("dims", [1, 7, 64, 130])
@pytest.mark.parametrize("scratch", [4000, 1 << 20])
def test_it_finds_what_is_nearest(device, dims, scratch, monkeypatch):
    monkeypatch.setattr(gpu, "_QUERIES", 4)
    held = prefixes(300, dims)
    queries = np.concatenate([prefixes(8, dims, seed=1), held[:1], np.zeros((1, dims), np.float32)])
    structure = GPUStructure.empty(dims, device, scratch=scratch)
    for start in (0, 1, 1, 120):
        structure.add(held[structure.count : max(start, structure.count)])
    structure.add(held[120:])
    assert (structure.dims, structure.count) == (dims, 300)
    rng = np.random.default_rng(3)
    for share in (1.0, 0.6, 0.1):
        mask = rng.random(300) < share
        for limit in (1, 10, int(mask.sum())):
            check(structure, held, queries, limit, mask)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_added_dropped_and_masked(data):
    n, dims = data.draw(st.integers(2, 60), "n"), data.draw(st.integers(1, 20), "dims")
    held = prefixes(n, dims, seed=data.draw(st.integers(0, 99), "seed"))
    structure = GPUStructure.empty(
        dims, CPU, capacity=data.draw(st.integers(0, n), "capacity"), scratch=data.draw(st.integers(1, 4000), "scratch")
    )
    cut = data.draw(st.integers(0, n), "cut")
    dropped = data.draw(st.integers(0, min(cut, n - 1)), "dropped")
    structure.add(held[:cut])
    structure.drop_front(dropped)
    structure.add(held[cut:])
    left = n - dropped
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=left, max_size=left).filter(any), "mask"))
    limit = data.draw(st.integers(1, int(mask.sum())), "limit")
    check(structure, held[dropped:], prefixes(3, dims, seed=1), limit, mask)


def test_it_finds_what_a_flat_index_finds(device):
    held, queries = prefixes(400, 64), prefixes(6, 64, seed=1)
    flat, structure = FlatStructure.empty(64), GPUStructure.empty(64, device, capacity=400)
    for each in (flat, structure):
        each.add(held)
    everyone = Allowed(np.ones(400, dtype=np.bool_))
    found, expected = (each.search(queries, 50, everyone)[0] for each in (structure, flat))
    np.testing.assert_allclose(-np.sort(-found, axis=1), expected, atol=ERROR)


def test_the_front_is_dropped(device):
    held, queries = prefixes(200, 24), prefixes(3, 24, seed=1)
    structure = GPUStructure.empty(24, device)
    structure.add(held[:150])
    structure.drop_front(90)
    structure.add(held[150:])
    check(structure, held[90:], queries, 20, np.ones(110, dtype=np.bool_))
    structure.drop_front(110)
    assert structure.count == 0
    structure.add(held)
    check(structure, held, queries, 20, np.ones(200, dtype=np.bool_))


def test_each_mask_is_its_own(device):
    """The last one stays on the device: it must not be taken for another."""
    held, queries = prefixes(100, 8), prefixes(2, 8, seed=1)
    structure = GPUStructure.empty(8, device)
    structure.add(held)
    for seed in range(6):
        check(structure, held, queries, 5, np.random.default_rng(seed).random(100) < 0.7)


def test_neighbours_closer_than_float16_tells_in_a_score_are_told_apart(device):
    """A result in float16 just below 1 has steps of 5e-4."""
    near = vectors_of(1, dim=128) + 0.003 * vectors_of(200, seed=1, dim=128) * np.sqrt(128, dtype=np.float32)
    held = normalize(near.astype(np.float32))
    structure = GPUStructure.empty(128, device)
    structure.add(held)
    scores, _ = structure.search(held[:1], 100, Allowed(np.ones(200, dtype=np.bool_)))
    assert len(np.unique(scores)) > 80 > 5 * len(np.unique(scores.astype(np.float16)))


def test_write_and_read(device, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "find", lambda: device)
    held, queries = prefixes(150, 16), prefixes(4, 16, seed=1)
    structure = GPUStructure.empty(16, device)
    structure.add(held)
    read = GPUStructure.read(written(structure, tmp_path))
    everyone = Allowed(np.ones(150, dtype=np.bool_))
    for a, b in zip(read.search(queries, 10, everyone), structure.search(queries, 10, everyone), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not read.differing(100, held[100:]) and read.differing(99, held[100:])
    read.add(held[:10])
    assert read.count == 160 and is_usable(read, {}, Wish())


def test_read_where_there_is_no_gpu(tmp_path, monkeypatch):
    structure = GPUStructure.empty(16, CPU)
    structure.add(prefixes(150, 16))
    content = written(structure, tmp_path)
    monkeypatch.setattr(devices, "find", lambda: None)
    read = GPUStructure.read(content)
    assert (read.count, read.dims, read.nbytes) == (150, 16, 150 * 16 * 2)
    assert not read.differing(0, prefixes(150, 16)) and not is_usable(read, {}, Wish())
    with pytest.raises(BackendError, match="index='auto'"):
        read.search(prefixes(1, 16), 1, Allowed(np.ones(150, dtype=np.bool_)))


def test_read_where_the_gpu_is_full(tmp_path, monkeypatch, as_gpu):
    structure = GPUStructure.empty(16, CPU)
    structure.add(prefixes(150, 16))
    monkeypatch.setattr(Device, "free_bytes", lambda self: 1000)
    assert GPUStructure.read(written(structure, tmp_path)).device is None


def test_read_something_else(tmp_path):
    with pytest.raises(ValueError, match="begins with"):
        GPUStructure.read(np.zeros(100, np.uint8))
