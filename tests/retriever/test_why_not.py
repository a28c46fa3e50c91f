"""``why_not`` and ``explain`` by text, with a rotation, on an approximate index, and what they say in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, fit_rotation
from mrl_retrieval.errors import CollectionNotFound, DimensionError, EncoderRequired, InvalidInput
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.testing.base import clustered
from mrl_retrieval.two_stage import Candidates

N, DIM, COARSE = 250, 24, 6
IDS = [f"d{i:03d}" for i in range(N)]


def filled(address: str, **settings: Any) -> MatryoshkaRetriever:
    retriever = MatryoshkaRetriever(None, address, coarse_dims=COARSE, **settings)
    retriever.index([None] * N, IDS, vectors=clustered(N, DIM, seed=3))
    return retriever


QUERY = clustered(1, DIM, seed=4)[0]


def test_the_embedded_store_tells_the_same_as_the_oracle(tmp_path: Path) -> None:
    """Its index is exact while it is small, whatever it declares."""
    options: dict[str, Any] = {"stages": [(COARSE, 80), (12, 30)], "explain": True}
    with (
        filled("memory:") as memory,
        filled(f"faiss:{tmp_path}/kb", backend_options={"fine_dtype": "float32"}) as store,
    ):
        for query in clustered(5, DIM, seed=9):
            for given in (options, {"explain": True, "exact": True}):
                one, other = (each.search_by_vector(query, 7, **given) for each in (memory, store))
                assert [hit.ranks for hit in one] == [hit.ranks for hit in other]
                for a, b in zip(one.trace.stages, other.trace.stages, strict=True):
                    told, same = (
                        (s.name, s.dims, s.candidates_in, s.candidates_out, pytest.approx(s.last_score, abs=1e-5))
                        for s in (a, b)
                    )
                    assert told == same and a.margin == pytest.approx(b.margin, abs=1e-5)
                    assert a.bytes_read is not None and b.bytes_read is not None
            for id in IDS[::31]:
                a, b = (each.why_not(query, id, 7, coarse_top_k=50) for each in (memory, store))
                assert (a.verdict, a.stage, a.rank, a.coarse_top_k, a.top_k) == (
                    b.verdict, b.stage, b.rank, b.coarse_top_k, b.top_k,
                )  # fmt: skip


def test_with_a_rotation() -> None:
    """Prefixes are those of the rotated vectors; full scores are what they were."""
    vectors = clustered(N, DIM, seed=3)
    rotation = fit_rotation(None, vectors, dims=[COARSE])
    turned = rotation.apply(vectors)
    with filled("memory:", rotation=rotation) as retriever:
        short = exact_search(rotation.apply(QUERY[None]), turned, IDS, N, dim=COARSE)[0][0]
        full = exact_search(QUERY[None], vectors, IDS, N)[0][0]
        why = retriever.why_not(QUERY, short[120], 5, coarse_top_k=60)
        assert (why.stage, why.rank, why.coarse_top_k) == ("coarse", 121, 121)
        best = retriever.search_by_vector(QUERY, 5, coarse_top_k=N, explain=True)
        assert best.ids == full[:5]
        assert [hit.ranks for hit in best] == [(short.index(id) + 1, i) for i, id in enumerate(best.ids, start=1)]


def test_what_an_approximate_index_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real coarse search that leaves one out, as a graph may."""
    true = MemoryBackend.coarse_search

    def lossy(self: MemoryBackend, vectors: Any, limit: int, filter: Any) -> list[Candidates]:
        found = true(self, vectors, limit + 1, filter)
        return [Candidates([c.ids[0], *c.ids[2:]], np.delete(c.scores, 1)) for c in found]

    with filled("memory:") as retriever:
        second = retriever.search_by_vector(QUERY, 2, stages=[(COARSE, N)], explain=True)
        order = exact_search(QUERY[None], clustered(N, DIM, seed=3), IDS, N, dim=COARSE)[0][0]
        assert len(second) == 2
        capabilities = type(MemoryBackend.capabilities)(approximate_coarse=True, exact_search=True)
        monkeypatch.setattr(MemoryBackend, "capabilities", capabilities)
        monkeypatch.setattr(MemoryBackend, "coarse_search", lossy)
        why = retriever.why_not(QUERY, order[1], 5, coarse_top_k=50)
        assert (why.verdict, why.stage, why.rank, why.limit, why.coarse_top_k) == ("missed", "coarse", 2, 50, None)
        assert "the approximate index missed it" in str(why)
        beyond = retriever.why_not(QUERY, order[100], 5, coarse_top_k=50)
        assert beyond.coarse_top_k == 101 and "may need more" in str(beyond)


def test_sentences() -> None:
    texts = {"git": "git revert undoes a commit", "cake": "a cake needs flour", "stash": "git stash keeps a change"}
    with MatryoshkaRetriever("hashing", "memory:", coarse_dims=32) as retriever:
        retriever.index(list(texts.values()), list(texts), [{"n": i} for i in range(3)])
        asked = "How do I undo a git commit?"
        said = {
            "git": "'git' was found: it is hit 1, with a score of ",
            "nobody": "'nobody' was not found because the collection holds no row with this id.",
        }
        for id, start in said.items():
            assert str(retriever.why_not(asked, id, 1)).startswith(start)
        lost = retriever.why_not(asked, "cake", 1)
        assert lost.top_k == lost.rank and f"top_k={lost.top_k} would have kept it." in str(lost)
        assert "'cake' was lost in the final cut (256 dims): its score" in str(lost) or retriever.manifest.dim != 256
        coarse = retriever.why_not(asked, "cake", 1, coarse_top_k=1)
        assert coarse.stage == "coarse" and f"coarse_top_k={coarse.coarse_top_k} would have kept it" in str(coarse)
        assert coarse.lost_by is not None and coarse.lost_by > 0
        outside = retriever.why_not(asked, "git", filter={"n": 2})
        assert str(outside) == "'git' was not found because its metadata do not match the filter."


def test_bad_input() -> None:
    with MatryoshkaRetriever(None, "memory:", dim=4) as retriever:
        with pytest.raises(CollectionNotFound):
            retriever.why_not([1, 0, 0, 0], "a")
        retriever.index(["a"], ["a"], vectors=[[1, 0, 0, 0]])
        with pytest.raises(DimensionError):
            retriever.why_not([[1, 0, 0, 0]], "a")
        with pytest.raises(DimensionError):
            retriever.why_not([1, 0], "a")
        with pytest.raises(EncoderRequired):
            retriever.why_not("a text", "a")
        with pytest.raises(InvalidInput):
            retriever.why_not([1, 0, 0, 0], "a", 0)
        with pytest.raises(InvalidInput):
            retriever.why_not([1, 0, 0, 0], None)  # type: ignore[arg-type]
