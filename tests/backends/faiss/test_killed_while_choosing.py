"""A process that is killed while it makes another index, or writes one, leaves rows and a cache that can be trusted."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.backends.faiss.helpers import exact, ids_of, rows, two_stages, vectors_of

_WRITER = """
import sys
from mrl_adapters._faiss import choosing
from mrl_retrieval.registry import open_backend

choosing._EXACT_ROWS, choosing._IVF_ROWS, choosing._LEAST_PER_LIST = 100, 400, 8
backend = open_backend(sys.argv[1])
backend.read_manifest()
print("ready", flush=True)
for i in range(10**6):
    backend.optimize(index=("ivf", "flat", "hnsw")[i % 3])
    print(i, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.02, 0.05, 0.11])
def test_killed(kb, opened, address, delay):
    kb.upsert(rows([f"d{i:04}" for i in range(2000)], vectors_of(2000)))
    queries = vectors_of(5, 9)
    truth = ids_of(kb.search(exact(queries, 5)))
    kb.flush()
    kb.close()
    with subprocess.Popen([sys.executable, "-c", _WRITER, address], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            assert writer.stdout.readline() == "0\n"
            time.sleep(delay)
        finally:
            writer.send_signal(signal.SIGKILL)
    again = opened(address)
    again.read_manifest()
    assert again.verify().ok
    assert again.count() == 2000
    assert ids_of(again.search(exact(queries, 5))) == truth
    found = ids_of(again.search(two_stages(queries, 5, 2000)))
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]) == 5
    again.flush()
    assert again.verify().ok
