"""The same code on a GPU, where there is one, and in PyTorch's CPU everywhere."""

import pytest
import torch

from mrl_adapters._faiss import devices
from tests.backends.faiss.gpu.helpers import CPU, needs_gpu


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
