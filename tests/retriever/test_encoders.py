"""A collection and its encoder: given, named, forgotten, another one, one that breaks."""

import logging
from typing import Any

import pytest

from mrl_retrieval import Encoder, EncoderCard, MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from tests.retriever.common import TEXTS, vectors


def test_without_an_encoder() -> None:
    bare = MatryoshkaRetriever(encoder=None)
    with pytest.raises(errors.EncoderRequired, match="encoder=None"):
        bare.index(["a text"])
    with pytest.raises(errors.InvalidInput, match="length of vectors is not known"):
        bare.index(["a text"], vectors=[None])
    bare.index(["a"], ["a"], vectors=[[3.0, 4.0]])
    assert bare.manifest is not None and bare.manifest.dim == 2
    with pytest.raises(errors.EncoderRequired):
        bare.search("a text")
    with pytest.raises(errors.EncoderRequired, match="pass encoder='wordllama'"):
        MatryoshkaRetriever().index(["a"])


def test_an_encoder_may_come_to_given_vectors_if_the_length_agrees(caplog: pytest.LogCaptureFixture) -> None:
    backend = MatryoshkaRetriever(encoder=None)
    backend.index(TEXTS, vectors=HashingEncoder(64).encode_document(TEXTS))
    with caplog.at_level(logging.WARNING):
        later = MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend.backend)
    assert "cannot be checked" in caplog.text
    assert later.search(TEXTS[3], 1)[0].document == TEXTS[3]
    with pytest.raises(errors.ModelMismatchError, match="dim is 32, the collection's is 64"):
        MatryoshkaRetriever(encoder=HashingEncoder(32), backend=backend.backend)


def test_the_manifests_encoder_is_loaded_by_its_name(retriever: MatryoshkaRetriever) -> None:
    opened = MatryoshkaRetriever.open(retriever.backend)
    assert opened.search(TEXTS[3], 1)[0].document == TEXTS[3]
    assert opened.encoder is not None and opened.encoder.identity == HashingEncoder(64).identity


def test_an_unnamed_encoder_has_to_be_given_again() -> None:
    function = HashingEncoder(32).encode_document
    made = MatryoshkaRetriever(encoder=function)
    made.index(TEXTS)
    opened = MatryoshkaRetriever.open(made.backend)
    with pytest.raises(errors.EncoderRequired, match="pass it again as encoder="):
        opened.search("x")
    assert len(opened.search_by_vector(vectors(1, 32)[0])) == 10
    assert MatryoshkaRetriever.open(made.backend, function).search(TEXTS[0], 1)[0].document == TEXTS[0]


class Prompted(Encoder):
    """Queries and documents are told apart; ``forget`` leaves the prompt out."""

    def __init__(self, forget: bool = False, prompts: dict[str, str] | None = None) -> None:
        self.inner, self.forget, self.dim = HashingEncoder(64), forget, 64
        self.identity = EncoderCard(dim=64, model="prompted", prompts=prompts or {})

    def encode_document(self, texts: Any, **kwargs: Any) -> Any:
        return self.inner.encode_document(texts)

    def encode_query(self, texts: Any, **kwargs: Any) -> Any:
        return self.inner.encode_document([t if self.forget else f"search query: {t}" for t in texts])


def test_a_forgotten_prompt_is_noticed() -> None:
    made = MatryoshkaRetriever(encoder=Prompted())
    made.index(TEXTS)
    MatryoshkaRetriever(encoder=Prompted(), backend=made.backend).search("x")
    with pytest.raises(errors.ModelMismatchError, match="encoded as query"):
        MatryoshkaRetriever(encoder=Prompted(forget=True), backend=made.backend).search("x")
    with pytest.raises(errors.ModelMismatchError, match="prompts is {'query': 'q'}, the collection's is {}"):
        MatryoshkaRetriever(encoder=Prompted(prompts={"query": "q"}), backend=made.backend)


def test_an_encoder_that_breaks_in_the_middle(retriever: MatryoshkaRetriever) -> None:
    class Breaking(HashingEncoder):
        calls = 0

        def encode_document(self, texts: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls > 3:  # the canaries, then two batches
                raise RuntimeError("quota")
            return super().encode_document(texts)

    with pytest.raises(errors.EncoderError, match="quota") as caught:
        MatryoshkaRetriever(encoder=Breaking(64), backend=retriever.backend).index(
            [f"n{i}" for i in range(30)], [f"n{i}" for i in range(30)], batch_size=10
        )
    assert len(caught.value.indexed_ids) in (10, 20) and "error.indexed_ids" in caught.value.__notes__[0]
    assert retriever.count() == 50 + len(caught.value.indexed_ids)


def test_encode_kwargs_reach_the_encoder() -> None:
    seen: list[Any] = []

    class Listening(HashingEncoder):
        def encode_query(self, texts: Any, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return super().encode_query(texts)

    made = MatryoshkaRetriever(encoder=Listening(16))
    made.index(["a"])
    made.search("a", encode_kwargs={"task": "qa"})
    made.search_batch(["a"], encode_kwargs={"task": "x"})
    assert seen[-2:] == [{"task": "qa"}, {"task": "x"}]


class Short(HashingEncoder):
    max_tokens = 8


def test_long_texts_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    long = "word " * 50
    made = MatryoshkaRetriever(encoder=Short(32))
    with caplog.at_level(logging.WARNING):
        made.index([long, "short", long + "x"])
        made.search(long)
    assert made.long_texts == 3 and caplog.text.count("longer than the 8 tokens") == 1
    with pytest.raises(errors.TextTooLongError, match="context is 8"):
        MatryoshkaRetriever(encoder=Short(32), on_long="error").index(["short", long])
    chunked = MatryoshkaRetriever(encoder=Short(32), on_long="chunk")
    assert len(chunked.index([long])) == 1 == chunked.count()
