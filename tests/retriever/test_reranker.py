"""The third stage: rerankers of every kind, what they may answer, the order and the trace they make, and their depth."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import CollectionNotFound, InvalidInput, RerankerError
from mrl_retrieval.metrics import ndcg_at_k

TEXTS = {
    "revert": "git revert undoes a commit",
    "stash": "git stash keeps a change for later",
    "reset": "git reset moves a branch to another commit",
    "cake": "a cake needs flour and eggs",
    "bread": "bread needs flour, water and time",
    "commit": "a commit is a snapshot",
}
QUERY = "how do I undo a commit with git"


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def overlap(query: str, documents: list[str]) -> list[float]:
    """Share of the query's words that are in the document."""
    return [len(words(query) & words(text)) / len(words(query)) for text in documents]


def by_length(query: str, documents: list[str]) -> list[float]:
    """The shorter the better, which has nothing to do with the vectors."""
    return [-float(len(text)) for text in documents]


def filled(**settings: Any) -> MatryoshkaRetriever:
    retriever = MatryoshkaRetriever("hashing", "memory:", **settings)
    retriever.index(list(TEXTS.values()), list(TEXTS))
    return retriever


def test_hits_are_ordered_by_the_reranker_and_keep_their_cosines() -> None:
    with filled(reranker=by_length) as retriever:
        plain = retriever.search(QUERY, 6, reranker=None)
        assert all(hit.rerank_score is None for hit in plain) and plain.certificate == "candidates"
        found = retriever.search(QUERY, 6)
        assert found.ids == sorted(TEXTS, key=lambda name: len(TEXTS[name]))
        assert {hit.id: hit.score for hit in found} == {hit.id: hit.score for hit in plain}
        assert [hit.rerank_score for hit in found] == [-len(TEXTS[hit.id]) for hit in found]
        assert found.certificate is None and found.trace is None
        assert [tuple(hit) for hit in found] == [(hit.id, hit.score, hit.document) for hit in found]
        assert retriever.search(QUERY, 2).ids == found.ids[:2], "what is read does not depend on what is wanted"
        assert retriever.search(QUERY, 6, reranker=overlap).ids != found.ids
        assert [r.ids for r in retriever.search_batch([QUERY, "flour"], 6)] == [found.ids, found.ids]


def test_the_cap_and_the_trace() -> None:
    asked: list[list[str]] = []

    def told(query: str, documents: list[str]) -> list[float]:
        asked.append(documents)
        return by_length(query, documents)

    with filled(reranker=told, rerank_top_k=3) as retriever:
        plain = retriever.search(QUERY, 6, reranker=None, explain=True)
        found = retriever.search(QUERY, 5, explain=True)
        assert [len(each) for each in asked] == [3]
        assert set(found.ids[:3]) == set(plain.ids[:3]) and found.ids[3:] == plain.ids[3:5]
        assert [hit.rerank_score is None for hit in found] == [False] * 3 + [True] * 2
        stage = found.trace.stages[-1]
        assert (stage.name, stage.dims, stage.candidates_in, stage.candidates_out) == ("reranker", None, 3, 3)
        assert stage.last_score == found[2].rerank_score and stage.margin is None and stage.seconds > 0
        assert [hit.ranks[-1] for hit in found] == [1, 2, 3, 4, 5]
        assert [hit.ranks[1] for hit in found] == [plain.ids.index(hit.id) + 1 for hit in found]
        first = retriever.search(QUERY, 1, explain=True).trace.stages[-1]
        order = sorted((-len(TEXTS[id]) for id in plain.ids[:3]), reverse=True)
        assert (first.last_score, first.margin) == (order[0], order[0] - order[1])
        assert retriever.search(QUERY, 2, rerank_top_k=6).ids == sorted(TEXTS, key=lambda name: len(TEXTS[name]))[:2]


