"""Fixtures for the tests of encoders: real texts, and PyTorch in one thread."""

import gzip
import json
from pathlib import Path

import pytest

_SCIFACT = Path(__file__).parents[2].parent / "shared" / "data" / "scifact"


@pytest.fixture(scope="session")
def scifact():
    """Documents and the first 100 queries of SciFact: real scientific English."""
    if not _SCIFACT.is_dir():
        pytest.skip("needs ../shared/data/scifact")

    def read(name):
        with gzip.open(_SCIFACT / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    documents = [f"{row['title']}\n{row['text']}" for row in read("corpus")]
    return documents, [row["text"] for row in read("queries")[:100]]


@pytest.fixture(scope="module")
def one_thread():
    """Threads of PyTorch that wait for one another cost more than they save where other tests run at the same time."""
    torch = pytest.importorskip("torch", reason="needs torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
