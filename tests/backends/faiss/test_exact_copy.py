"""Exact searches by a copy in codes: made when it pays, kept up to date, and never another answer than a full scan."""

import logging

import numpy as np
import pytest

from mrl_adapters._faiss import exact as exact_module
from mrl_retrieval.errors import InvalidInput
from tests.backends.common import queries
from tests.backends.faiss.helpers import exact, folder, rows, vectors_of


def filled(kb, n, start=0):
    kb.upsert(rows([f"d{i:05}" for i in range(start, start + n)], vectors_of(n, seed=start)))


def answers(backend, filter=None):
    return [
        [(row.id, float(score)) for row, score in zip(ranking.rows, ranking.scores, strict=True)]
        for ranking in backend.search(exact(queries(6, seed=5), 10, filter))
    ]


def with_copy(backend):
    backend.search(exact(queries(1), 1))
    backend._exact._background.wait()
    assert backend._exact._copy is not None
    return backend


def files(backend):
    return folder(backend).joinpath("exact.codes"), folder(backend).joinpath("exact.json")


@pytest.fixture
def big(kb):
    """More rows than are worth a copy as it is."""
    for start in range(0, 40_000, 10_000):
        filled(kb, 10_000, start)
    return kb


def test_the_first_exact_search_has_a_copy_made_and_answers_stay(big, opened, address):
    before = answers(big)
    filtered = answers(big, {"n": {"$lt": 777}})
    assert before == answers(with_copy(big))
    assert all(file.exists() for file in files(big))
    assert answers(big, {"n": {"$lt": 777}}) == filtered
    big.delete([before[0][0][0], before[1][0][0]])
    big.upsert(rows(["new"], queries(1, seed=5)))
    after = answers(big)
    assert after[0][0][0] == "new" and before[0][0][0] not in dict(after[0])
    late = opened(address, exact_copy=False)
    late.read_manifest()
    assert answers(late) == after
    again = opened(address)
    again.read_manifest()
    assert answers(again) == after and again._exact._copy is not None
    trace = again.search(exact(queries(1), 5))[0]
    assert trace.trace is None
    big.drop()
    assert not folder(big).exists()


def test_few_documents_are_scored(big):
    with_copy(big)
    with big._store.snapshot() as snapshot:
        answer = big._exact.search(snapshot, queries(1, seed=5), 10, snapshot.vector_mask(None))
    assert answer.rescored < 1000 and not answer.undecided


def test_a_damaged_copy_is_made_again(big, opened, address, caplog):
    before = answers(with_copy(big))
    big.close()
    codes, _ = files(big)
    content = bytearray(codes.read_bytes())
    content[len(content) // 2] ^= 1
    codes.write_bytes(content)
    again = opened(address)
    again.read_manifest()
    with caplog.at_level(logging.WARNING):
        assert answers(again) == before
    assert "checksum" in caplog.text
    assert answers(with_copy(again)) == before


def test_small_collections_have_no_copy(kb):
    filled(kb, 300)
    answers(kb)
    kb.flush()
    assert not any(file.exists() for file in files(kb))


def test_a_copy_that_is_asked_for_is_made_by_flush(big, opened, address):
    big.flush()
    assert not any(file.exists() for file in files(big))
    asked = opened(address, exact_copy=True)
    asked.read_manifest()
    asked.flush()
    assert all(file.exists() for file in files(big))
    filled(asked, 20_000, 40_000)
    size = files(big)[0].stat().st_size
    asked.flush()
    assert files(big)[0].stat().st_size > size


@pytest.mark.parametrize("value", ["yes", 1, 0.5])
def test_an_option_that_cannot_be(opened, address, value):
    with pytest.raises(InvalidInput, match="exact_copy="):
        opened(address, exact_copy=value)


def test_without_numba_all_vectors_are_read(big, monkeypatch):
    monkeypatch.setattr(exact_module, "available", lambda: False)
    before = answers(big)
    assert big._exact._copy is None and not big._exact._background.is_busy
    monkeypatch.undo()
    assert answers(with_copy(big)) == before


def test_repair_and_verify_leave_it_right(big):
    before = answers(with_copy(big))
    assert big.verify().ok
    big.repair()
    assert answers(big) == before
    big.delete([f"d{i:05}" for i in range(0, 40_000, 2)])
    truth = answers(big)
    big.compact()
    assert answers(big) == truth
    assert np.isfinite([score for answer in truth for _, score in answer]).all()
