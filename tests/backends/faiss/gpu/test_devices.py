"""Which GPU is there, what is missing, and two builds of FAISS at once."""

import subprocess
import sys
from importlib import metadata

import faiss
import pytest
import torch

from mrl_adapters._faiss import devices, gpu
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.torch_calls import torch_errors
from mrl_retrieval.errors import BackendError, InvalidInput, MissingExtra
from tests.backends.faiss.gpu.helpers import needs_gpu


def test_asked_for_without_a_gpu(address, opened, monkeypatch):
    monkeypatch.setattr(devices, "find", lambda: None)
    with pytest.raises(
        BackendError, match=r"torch\.cuda\.is_available\(\) and faiss.*pip install 'mrl-retrieval\[gpu\]'"
    ):
        opened(address, index="gpu")
    with pytest.raises(InvalidInput, match="'auto', 'flat', 'ivf', 'hnsw', 'graph', 'gpu'"):
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


def test_two_builds_of_faiss_are_said_at_opening(two_builds, address, opened, caplog):
    for _ in range(2):
        opened(address)
    assert len(caplog.messages) == 1


@needs_gpu
def test_a_gpu_multiplies_float16_into_float32():
    """Half of what would be read otherwise; from torch 2.8 on."""
    assert gpu._mixes(devices.find())
