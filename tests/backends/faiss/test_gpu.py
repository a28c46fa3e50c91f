"""The index on a GPU, held to the flat one. The same code runs in PyTorch's CPU, so most of it is tested everywhere."""

import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import faiss
import numpy as np
import pytest
import torch

from mrl_adapters._faiss import choosing, devices, faiss_gpu, gpu, half_matrix, shortlists
from mrl_adapters._faiss.choosing import Wish, is_usable
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.faiss_gpu import FaissGPUStructure
from mrl_adapters._faiss.flat import FlatStructure
from mrl_adapters._faiss.gpu import GPUStructure
from mrl_adapters._faiss.gpu_rerank import DeviceVectors, fits
from mrl_adapters._faiss.shortlists import Shortlists
from mrl_adapters._faiss.structure import Allowed
from mrl_adapters._faiss.torch_calls import torch_errors
from mrl_retrieval.errors import BackendError, InvalidInput, MemoryBudgetError, MissingExtra
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.storage.stored_cosines import stored_cosines
from tests.backends.common import COARSE, DIM
from tests.backends.faiss.helpers import ids_of, rows, two_stages, vectors_of
from tests.skips import holds

# Two unit vectors, both rounded to float16, and sums in float32.
ERROR = 2.0**-10 + 1e-5
CPU = Device("cpu", "PyTorch's CPU")

needs_gpu = pytest.mark.skipif(holds("no gpu"), reason="there is no GPU that PyTorch can use")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request):
    return CPU if request.param == "cpu" else devices.find()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def as_gpu(monkeypatch):
    """PyTorch's CPU is taken for a GPU."""
    monkeypatch.setattr(devices, "find", lambda: CPU)