def test_ties_are_ordered_by_cosine_then_id_and_rows_without_text_come_last() -> None:
    with MatryoshkaRetriever(None, "memory:", reranker=lambda query, texts: [0.5] * len(texts)) as retriever:
        vectors = [[1, 0.0], [1, 0.1], [1, 0.2], [1, 0.1], [1, 0.3]]
        retriever.index([None, "b", "c", "a", None], ["none", "b", "c", "a", "far"], vectors=vectors)
        found = retriever.search_by_vector([1, 0.0], text="anything")
        assert found.ids == ["a", "b", "c", "none", "far"]
        assert [hit.rerank_score for hit in found] == [0.5] * 3 + [None] * 2
        both = retriever.search_batch_by_vector([[1, 0.0], [0.0, 1]], text=["one", "two"])
        assert both[0].ids == found.ids and both[1].ids[-2:] == ["far", "none"]
        for texts in (None, ["one"]):
            with pytest.raises(InvalidInput, match="reranker=None"):
                retriever.search_batch_by_vector([[1, 0.0], [0.0, 1]], text=texts)
        with pytest.raises(InvalidInput, match="text="):
            retriever.search_by_vector([1, 0.0])
        assert retriever.search_by_vector([1, 0.0], reranker=None).ids == ["none", "a", "b", "c", "far"]
        with pytest.raises(InvalidInput):
            retriever.why_not([1, 0.0], "a")
        assert len(retriever.search_by_vector([1, 0.0], text="x", filter={"no": "row"})) == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda q, d: [1.0], "shape (1,) for 6 documents, expected (6,)"),
        (lambda q, d: [[1.0, 2.0]] * len(d), "shape (6, 2) for 6 documents, expected (6,)"),
        (lambda q, d: [0.0, math.nan, *[1.0] * (len(d) - 2)], "document 1 of 6 with nan"),
        (lambda q, d: [math.inf] * len(d), "document 0 of 6 with inf"),
        (lambda q, d: None, "failed on 6 documents"),
        (lambda q, d: ["high"] * len(d), "failed on 6 documents"),
        (lambda q, d: 1 / 0, "division by zero"),
    ],
)
def test_answers_that_cannot_be_used(answer: Any, words: str) -> None:
    with filled(reranker=answer) as retriever:
        with pytest.raises(RerankerError, match=re.escape(words)) as caught:
            retriever.search(QUERY)
        assert "failed" not in words or caught.value.__cause__ is not None


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cross-encoder:FOLDER_OR_NAME"):
        filled(reranker="some-model")
    with pytest.raises(InvalidInput, match="pass a CrossEncoder"):
        filled(reranker=7)
    with pytest.raises(InvalidInput, match="rerank_top_k"):
        filled(rerank_top_k=5)
    with filled() as retriever:
        for wrong in ({"rerank_top_k": 5}, {"reranker": overlap, "rerank_top_k": 0}):
            with pytest.raises(InvalidInput, match="rerank_top_k"):
                retriever.search(QUERY, **wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="rerank_top_k=9 asks for as many"):
            retriever.search(QUERY, 2, coarse_top_k=4, reranker=overlap, rerank_top_k=9)
        assert len(retriever.search(QUERY, 2, coarse_top_k=4, reranker=overlap, explain=True)) == 2
        with pytest.raises(RerankerError, match="cannot be loaded"):
            retriever.search(QUERY, reranker=f"cross-encoder:{tmp_path}/nothing")


def test_why_not_tells_what_the_reranker_did() -> None:
    with filled(reranker=by_length, rerank_top_k=4) as retriever:
        plain = retriever.search(QUERY, 6, reranker=None).ids
        shortest = sorted(plain[:4], key=lambda name: len(TEXTS[name]))
        found = retriever.why_not(QUERY, shortest[0], 2)
        assert (found.verdict, found.rank) == ("found", 1)
        below = retriever.why_not(QUERY, shortest[2], 2)
        assert (below.verdict, below.stage, below.rank, below.top_k) == ("lost", "reranker", 3, 3)
        assert below.lost_by == len(TEXTS[shortest[2]]) - len(TEXTS[shortest[1]])
        assert "lost in the reranker" in str(below) and "top_k=3" in str(below)
        unread = retriever.why_not(QUERY, plain[5], 2)
        assert (unread.stage, unread.rank, unread.rerank_top_k) == ("reranker", 6, 6)
        assert "it read the first 4 hits, and this was number 6; rerank_top_k=6" in str(unread)
        deeper = retriever.why_not(QUERY, plain[5], 6, rerank_top_k=6)
        assert deeper.verdict == "found"


