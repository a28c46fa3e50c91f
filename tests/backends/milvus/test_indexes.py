"""The coarse index: what it is made with, how it is searched, what is declared of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import CollectionMismatchError
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.scoring import exact_search
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, MANIFEST, Opener, client_of, indexed, vectors


def test_search_params_reach_the_index(open_at: Opener) -> None:
    found = []
    made = open_at(index_type="IVF_FLAT", index_params={"nlist": 64})
    made.write_manifest(MANIFEST, None)
    full = vectors(1500)
    made.upsert(batch_of([Row(str(i), None, {}, vector) for i, vector in enumerate(full)]))
    queries = prefix(vectors(20, seed=5), COARSE)
    ids, _ = zip(*exact_search(queries, prefix(full, COARSE), [str(i) for i in range(1500)], 10), strict=True)
    indexed(made, open_at)
    for nprobe in (1, 64):
        one = open_at(search_params={"nprobe": nprobe})
        answers = one.coarse_search(queries, 10, None)
        found.append(np.mean([len(set(a) & set(b.ids)) for a, b in zip(ids, answers, strict=True)]))
    assert found[0] < 9 and found[1] == 10


def test_what_is_declared(open_at: Opener) -> None:
    flat, graph = open_at(), open_at(index_type="hnsw")
    assert not flat.capabilities.approximate_coarse and flat.capabilities.exact_search
    assert graph.capabilities.approximate_coarse and graph.capabilities.quantization == {"sq8"}
    graph.write_manifest(MANIFEST, None)
    flat.count()
    assert flat.capabilities.approximate_coarse  # it was made with a graph
    with pytest.raises(CollectionMismatchError, match=r"type HNSW, asked for IVF_FLAT"):
        open_at(index_type="IVF_FLAT").read_manifest()
    assert open_at(index_type="HNSW").read_manifest() == MANIFEST


@pytest.mark.parametrize(
    "options",
    [
        {"index_type": "IVF_FLAT", "index_params": {"nlist": 16}, "search_params": {"nprobe": 16}},
        {"coarse_quantization": "sq8"},
        {"coarse_quantization": "sq8", "index_type": "IVF_FLAT", "index_params": {"nlist": 16}},
        {"index_type": "AUTOINDEX"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_index_finds_nearly_all(open_at: Opener, options: dict[str, Any]) -> None:
    one = open_at(**options)
    one.write_manifest(MANIFEST, None)
    full = vectors(1500)
    one.upsert(batch_of([Row(str(i), None, {"even": i % 2 == 0}, vector) for i, vector in enumerate(full)]))
    one = indexed(one, open_at)
    queries = prefix(vectors(20, seed=5), COARSE)
    truth = exact_search(queries, prefix(full, COARSE), [str(i) for i in range(1500)], 50)
    if "index_params" in options:
        assert '"nlist": 16' in json.dumps(client_of(one).describe_index("mrl_default", "coarse")).replace('"16"', "16")
    found = one.coarse_search(queries, 50, None)
    shares = [len(set(a) & set(b.ids)) / 50 for (a, _), b in zip(truth, found, strict=True)]
    assert np.mean(shares) > 0.9
    # Whatever the index misses, as many come back as there are.
    assert all(len(one.coarse_search(queries[:1], limit, None)[0].ids) == limit for limit in (1000, 1500))
    even = one.coarse_search(queries[:1], 2000, parse_filter({"even": True}))[0]
    assert len(set(even.ids)) == 750 and all(int(id) % 2 == 0 for id in even.ids)
