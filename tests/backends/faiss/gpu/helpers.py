"""Vectors, collections and checks for the tests of this folder."""

import numpy as np
import pytest

from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.structure import Allowed
from mrl_retrieval.matryoshka import normalize
from tests.backends.faiss.helpers import rows, vectors_of
from tests.skips import holds

# Two unit vectors, both rounded to float16, and sums in float32.
ERROR = 2.0**-10 + 1e-5
CPU = Device("cpu", "PyTorch's CPU")

needs_gpu = pytest.mark.skipif(holds("no gpu"), reason="there is no GPU that PyTorch can use")


def prefixes(n, dims, seed=0):
    """Unit rows in clusters, some equal, one zero."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((12, dims))[rng.integers(0, 12, n)] + 0.3 * rng.standard_normal((n, dims))
    made = normalize(made.astype(np.float32))
    made[n // 3 : n // 3 + 5] = made[0]
    made[n // 2] = 0
    return made


def check(structure, held, queries, limit, mask):
    """What it finds is allowed, scored right, and nothing that is better by more than rounding is missing."""
    scores, places = structure.search(queries, limit, Allowed(mask))
    assert scores.shape == places.shape == (len(queries), limit)
    assert scores.dtype == np.float32 and places.dtype == np.int64
    true = queries @ held.T
    for q in range(len(queries)):
        assert len(set(places[q].tolist())) == limit and mask[places[q]].all()
        np.testing.assert_allclose(scores[q], true[q, places[q]], atol=ERROR)
        best = np.sort(true[q, mask])[::-1]
        assert (true[q, places[q]] >= best[limit - 1] - 2 * ERROR).all()
        assert np.isin(np.flatnonzero(mask & (true[q] > best[limit - 1] + 2 * ERROR)), places[q]).all()


def written(structure, folder):
    structure.write(folder / "index")
    return np.memmap(folder / "index", dtype=np.uint8, mode="c").view(np.ndarray)


def scores_of(rankings):
    return [ranking.scores.tolist() for ranking in rankings]


def filled(backend, manifest):
    backend.write_manifest(manifest, None)
    backend.upsert(rows([f"d{i:03}" for i in range(300)]))
    backend.upsert(rows([f"d{i:03}" for i in range(0, 300, 7)], vectors_of(43, 2)))
    backend.delete([f"d{i:03}" for i in range(5, 60)])
