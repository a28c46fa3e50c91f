"""The benchmark of the library's own cost runs, keeps its collection, and leaves the kernels as it found them."""

import pytest

from benchmarks import overhead
from mrl_adapters._faiss.index import CoarseIndex
from mrl_retrieval.storage import rerank


def test_it_runs_twice_on_the_same_collection(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(overhead, "QUERIES", 5)
    before = CoarseIndex.search, rerank.best_stored
    for _ in range(2):
        overhead.main(["--rows", "300", "--dims", "16", "--rounds", "1", "--cache", str(tmp_path)])
        printed = capsys.readouterr().out
        for words in ("300 rows of 16 dims", "= the library's own", "rows of the hits", "search_by_vector"):
            assert words in printed
    assert (CoarseIndex.search, rerank.best_stored) == before
    assert [folder.name for folder in tmp_path.iterdir()] == ["overhead-300-16"]


def test_the_time_of_a_kernel_is_taken_from_that_of_the_search(monkeypatch):
    with overhead._Kernels() as kernels:
        with pytest.raises(TypeError):
            rerank.best_stored()
        assert set(kernels.seconds) == {"coarse search", "gather and dot products, with checksums"}
