"""Batches, and what is in after one of them failed."""

from typing import Any

import pytest

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.registry import open_backend
from tests.retriever.common import TEXTS, vectors


def test_a_collection_made_by_another_encoder_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend("memory:")

    def one(texts: list[str]) -> Any:
        return [[len(text) + 1.0, 1, 0, 0] for text in texts]

    def another(texts: list[str]) -> Any:
        if "late" in texts and backend.read_manifest() is None:
            MatryoshkaRetriever(encoder=one, backend=backend).index(["first"], ["first"])
        return [[0, 0, len(text) + 1.0, 1] for text in texts]

    with pytest.raises(errors.ModelMismatchError, match="canary"):
        MatryoshkaRetriever(encoder=another, backend=backend).index(["late"], ["late"])
    assert backend.count() == 1


class Failing(MemoryBackend):
    """Refuses its third batch."""

    batches = 0

    def upsert(self, batch: RowBatch) -> None:
        self.batches += 1
        if self.batches == 3:
            raise errors.BackendError("disk full")
        super().upsert(batch)


def test_a_failed_batch_names_what_is_in() -> None:
    from mrl_retrieval import Address

    backend: Backend = Failing.from_address(Address("memory"))
    made = MatryoshkaRetriever(encoder=None, backend=backend)
    with pytest.raises(errors.BackendError, match="disk full") as caught:
        made.index([None] * 50, range(50), vectors=vectors(), batch_size=10)
    assert caught.value.indexed_ids == tuple(str(i) for i in range(20)) and made.count() == 20
    made.index([None] * 50, range(50), vectors=vectors(), batch_size=10)
    assert made.count() == 50


def test_batches_have_the_asked_size() -> None:
    sizes: list[int] = []

    class Counting(HashingEncoder):
        def encode_document(self, texts: Any, **kwargs: Any) -> Any:
            sizes.append(len(texts))
            return super().encode_document(texts)

    MatryoshkaRetriever(encoder=Counting(16)).index((t for t in TEXTS), batch_size=20)
    assert [n for n in sizes if n != 8] == [20, 20, 10]  # 8: the canary texts


def test_progress() -> None:
    seen: list[tuple[int, int | None]] = []
    made = MatryoshkaRetriever(encoder=HashingEncoder(16))
    made.index(TEXTS, batch_size=20, progress=lambda done, total: seen.append((done, total)))
    made.index(iter(TEXTS), batch_size=40, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, 50), (40, 50), (50, 50), (40, None), (50, None)]


def test_a_bar_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    MatryoshkaRetriever(encoder=HashingEncoder(16)).index(TEXTS, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "50 / 50 rows" in err and err.endswith("\n")


def test_ids_may_be_partly_given() -> None:
    made = MatryoshkaRetriever(encoder=HashingEncoder(16))
    ids = made.index(["a", "b"], ["mine", None])
    assert ids[0] == "mine" and len(ids[1]) == 36 and made.upsert(["b"]) == [ids[1]] and made.count() == 2