def prefixes(n, dims, seed=0):
    """Unit rows in clusters, some equal, one zero."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((12, dims))[rng.integers(0, 12, n)] + 0.3 * rng.standard_normal((n, dims))
    made = normalize(made.astype(np.float32))
    made[n // 3 : n // 3 + 5] = made[0]
    made[n // 2] = 0
    return made


def check(structure, held, queries, limit, mask):
    """What it finds is allowed, scored right, and nothing that is better by more than rounding is missing."""
    scores, places = structure.search(queries, limit, Allowed(mask))
    assert scores.shape == places.shape == (len(queries), limit)
    assert scores.dtype == np.float32 and places.dtype == np.int64
    true = queries @ held.T
    for q in range(len(queries)):
        assert len(set(places[q].tolist())) == limit and mask[places[q]].all()
        np.testing.assert_allclose(scores[q], true[q, places[q]], atol=ERROR)
        best = np.sort(true[q, mask])[::-1]
        assert (true[q, places[q]] >= best[limit - 1] - 2 * ERROR).all()
        assert np.isin(np.flatnonzero(mask & (true[q] > best[limit - 1] + 2 * ERROR)), places[q]).all()


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


def written(structure, folder):
    structure.write(folder / "index")
    return np.memmap(folder / "index", dtype=np.uint8, mode="c").view(np.ndarray)


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
    assert read.count == 160 and is_usable(read, Wish())


def test_read_where_there_is_no_gpu(tmp_path, monkeypatch):
    structure = GPUStructure.empty(16, CPU)
    structure.add(prefixes(150, 16))
    content = written(structure, tmp_path)
    monkeypatch.setattr(devices, "find", lambda: None)
    read = GPUStructure.read(content)
    assert (read.count, read.dims, read.nbytes) == (150, 16, 150 * 16 * 2)
    assert not read.differing(0, prefixes(150, 16)) and not is_usable(read, Wish())
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


# -- over FAISS --------------------------------------------------------------------------------------------


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
    assert isinstance(read, FaissGPUStructure) and is_usable(read, Wish())
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


# -- in the backend ----------------------------------------------------------------------------------------


def scores_of(rankings):
    return [ranking.scores.tolist() for ranking in rankings]


def filled(backend, manifest):
    backend.write_manifest(manifest, None)
    backend.upsert(rows([f"d{i:03}" for i in range(300)]))
    backend.upsert(rows([f"d{i:03}" for i in range(0, 300, 7)], vectors_of(43, 2)))
    backend.delete([f"d{i:03}" for i in range(5, 60)])


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


# -- what is missing ---------------------------------------------------------------------------------------


def test_asked_for_without_a_gpu(address, opened, monkeypatch):
    monkeypatch.setattr(devices, "find", lambda: None)
    with pytest.raises(
        BackendError, match=r"torch\.cuda\.is_available\(\) and faiss.*pip install 'mrl-retrieval\[gpu\]'"
    ):
        opened(address, index="gpu")
    with pytest.raises(InvalidInput, match="'auto', 'flat', 'ivf', 'hnsw', 'gpu'"):
        opened(address, index="cuda")


def test_asked_for_without_pytorch(address, opened, monkeypatch):
    monkeypatch.setattr(devices, "find", lambda: None)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'mrl-retrieval\[gpu\]'"):
        opened(address, index="gpu")


def test_pytorch_is_not_loaded_where_there_is_no_gpu(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from mrl_adapters._faiss import devices\n"
        "devices._NODES = ()\n"
        "from mrl_retrieval import MatryoshkaRetriever\n"
        f"with MatryoshkaRetriever(None, 'faiss:{tmp_path}/kb', coarse_dims=4) as kb:\n"
        "    kb.index([str(i) for i in range(8)], vectors=np.eye(8, dtype=np.float32))\n"
        "    kb.search_by_vector(np.eye(8, dtype=np.float32)[0])\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.fixture
def asked_afresh():
    devices.find.cache_clear()
    yield
    devices.find.cache_clear()


@pytest.mark.parametrize("forked", [False, True])
def test_a_forked_process_cannot_use_the_gpu_of_its_parent(asked_afresh, monkeypatch, forked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: forked)
    assert devices.find() == (None if forked else Device("cuda", "some GPU"))


@pytest.mark.parametrize("forked", [False, True])
def test_faiss_finds_a_gpu_where_pytorch_is_not_there(asked_afresh, monkeypatch, forked):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(devices, "_forked", forked)
    found = devices.find()
    assert found is None if forked else (found.library == "faiss" and found.free_bytes() is None)


def test_errors_of_pytorch_are_ours():
    with pytest.raises(BackendError, match="memory is full.*index='flat'"), torch_errors("searching"):
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")
    with pytest.raises(BackendError, match="searching failed, PyTorch says: CUDA"), torch_errors("searching"):
        raise RuntimeError("CUDA error")


@pytest.fixture
def two_builds(tmp_path, monkeypatch):
    """faiss-gpu beside faiss-cpu."""
    folder = tmp_path / "site" / "faiss_gpu-1.15.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu\nVersion: 1.15.1\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    devices.warn_if_faiss_is_doubled.cache_clear()
    yield
    devices.warn_if_faiss_is_doubled.cache_clear()


def test_one_build_of_faiss_is_no_problem():
    assert metadata.version("faiss-cpu")
    assert devices.doubled_faiss() is None


def test_two_builds_of_faiss(two_builds, as_gpu, address, opened, caplog):
    for _ in range(2):
        devices.warn_if_faiss_is_doubled()
    (said,) = caplog.messages
    assert "faiss-cpu and faiss-gpu are both installed" in said
    assert "pip uninstall -y faiss-cpu faiss-gpu; pip install faiss-gpu" in said
    with pytest.raises(BackendError, match="faiss-cpu and faiss-gpu are both installed"):
        opened(address, index="gpu")


# -- full vectors on the device ----------------------------------------------------------------------------


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
        few = lists.of(snapshot, vectors_of(15), positions[:15], 5)
        assert shortened(few) == [200] * 15
        for batch in range(2):  # 300 + 43 vectors are worth bringing over after 9 queries
            found = lists.of(snapshot, vectors_of(17, batch), positions, 5)
            assert max(shortened(found)) < 40


def test_the_vectors_do_not_come_before(opened, address, manifest, monkeypatch):
    monkeypatch.setattr(shortlists, "_VECTORS_PER_QUERY", 10)
    backend = opened(address)
    filled(backend, manifest)
    lists, positions = Shortlists(CPU), np.tile(np.arange(200), (17, 1))
    with backend._store.snapshot() as snapshot:
        counts = [shortened(lists.of(snapshot, vectors_of(17, i), positions, 5)) for i in range(3)]
    assert counts[:2] == [[200] * 17] * 2 and max(counts[2]) < 40


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
            assert shortened(lists.of(snapshot, vectors_of(17), positions, 5)) == [200] * 17
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


@needs_gpu
def test_a_gpu_multiplies_float16_into_float32():
    """Half of what would be read otherwise; from torch 2.8 on."""
    assert gpu._mixes(devices.find())


@needs_gpu
def test_a_whole_collection_on_a_gpu(opened, address, manifest):
    here, there = opened(f"{address}?collection=a"), opened(f"{address}?collection=b", index="gpu")
    for backend in (here, there):
        filled(backend, manifest)
        backend.flush()
    request = two_stages(vectors_of(1100, 7), candidates=200, coarse=COARSE)
    a, b = (backend.search(request) for backend in (here, there))
    assert ids_of(a) == ids_of(b) and scores_of(a) == scores_of(b)