def test_depth_against_what_searches_at_each_depth_give() -> None:
    """One pass over the deepest hits is the same as a search at every depth."""
    queries = [QUERY, "flour for a cake", "keep a change", "time for bread"]
    gains = [{"revert": 1.0}, {"cake": 2.0, "bread": 1.0}, {"stash": 1.0}, {}]
    with filled(reranker=by_length) as retriever:
        report = retriever.rerank_depth(queries, gains, depths=(4, 1, 2), batch_size=3)
        assert (report.reranker, report.queries, report.k, report.judged) == ("by_length", 3, 10, True)
        assert [row.depth for row in report.rows] == [0, 1, 2, 4]
        for row in report.rows:
            given: Any = {"rerank_top_k": row.depth} if row.depth else {"reranker": None}
            found = [retriever.search(query, 10, **given).ids for query in queries[:3]]
            truth = [ndcg_at_k(ids, judged) for ids, judged in zip(found, gains, strict=False)]
            assert row.ndcg == pytest.approx(sum(truth) / 3)
        assert str(report).endswith(report.advice)


def noisy(judged: Sequence[str]) -> Any:
    """Knows what is right among few, but overrates one text that lies deep, as rerankers do."""

    def score(query: str, documents: list[str]) -> list[float]:
        return [3.0 if "distraction" in text else 2.0 if text in judged else 1.0 for text in documents]

    return score


def test_advice_says_where_more_pays_and_where_it_hurts() -> None:
    near = [[1.0, 0.01 * i] for i in range(60)]
    texts = [f"text {i}" for i in range(40)] + [f"distraction {i}" for i in range(20)]
    with MatryoshkaRetriever(lambda asked: [[1.0, 0.0]] * len(asked), "memory:", coarse_dims=2) as retriever:
        retriever.index(texts, [f"d{i}" for i in range(60)], vectors=near)
        queries, gains = ["q"] * 20, [{"d15": 1.0, f"d{14 - i % 3}": 1.0} for i in range(20)]
        right = noisy(["text 12", "text 13", "text 14", "text 15"])
        report = retriever.rerank_depth(queries, gains, depths=(5, 20, 30, 55), reranker=right)
        assert (report.enough, report.hurts_from) == (20, 55)
        assert "rerank_top_k=20 is enough" in report.advice and "from 55 on it is worse" in report.advice
        useless = retriever.rerank_depth(queries, gains, depths=(5, 20), reranker=lambda q, d: range(0, -len(d), -1))
        assert useless.enough == 0 and "leave it out" in useless.advice
        exact = retriever.rerank_depth(queries[:2], depths=(10, 55), reranker=right)
        assert not exact.judged and exact.rows[0].ndcg == 1.0 > exact.rows[-1].ndcg
        for wrong in ([{}] * 20, gains[:3]):
            with pytest.raises(InvalidInput):
                retriever.rerank_depth(queries, wrong, reranker=right)
        with pytest.raises(InvalidInput, match="no reranker"):
            retriever.rerank_depth(queries, gains)
        with pytest.raises(InvalidInput, match="depths"):
            retriever.rerank_depth(queries, gains, depths=(), reranker=right)
    with MatryoshkaRetriever("hashing", "memory:") as empty, pytest.raises(CollectionNotFound):
        empty.rerank_depth(["q"], [{"a": 1.0}], reranker=overlap)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real cross-encoder with random weights; its scores mean nothing."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    base, folder = (tmp_path_factory.mktemp(name) for name in ("bert", "cross-encoder"))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set().union(*map(words, TEXTS.values())))]
    (base / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(base)
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    CrossEncoder(str(base), num_labels=1, device="cpu").save_pretrained(str(folder))
    return folder


def test_a_cross_encoder_by_object_and_by_folder(tiny: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny), device="cpu")
    with filled(reranker=model) as by_object, filled(reranker=f"cross-encoder:{tiny}") as by_name:
        found = by_object.search(QUERY, 6, explain=True)
        truth = dict(zip(TEXTS, model.predict([(QUERY, text) for text in TEXTS.values()]).tolist(), strict=True))
        assert len(set(truth.values())) == len(TEXTS)
        assert {hit.id: hit.rerank_score for hit in found} == pytest.approx(truth, abs=1e-5)
        assert found.ids == sorted(truth, key=lambda name: -truth[name])
        assert found.trace.stages[-1].name == "reranker"
        assert [result.ids for result in by_name.search_batch([QUERY, QUERY], 6)] == [found.ids] * 2
