"""Any sequence of writes leaves what the memory backend has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import Stage
from tests.backends.faiss.helpers import exact, rows, two_stages, vectors_of


class AgainstMemory(RuleBasedStateMachine):
    """Any sequence of writes and reopenings leaves what the memory backend has."""

    folder: Path
    ids = st.sampled_from([*"abcdefgh", "é", "nul\0"])

    def __init__(self):
        super().__init__()
        AgainstMemory.number = getattr(AgainstMemory, "number", 0) + 1
        self.address = f"faiss:{self.folder}/{AgainstMemory.number}"
        self.mine, self.oracle = (
            open_backend(self.address, fine_dtype="float32", row_copy=True),
            open_backend("memory:"),
        )
        self.other = open_backend(self.address)
        manifest = Manifest(dim=8, coarse_dims=3, fine_dims=8)
        for backend in (self.mine, self.oracle):
            backend.write_manifest(manifest, None)
        self.other.read_manifest()

    @rule(
        ids=st.lists(ids, min_size=1, max_size=6, unique=True), bare=ids, seed=st.integers(0, 99), other=st.booleans()
    )
    def upsert(self, ids, bare, seed, other):
        batch = rows(ids, vectors_of(len(ids), seed, 8), bare=(bare,), metadatas=[{"s": seed % 3} for _ in ids])
        (self.other if other else self.mine).upsert(batch)
        self.oracle.upsert(batch)

    @rule(ids=st.lists(ids, max_size=4), other=st.booleans())
    def delete(self, ids, other):
        assert (self.other if other else self.mine).delete(ids) == self.oracle.delete(ids)

    @rule()
    def flush(self):
        self.mine.flush()

    @rule(other=st.booleans())
    def compact(self, other):
        (self.other if other else self.mine).compact()

    @rule()
    def repair(self):
        assert self.mine.repair().problems == ()

    @rule()
    def reopen(self):
        self.mine.close()
        self.mine = open_backend(self.address, row_copy=True)
        assert self.mine.read_manifest() == self.oracle.read_manifest()

    @rule(
        k=st.integers(1, 6),
        candidates=st.integers(6, 20),
        seed=st.integers(0, 99),
        filter=st.sampled_from([None, {"s": 1}, {"s": {"$ne": 0}}]),
    )
    def search(self, k, candidates, seed, filter):
        queries = vectors_of(2, seed, 8)
        for request in (two_stages(queries, k, candidates, filter, coarse=3, dim=8), exact(queries, k, filter, 8)):
            if not request.exact:  # else both coarse stages may break a tie at their end in their own way
                request = replace(request, stages=(Stage(3, 30), Stage(8, k)))
            for mine, oracle in zip(self.mine.search(request), self.oracle.search(request), strict=True):
                np.testing.assert_allclose(mine.scores, oracle.scores, atol=2e-6)
                gaps = np.abs(np.diff(oracle.scores)) if len(oracle.scores) else np.empty(0)
                if (gaps > 1e-5).all():
                    assert mine.rows[:-1] == oracle.rows[:-1]

    @invariant()
    def the_same_rows(self):
        everything = [*"abcdefgh", "é", "nul\0"]
        for backend in (self.mine, self.other):
            for mine, oracle in zip(
                backend.get(everything, vectors=True), self.oracle.get(everything, vectors=True), strict=True
            ):
                assert (mine is None) == (oracle is None)
                if mine is not None:
                    assert (mine.document, mine.metadata) == (oracle.document, oracle.metadata)
                    np.testing.assert_array_equal(mine.vector, oracle.vector)
            assert backend.count() == self.oracle.count()

    def teardown(self):
        self.mine.verify().raise_if_damaged()
        self.mine.close()
        self.other.close()


def test_any_sequence_of_writes_equals_memory(tmp_path):
    AgainstMemory.folder = tmp_path
    run_state_machine_as_test(
        AgainstMemory,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
