"""What plans promise and what is then found on queries that they have not seen; and what planning costs.

The embedded store, prefixes of 64 dims. Half of the queries plan, half check. ``docs/planning.md`` keeps a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.datasets import load
from benchmarks.report import machine, table
from benchmarks.truncation import ENCODERS, PAGE, _vectors
from mrl_retrieval import Encoder, MatryoshkaRetriever
from mrl_retrieval.backend import Backend
from mrl_retrieval.errors import TooFewQueries
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.planning import SearchPlan, plan_collection
from mrl_retrieval.planning.costs import Costs, timed
from mrl_retrieval.planning.planner import MOST_CANDIDATES, Goal
from mrl_retrieval.planning.proving import searched
from mrl_retrieval.planning.samples import QuerySample, given_queries
from mrl_retrieval.planning.truth import COUNTS, shares_of, true_neighbours
from mrl_retrieval.two_stage import ExactSearch

SETS = ("quora", "medquad", "wordnet-defs")
EVERY = {"medquad": 4}
"""Of these sets every so manieth document, since they take long to encode."""
TARGETS = (0.90, 0.95, 0.99, 0.999)
CONFIDENCE, K = 0.95, 10
MAX_QUERIES = 8000
ROWS, QUERIES = 100_000, 1_000
_GRID = 1.2
_START, _END = "<!-- printed by python -m benchmarks planning -->", "<!-- end -->"
_PAGE = PAGE.with_name("planning.md")

HEAD = [
    "encoder", "set", "documents", "queries", "promised", "answer", "ms", "bound", "found, planning", "found, held",
    "cheapest by bound", "cost ratio", "cheapest in truth",
]  # fmt: skip


def run() -> str:
    """Measure, print as it goes, write the page, return its tables."""
    costs = [_cost(backend) for backend in ("faiss", "memory")]
    rows: list[list[object]] = []
    for name, make in ENCODERS.items():
        encoder = make()
        for data in SETS:
            for row in _promises(name, encoder, data):
                print("  ".join(map(str, row)), flush=True)
                rows.append(row)
    kept = [row for row in rows if isinstance(row[9], float)]
    broken = sum(float(str(row[9])) < float(str(row[4])) for row in kept)
    summary = f"{len(kept)} promises were made, {broken} of them broken on the held queries."
    seconds = table(
        ["backend", "exact pass, s", "plan, s", "plan / exact pass", "answer"],
        costs,
    )
    beside = (
        f"Planning for 0.95 with {QUERIES:,} queries at {ROWS:,} rows (wordnet-defs, wordllama), beside one exact "
        "search for each of these queries:"
    )
    text = f"Printed on {machine()}.\n\n{table(HEAD, rows)}\n\n{summary}\n\n{beside}\n\n{seconds}"
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_START)
    _PAGE.write_text(f"{before}{_START}\n\n{text}\n\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    return text


@dataclass(frozen=True, slots=True)
class _Grid:
    """What whole searches found for each number of candidates, for planning and held queries."""

    candidates: list[int]
    planning: list[COUNTS]
    held: list[COUNTS]

    def cheapest(self, target: float, part: list[COUNTS], *, bounded: bool) -> int | None:
        for candidates, counts in zip(self.candidates, part, strict=True):
            shares = shares_of(counts, K)
            if shares.reaches(target, CONFIDENCE) if bounded else shares.mean >= target:
                return candidates
        return None


def _promises(name: str, encoder: Encoder, data: str) -> Iterator[list[object]]:
    loaded = load(data)
    documents = _vectors(encoder, loaded.documents[:: EVERY.get(data, 1)], f"{data}-{name}-documents", queries=False)
    queries = normalize(_vectors(encoder, loaded.queries, f"{data}-{name}-queries", queries=True))
    order = np.random.default_rng(0).permutation(len(queries))[:MAX_QUERIES]
    planning, held = np.array_split(queries[order], 2)
    with _filled("faiss", documents) as kb:
        backend = kb.backend
        costs = timed(backend, planning, K, K, MOST_CANDIDATES)
        grid = _grid(backend, planning, held)
        for target in TARGETS:
            head: list[object] = [name, data, len(documents), len(planning), target]
            goal = Goal.checked(target, K, CONFIDENCE, "latency")
            try:
                plan = plan_collection(backend, given_queries(planning, target, CONFIDENCE), goal, costs=costs)
            except TooFewQueries as error:
                yield [*head, f"needs {error.needed:,} queries", *["–"] * 7]
                continue
            yield [*head, *_row(plan, kb, held, costs, grid, target)]


def _row(
    plan: SearchPlan, kb: MatryoshkaRetriever, held: FloatArray, costs: Costs, grid: _Grid, target: float
) -> list[object]:
    best = grid.cheapest(target, grid.planning, bounded=True)
    true = grid.cheapest(target, grid.held, bounded=False)
    others: list[object] = [best or "–", "–", true or "–"]
    if plan.coarse_top_k is None:
        if plan.verdict == "needs queries":
            return [f"needs {plan.needed_queries:,} queries", "–", plan.bound, plan.recall, "–", *others]
        return [plan.verdict, 1e3 * plan.flat_seconds, plan.bound, plan.recall, "–", *others]
    sample = QuerySample(held, "given")
    found = shares_of(searched(kb.backend, sample, true_neighbours(kb.backend, sample, K), plan.coarse_top_k), K).mean
    if best is not None:
        others[1] = costs.at(plan.coarse_top_k) / costs.at(best)
    return [f"{plan.coarse_top_k:,}", 1e3 * costs.at(plan.coarse_top_k), plan.bound, plan.recall, found, *others]


def _grid(backend: Backend, planning: FloatArray, held: FloatArray) -> _Grid:
    tried = [K]
    while tried[-1] < MOST_CANDIDATES:
        tried.append(min(max(int(tried[-1] * _GRID), tried[-1] + 1), MOST_CANDIDATES))
    found = []
    for part in (planning, held):
        sample = QuerySample(part, "given")
        truth = true_neighbours(backend, sample, K)
        found.append([searched(backend, sample, truth, candidates) for candidates in tried])
    return _Grid(tried, *found)


@contextmanager
def _filled(backend: str, documents: FloatArray) -> Iterator[MatryoshkaRetriever]:
    with TemporaryDirectory() as folder:
        address = "memory:" if backend == "memory" else f"{backend}:{folder}/kb"
        with MatryoshkaRetriever(None, address, dim=documents.shape[1]) as kb:
            ids = [str(i) for i in range(len(documents))]
            kb.index(ids, ids=ids, vectors=documents, batch_size=5000)
            kb.search_by_vector(documents[0])
            kb.search_by_vector(documents[0], exact=True)
            yield kb


def _cost(backend: str) -> list[object]:
    """The whole of a planning beside one exact search for each of its queries."""
    name = "wordllama"
    loaded, encoder = load("wordnet-defs"), ENCODERS[name]()
    documents = _vectors(encoder, loaded.documents, f"wordnet-defs-{name}-documents", queries=False)[:ROWS]
    queries = normalize(_vectors(encoder, loaded.queries, f"wordnet-defs-{name}-queries", queries=True))[:QUERIES]
    with _filled(backend, documents) as kb:
        exact = _seconds(lambda: kb.backend.perform(ExactSearch(queries, K, None)))
        plans: list[SearchPlan] = []
        whole = _seconds(lambda: plans.append(kb.plan(0.95, K, queries, store=False)))
        plan = replace(plans[0], frontier=())
    print(backend, exact, whole, plan, flush=True)
    answer = f"{plan.coarse_top_k:,} candidates" if plan.coarse_top_k else plan.verdict
    return [backend, exact, whole, whole / exact, answer]


def _seconds(what: object) -> float:
    assert callable(what)
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(run())
