"""The page about the encoders' layer compares calls that do the same; no time is judged."""

import contextlib
import time

import numpy as np
import pytest

from benchmarks import encoding
from benchmarks.encoder_pairs.pair import NotRun, nameless
from mrl_retrieval.encoders.hashing import HashingEncoder

TEXTS = [f"question {i} about cats" for i in range(20)]


def _hashing(texts):
    return HashingEncoder(64).encode_document(texts)


def test_a_slower_layer_shows():
    def waits(texts):
        time.sleep(0.01)
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
        return _hashing(texts)

    row = encoding.measure(encoding.Case("hashing", _hashing, nameless(waits)), TEXTS, rounds=3, seconds=0)
    cells = dict(zip(encoding.HEAD, row, strict=True))
    assert float(cells["with ours, ms"]) >= 20 and float(cells["with ours, CPU ms"]) >= 10
    assert float(cells["ratio"]) > 1 < float(cells["CPU ratio"])
    low, high = map(float, cells["its quartiles"].split(" to "))
    assert low <= float(cells["ratio"]) <= high
    text = encoding.page([row], [NotRun("a rare one", "it is not here")])
    assert "| hashing |" in text and "- a rare one: it is not here." in text


@pytest.mark.parametrize(
    ("library", "why"),
    [
        (lambda texts: _hashing(texts)[::-1], "vectors differ"),
        (lambda texts: _hashing(texts) * 2, "unit length"),
        (lambda texts: _hashing(texts).astype(np.float64), "float64"),
    ],
)
def test_what_does_something_else_is_not_compared(library, why):
    with pytest.raises(AssertionError, match=why):
        encoding.measure(encoding.Case("hashing", library, HashingEncoder(64)), TEXTS, rounds=2, seconds=0)


def test_the_static_models_are_compared(tmp_path):
    pytest.importorskip("wordllama", reason="needs wordllama")
    pytest.importorskip("model2vec", reason="needs model2vec")
    with contextlib.ExitStack() as stack:
        for case in (encoding._wordllama(), encoding._model2vec(tmp_path, stack)):
            row = encoding.measure(case, TEXTS, rounds=2, seconds=0)
            assert row[0] == case.name and len(row) == len(encoding.HEAD)
