"""A copy of a real store, with filters, deletes, and whatever kernels there are."""

import numpy as np
import pytest

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.exact import ExactCopy
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage import Store, exact_scan
from tests.exact.hard import DTYPES, queries_of, vectors_of


@pytest.mark.parametrize("dtype", DTYPES)
def test_answers_are_those_of_a_full_scan(tmp_path, dtype):
    n, dims = 900, 100
    store = Store(tmp_path / "kb", "default", fine_dtype=dtype, segment_bytes=20_000)
    store.write_manifest(Manifest(dim=dims, coarse_dims=8, fine_dims=dims), None)
    vectors, copy = vectors_of("tied", n, dims), None
    for start in range(0, n, 300):
        ids = [f"d{i}" for i in range(start, start + 300)]
        metadatas = [{"n": i % 9} for i in range(300)]
        store.upsert(RowBatch(ids, ids, metadatas, vectors[start : start + 300], np.ones(300, dtype=bool)))
        store.delete([f"d{i}" for i in range(start, start + 300, 5)])
        with store.snapshot() as snapshot:
            copy = ExactCopy.follow(snapshot, copy, store.files)
            queries = queries_of(vectors, 9, dims)
            for filter in (None, parse_filter({"n": 4}), parse_filter({"n": {"$gt": 7}}), parse_filter({"n": 99})):
                mask = snapshot.vector_mask(filter)
                positions = np.flatnonzero(mask) + snapshot.state.first
                for k in (1, 10, 2000):
                    answer = copy.search(snapshot, queries, k, mask, threads=2)
                    expected = exact_scan(snapshot.fine, positions, queries, k)
                    for (a, a_scores), (b, b_scores) in zip(answer.found, expected, strict=True):
                        np.testing.assert_array_equal(np.sort(a), b)
                        np.testing.assert_array_equal(a_scores[np.argsort(a)], b_scores)
    store.close()
