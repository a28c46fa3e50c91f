"""``mrl rotate``."""

import json

import pytest

from mrl_retrieval import MatryoshkaRetriever
from tests.moving.test_rotating import made, vectors


@pytest.fixture
def address(uri):
    return made(uri)


def test_it_measures_rotates_and_goes_back(mrl, address):
    done = mrl("rotate", address)
    assert done.status == 0, done.err
    measured, said = done.out.splitlines()
    assert "as it is" in measured and "rotated" in measured
    assert "401 rows rotated" in said and "'default.g1'" in said
    assert json.loads(mrl("info", address, "--json").out)["rotation"]["fitted_on"] == 400
    assert "fitted on 400 vectors" in mrl("info", address).out
    again = mrl("rotate", address, "--json")
    assert json.loads(again.out)["coverage"] > 0.9
    assert mrl("reindex", address, "--rollback").status == 0


def test_left_as_it_is(mrl, uri):
    made(uri, turned=False, coarse=15)
    done = mrl("rotate", uri)
    assert done.status == 0 and "is left as it is" in done.out
    with MatryoshkaRetriever.open(uri) as retriever:
        assert retriever.manifest.rotation is None
        assert retriever.search_by_vector(vectors(1, turned=False)[0], 1).ids == ["0"]


def test_errors_are_one_line(mrl, uri):
    done = mrl("rotate", uri)
    assert done.status == 1 and len(done.err.splitlines()) == 1
