"""MTEB evaluates the two stages itself: its mock tasks, and the same data measured by ours."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")
pytest.importorskip("mteb", reason="mteb is not installed: pip install 'mrl-retrieval[mteb]'")

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.mocks.mock_tasks.reranking import MockRerankingTask
from mteb.mocks.mock_tasks.retrieval import (
    MockInstructionRetrieval,
    MockMultilingualRetrievalTask,
    MockRetrievalDialogTask,
    MockRetrievalTask,
)
from mteb.models.models_protocols import SearchProtocol

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.evaluation import evaluate, load_task
from mrl_retrieval.evaluation.mteb_search import TwoStageSearch
from tests.evaluation.common import documents, judgements, queries, write_beir


def scores(model, task):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return result.task_results[0].scores


@pytest.mark.parametrize(
    "task",
    [MockRetrievalTask, MockMultilingualRetrievalTask, MockRetrievalDialogTask, MockInstructionRetrieval],
    ids=lambda task: task.__name__,
)
@pytest.mark.parametrize("scheme", ["memory", "faiss"])
def test_mock_tasks(task, scheme, tmp_path):
    if scheme == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed: pip install 'mrl-retrieval[faiss]'")
    address = "memory:" if scheme == "memory" else f"faiss:{tmp_path / 'kb'}"
    with TwoStageSearch("hashing:64", address, coarse_dims=16) as search:
        assert isinstance(search, SearchProtocol)
        told = scores(search, task())
    assert told
    for split in told.values():
        for subset in split:
            # Two documents, one of them relevant: first or second.
            assert 0.6309 <= subset["main_score"] <= 1.0 and subset["recall_at_10"] == 1.0


def test_reranking_ranks_what_it_is_given():
    with TwoStageSearch("hashing:64", coarse_dims=16) as search:
        told = scores(search, MockRerankingTask())
    assert all(0.5 <= subset["map_at_1000"] <= 1.0 for split in told.values() for subset in split)


class Fruit(AbsTaskRetrieval):
    """The corpus of the other tests. Queries without a relevant document are left out: MTEB counts them as 0."""

    metadata = MockRetrievalTask.metadata.model_copy(update={"name": "Fruit", "eval_splits": ["test"]})

    def load_data(self, num_proc=None, **kwargs):
        gains = {query: {d: int(g) for d, g in of.items()} for query, of in judgements().items() if query != "q20"}
        split = RetrievalSplitData(
            corpus=Dataset.from_list([{"id": i, "title": t, "text": x} for i, t, x in documents()]),
            queries=Dataset.from_list([{"id": i, "text": x} for i, x in queries() if i in gains]),
            relevant_docs=gains,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


@pytest.mark.parametrize(("dims", "candidates"), [(8, 20), (16, 50), (64, 100)])
def test_its_scores_are_ours(dims, candidates, tmp_path):
    ours = evaluate("hashing:64", load_task(f"search:{write_beir(tmp_path / 'a')}"), dims=[dims], candidates=candidates)
    row = ours.tasks[0].at(dims, stage="prefix" if dims == 64 else "two-stage")
    with TwoStageSearch("hashing:64", coarse_dims=dims, candidates=candidates) as search:
        (told,) = scores(search, Fruit())["test"]
    # Five digits are what MTEB reports. Candidates that tie at the last place are chosen by another rule there.
    for name, theirs in (("ndcg@10", "ndcg_at_10"), ("mrr@10", "mrr_at_10"), ("recall@10", "recall_at_10")):
        assert row.metrics[name].value == pytest.approx(told[theirs], abs=1e-5), name
    if candidates in (20, 100):
        assert row.metrics[f"recall@{candidates}"].value == pytest.approx(told[f"recall_at_{candidates}"], abs=1e-5)


def test_what_it_makes_it_drops(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'mrl-retrieval[faiss]'")
    place = f"faiss:{tmp_path / 'kb'}"
    with MatryoshkaRetriever("hashing:64", f"{place}?collection=mine") as mine:
        mine.index(["mine"])
    search = TwoStageSearch("hashing:64", place)
    scores(search, Fruit())
    with MatryoshkaRetriever.open(f"{place}?collection=mine") as mine:
        assert set(mine.backend.collections()) == {"mine", "mteb-Fruit-default-test"}
        search.close()
        assert mine.backend.collections() == ["mine"]


def test_what_is_there_is_not_touched(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'mrl-retrieval[faiss]'")
    place = f"faiss:{tmp_path / 'kb'}"
    with MatryoshkaRetriever("hashing:64", f"{place}?collection=mteb-Fruit-default-test") as mine:
        mine.index(["mine"])
        with TwoStageSearch("hashing:64", place) as search, pytest.raises(InvalidInput, match="is there already"):
            scores(search, Fruit())
        assert mine.count() == 1


def test_the_card_says_what_it_is():
    meta = TwoStageSearch("hashing:64", coarse_dims=16, candidates=50).mteb_model_meta
    assert meta.name == "mrl-retrieval/hashing-16-of-64" and meta.embed_dim == 64
    assert meta.experiment_kwargs == {"backend": "memory", "coarse_dims": 16, "candidates": 50}


def test_bad_input():
    with pytest.raises(InvalidInput, match="names a collection"):
        TwoStageSearch("hashing:64", "memory:?collection=x")
    with pytest.raises(InvalidInput, match="candidates must be a whole number"):
        TwoStageSearch("hashing:64", candidates=0)
    with pytest.raises(InvalidInput, match="nothing is indexed"):
        TwoStageSearch("hashing:64").search([{"id": "q", "text": "x"}], top_k=1)
