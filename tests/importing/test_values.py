"""What databases hold becomes JSON that every backend can hold, and whatever was JSON stays as it was."""

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.documents import check_metadata
from mrl_retrieval.errors import InvalidInput, ModelMismatchError
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.moving import importing
from mrl_retrieval.moving.foreign import ForeignBatch, ForeignCollection, plain_json
from mrl_retrieval.moving.importing import import_collection
from mrl_retrieval.registry import open_backend

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Sparse(ForeignCollection):
    """Rows of which the first have no vector."""

    def __init__(self, vectors: int) -> None:
        self._vectors = vectors

    def count(self) -> int:
        return 9

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        for start in range(0, 9, 3):
            ids = [str(i) for i in range(start, start + 3)]
            yield ForeignBatch(
                ids, [[1.0, i] if i >= 9 - self._vectors else None for i in range(start, start + 3)], ids, [{}] * 3
            )

    def close(self) -> None:
        pass


def test_rows_without_a_vector_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "importer", lambda _: lambda *_: Sparse(2))
    report = import_collection("x:a", "memory:sparse-rows", batch_size=3)
    assert (report.rows, report.vectors) == (9, 2)
    with MatryoshkaRetriever.open("memory:sparse-rows") as retriever:
        assert retriever.count() == 9 and retriever.search_by_vector([1.0, 8.0], 9).ids == ["8", "7"]
    monkeypatch.setattr(importing, "importer", lambda _: lambda *_: Sparse(0))
    with pytest.raises(InvalidInput, match="no row with a vector"):
        import_collection("x:a", "memory:sparse-none", batch_size=3)


class LateTexts(Sparse):
    """The first rows have no text to check an encoder on; the vectors are nobody's."""

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        vectors = list(np.random.default_rng(0).standard_normal((9, 32)))
        for start in range(0, 9, 3):
            ids = [str(i) for i in range(start, start + 3)]
            texts = [f"text {i}" if start and self._vectors else None for i in ids]
            yield ForeignBatch(ids, vectors[start : start + 3], texts, [{}] * 3)


def test_a_wrong_encoder_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for texts, error in ((1, ModelMismatchError), (0, InvalidInput)):
        monkeypatch.setattr(importing, "importer", lambda _, texts=texts: lambda *_: LateTexts(texts))
        with pytest.raises(error):
            import_collection("x:a", f"memory:late-{texts}", encoder="hashing:32", batch_size=3)
        with open_backend(f"memory:late-{texts}") as backend:
            assert backend.read_manifest() is None


def test_an_import_that_was_interrupted_at_its_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "importer", lambda _: lambda *_: Sparse(9))
    monkeypatch.setattr(MemoryBackend, "upsert", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_collection("x:a", "memory:interrupted", batch_size=3)
    monkeypatch.undo()
    monkeypatch.setattr(importing, "importer", lambda _: lambda *_: Sparse(9))
    assert import_collection("x:a", "memory:interrupted", batch_size=3).rows == 9


@given(JSON)
def test_json_stays(value: Any) -> None:
    assert repr(plain_json(value)) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05+00:00"), (dt.date(2024, 1, 2), "2024-01-02"),
        (Decimal("12"), 12), (Decimal("12.5"), 12.5), (Decimal("0.1"), 0.1), (Decimal("NaN"), "NaN"),
        (Decimal("0.12345678901234567890123"), "0.12345678901234567890123"), (float("nan"), None), (float("-inf"), None),
        (2**70, str(2**70)), (b"\x00\xff", "AP8="), (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, 2), [1, 2]), (np.int64(3), 3), (np.float32(0.5), 0.5), (np.array([[1, 2]]), [[1, 2]]), (np.bool_(True), True),
        ({1: {2: "x"}}, {"1": {"2": "x"}}), ("a\ud800", "a?"), (1j, "1j"),
    ],
)  # fmt: skip
def test_other_values(value: Any, expected: Any) -> None:
    found = plain_json({"v": value})
    assert repr(found["v"]) == repr(expected)
    assert check_metadata(found, 0) == json.loads(json.dumps(found))
