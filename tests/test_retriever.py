"""The public face, on the memory backend: what is refused, what is remembered, what wins over what."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import Encoder, EncoderCard, MatryoshkaRetriever, Stage, errors
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.settings import SearchSettings

TEXTS = [f"document number {i} about topic {i % 7}" for i in range(50)]


@pytest.fixture
def retriever() -> MatryoshkaRetriever:
    made = MatryoshkaRetriever(encoder=HashingEncoder(64), coarse_dims=16)
    made.index(TEXTS, range(50), [{"i": i} for i in range(50)])
    return made


def vectors(n: int = 50, dim: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


# -- bad input ---------------------------------------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


CYCLE: dict[str, Any] = {}
CYCLE["a"] = CYCLE

BAD_INDEX: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"documents": ["a", "b"], "ids": ["1"]}, errors.InvalidInput, "2 documents, 1 ids"),
    ({"documents": ["a"], "metadatas": [{}, {}]}, errors.InvalidInput, "1 documents, 2 metadatas"),
    ({"documents": ["a", "b"], "vectors": np.ones((3, 64))}, errors.InvalidInput, "2 documents, 3 vectors"),
    ({"documents": ["a", "b"], "ids": ["x", "x"]}, errors.DuplicateIdError, "'x' is given twice, at positions 0 and 1"),
    ({"documents": ["a", "b"], "ids": [1, "1"]}, errors.DuplicateIdError, "'1'"),
    ({"documents": ["a", 5]}, errors.InvalidInput, r"documents\[1\] is int"),
    ({"documents": ["a", None]}, errors.InvalidInput, r"documents\[1\] is NoneType"),
    ({"documents": [b"a"]}, errors.InvalidInput, "bytes"),
    ({"documents": ["a"], "ids": [""]}, errors.InvalidInput, r"ids\[0\] is empty"),
    ({"documents": ["a"], "ids": [1.5]}, errors.InvalidInput, r"ids\[0\] is 1.5"),
    ({"documents": ["a"], "metadatas": ["x"]}, errors.InvalidInput, r"metadatas\[0\] is str"),
    ({"documents": ["a"], "metadatas": [{"x": {1}}]}, errors.InvalidInput, r"metadatas\[0\].x is set"),
    ({"documents": "a text"}, errors.InvalidInput, "documents is str; pass a list"),
    ({"documents": ["abc"], "ids": "abc"}, errors.InvalidInput, "ids is str"),
    ({"documents": None}, errors.InvalidInput, "documents is None"),
    ({"documents": 5}, errors.InvalidInput, "documents is int"),
    ({"documents": ["a"], "vectors": [[1.0, 2.0]]}, errors.DimensionError, "2 components, expected 64"),
    ({"documents": ["a"], "vectors": [5.0]}, errors.DimensionError, r"vectors\[0\] has shape \(\)"),
    ({"documents": ["a"], "vectors": np.full((1, 64), np.nan)}, errors.NonFiniteError, r"vectors\[0\] has nan"),
    ({"documents": ["a"] * 3, "vectors": [*np.ones((2, 64)), np.full(64, np.inf)]}, errors.NonFiniteError, r"vectors\[2\]"),
    ({"documents": ["a"], "batch_size": 0}, errors.InvalidInput, "batch_size .* got 0"),
    ({"documents": ["a\ud800"]}, errors.InvalidInput, "surrogate"),
    ({"documents": ["a"], "ids": [10**5000]}, errors.InvalidInput, r"ids\[0\] is a number of 16610 bits"),
    ({"documents": ["a"], "vectors": [[[1.0], [1.0, 2.0]]]}, errors.InvalidInput, r"vectors\[0\] must be a rectangle"),
    ({"documents": ["a"], "metadatas": [nested(65)]}, errors.InvalidInput, "nested more than 64 levels"),
    ({"documents": ["a"], "metadatas": [CYCLE]}, errors.InvalidInput, "or holds itself"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "error", "words"), BAD_INDEX)
def test_bad_rows_write_nothing(
    retriever: MatryoshkaRetriever, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        retriever.index(**given)
    assert isinstance(caught.value, errors.MRLError) and caught.value.indexed_ids == ()
    assert retriever.count() == 50


def test_metadata_as_deep_as_they_may_be_come_back(retriever: MatryoshkaRetriever) -> None:
    retriever.index(["a"], ["deep"], [nested(64)])
    (row,) = retriever.get(["deep"])
    assert row is not None and row.metadata == nested(64)


def test_ids_made_and_ids_given_may_not_meet(retriever: MatryoshkaRetriever) -> None:
    (made,) = retriever.index(["same"])
    for texts, ids, words in (
        (["same", "other"], [None, made], "given at position 1, is the one made from the content at position 0"),
        (["other", "same"], [made, None], "made from the content at position 1"),
    ):
        with pytest.raises(errors.DuplicateIdError, match=words):
            retriever.index(texts, ids)
    assert retriever.count() == 51 and retriever.index(["same", "same"]) == [made, made]


def test_lists_are_checked_whole_before_the_first_batch(retriever: MatryoshkaRetriever) -> None:
    for bad in ({"documents": ["x"] * 99 + [5]}, {"documents": ["x"] * 100, "ids": [*range(100, 199), 100]}):
        with pytest.raises(errors.InvalidInput):
            retriever.index(batch_size=10, **bad)
    assert retriever.count() == 50


def test_a_stream_says_what_is_in(retriever: MatryoshkaRetriever) -> None:
    def stream() -> Iterator[Any]:
        yield from (f"new {i}" for i in range(25))
        yield 5

    with pytest.raises(errors.InvalidInput, match=r"documents\[25\]") as caught:
        retriever.index(stream(), (f"n{i}" for i in range(26)), batch_size=10)
    assert caught.value.indexed_ids == tuple(f"n{i}" for i in range(20))
    assert retriever.count() == 70 and retriever.get(["n19"])[0] is not None and retriever.get(["n20"]) == [None]


def test_streams_of_unequal_length(retriever: MatryoshkaRetriever) -> None:
    with pytest.raises(errors.InvalidInput, match="different lengths: at least 12 documents, 5 ids"):
        retriever.index(iter(["x"] * 12), iter(["1", "2", "3", "4", "5"]), batch_size=100)


BAD_SEARCH: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"top_k": 0}, errors.InvalidInput, "top_k must be a whole number of at least 1, got 0"),
    ({"top_k": -3}, errors.InvalidInput, "got -3"),
    ({"top_k": 2.5}, errors.InvalidInput, "got 2.5"),
    ({"top_k": True}, errors.InvalidInput, "got True"),
    ({"top_k": None}, errors.InvalidInput, "got None"),
    ({"top_k": 10, "coarse_top_k": 5}, errors.InvalidInput, "coarse_top_k=5 is below top_k=10"),
    ({"coarse_top_k": 5}, errors.InvalidInput, "fewer than the 10 hits"),
    ({"coarse_top_k": 0}, errors.InvalidInput, "coarse_top_k .* got 0"),
    ({"stages": []}, errors.InvalidInput, "stages is empty"),
    ({"stages": [(16, 100), (8, 50)]}, errors.InvalidInput, "longer prefixes"),
    ({"stages": [(16, 50), (32, 100)]}, errors.InvalidInput, "fewer"),
    ({"stages": [16, 100]}, errors.InvalidInput, "list of pairs"),
    ({"stages": [(16, 0)]}, errors.InvalidInput, "at least 1"),
    ({"stages": [(16, 5)]}, errors.InvalidInput, "keeps 5 candidates, fewer than the 10"),
    ({"stages": [(8, 100)]}, errors.CollectionMismatchError, "searches 8 dims, this collection indexes 16"),
    ({"stages": [(16, 100)], "coarse_top_k": 100}, TypeError, "one or the other"),
    ({"filter": {"i": {"$like": 1}}}, errors.FilterError, r"unknown operator '\$like'"),
    ({"filter": {"i": {"$gt": "x"}}}, errors.FilterError, "compares with 'x'"),
    ({"filter": "i > 3"}, errors.FilterError, "a filter is a dict"),
    ({"query": None}, errors.InvalidInput, "query is NoneType"),
    ({"query": ["a"]}, errors.InvalidInput, "search_batch"),
    ({"encode_kwargs": {"nonsense": 1}}, errors.EncoderError, "nonsense"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD_SEARCH)
def test_bad_searches(
    retriever: MatryoshkaRetriever, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        retriever.search(**{"query": "x", **given})


def test_bad_numbers_are_refused_before_there_is_a_collection() -> None:
    fresh = MatryoshkaRetriever(encoder=HashingEncoder(16))
    for wrong in ({"top_k": 0}, {"filter": {"$x": 1}}):
        with pytest.raises(errors.InvalidInput):
            fresh.search("x", **wrong)
    assert fresh.search("x").ids == []


@pytest.mark.parametrize("vector", [[1.0, 2.0], np.ones((1, 64)), np.full(64, np.nan), "abc", None, 5.0])
def test_bad_query_vectors(retriever: MatryoshkaRetriever, vector: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        retriever.search_by_vector(vector)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"coarse_dims": 0}, errors.InvalidInput, "coarse_dims .* got 0"),
        ({"fine_dims": -1}, errors.InvalidInput, "fine_dims"),
        ({"coarse_top_k": 5, "final_top_k": 10}, errors.InvalidInput, "coarse_top_k=5 is below final_top_k=10"),
        ({"final_top_k": 0}, errors.InvalidInput, "final_top_k"),
        ({"stages": [(16, 50)], "coarse_dims": 16}, TypeError, "one or the other"),
        ({"on_long": "cut"}, errors.InvalidInput, "'cut'"),
        ({"backend": "nowhere:"}, errors.UnknownNameError, "known backends"),
        ({"backend": "./kb"}, errors.AddressError, "no scheme"),
        ({"encoder": "nobody"}, errors.UnknownNameError, "known encoders"),
        ({"encoder": 5}, errors.InvalidInput, "is no encoder"),
        ({"dim": 8}, errors.DimensionError, "dim=8 was given, the encoder's is 64"),
        ({"backend_options": {"nonsense": 1}}, errors.InvalidInput, "nonsense"),
    ],
)
def test_bad_constructors(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MatryoshkaRetriever(**{"encoder": HashingEncoder(64), **given})


def test_fine_dims_beyond_the_encoder() -> None:
    with pytest.raises(errors.DimensionError, match="fine_dims=100 is beyond the 64 dims"):
        MatryoshkaRetriever(encoder=HashingEncoder(64), fine_dims=100).index(["a"])


def test_bad_batches_of_queries(retriever: MatryoshkaRetriever) -> None:
    for queries in (None, 5, "text", b"text"):
        with pytest.raises(errors.InvalidInput, match="pass a list of texts"):
            retriever.search_batch(queries)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match=r"queries\[1\] has a lone surrogate"):
        retriever.search_batch(["a", "\udcff"])
    with pytest.raises(errors.InvalidInput, match="surrogate"):
        retriever.search("\udcff")
    for vectors in (5, None, [[1.0], [1.0, 2.0]], np.array(3.0)):
        with pytest.raises(errors.InvalidInput):
            retriever.search_batch_by_vector(vectors)
        with pytest.raises(errors.InvalidInput):
            retriever.search_by_vector(vectors)
    rows = np.eye(3, 64)
    expected = [result.ids for result in retriever.search_batch_by_vector(rows)]
    assert [result.ids for result in retriever.search_batch_by_vector(row for row in rows)] == expected
    assert retriever.search_batch_by_vector([]) == retriever.search_batch_by_vector(iter([])) == []
    assert retriever.search_batch_by_vector(np.empty((0, 64))) == []


def test_what_is_no_backend() -> None:
    with pytest.raises(errors.InvalidInput, match="PosixPath"):
        MatryoshkaRetriever(backend=Path("kb"))  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="takes no options"):
        MatryoshkaRetriever(backend="memory:", backend_options={"colour": "red"})


def test_opening_nothing_leaves_the_callers_backend_open() -> None:
    backend = open_backend("memory:")
    with pytest.raises(errors.CollectionNotFound):
        MatryoshkaRetriever.open(backend)
    assert MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend).index(["a"], ["a"]) == ["a"]


def test_after_closing_nothing_works(retriever: MatryoshkaRetriever) -> None:
    retriever.close()
    retriever.close()
    for call in (
        lambda: retriever.search("a"),
        lambda: retriever.index(["a"]),
        lambda: retriever.get(["1"]),
        retriever.count,
    ):
        with pytest.raises(errors.BackendError, match="closed"):
            call()


def test_delete_takes_one_of_two(retriever: MatryoshkaRetriever) -> None:
    for wrong in ({}, {"ids": ["1"], "filter": {"i": 1}}):
        with pytest.raises(TypeError, match="either ids= or filter="):
            retriever.delete(**wrong)
    with pytest.raises(errors.InvalidInput, match="matches every row"):
        retriever.delete(filter={})
    assert retriever.delete("7") == 1 and retriever.delete(7) == 0 and retriever.count() == 49  # type: ignore[arg-type]


# -- encoders ----------------------------------------------------------------------------------------------------


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


# -- what is remembered, and what wins ---------------------------------------------------------------------------


def test_dims_come_from_the_manifest_and_different_ones_are_refused(retriever: MatryoshkaRetriever) -> None:
    backend = retriever.backend
    opened = MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend)
    assert opened.manifest is not None and opened.manifest.coarse_dims == 16
    MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend, coarse_dims=16, fine_dims=64)
    with pytest.raises(errors.CollectionMismatchError, match="made with coarse_dims=16, but coarse_dims=32 was given"):
        MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend, coarse_dims=32)
    with pytest.raises(errors.CollectionMismatchError, match="fine_dims=64, but fine_dims=32"):
        MatryoshkaRetriever(encoder=HashingEncoder(64), backend=backend, fine_dims=32)
    with pytest.raises(errors.CollectionMismatchError, match="dim=64, but dim=32"):
        MatryoshkaRetriever(encoder=None, backend=backend, dim=32)


def test_a_funnel_that_begins_elsewhere_is_refused_at_once(retriever: MatryoshkaRetriever) -> None:
    with pytest.raises(errors.CollectionMismatchError, match="coarse_dims=16, but stages= begins with 8"):
        MatryoshkaRetriever(backend=retriever.backend, stages=[(8, 100)])
    MatryoshkaRetriever(backend=retriever.backend, stages=[(16, 100), (32, 50)])


def test_coarse_dims_are_clamped_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = MatryoshkaRetriever(encoder=None, coarse_dims=512)
        made.index(["a"], vectors=vectors(1))
        made.index(["b"], vectors=vectors(1))
    assert made.manifest is not None and made.manifest.coarse_dims == 16
    assert caplog.text.count("clamped") == 1
    MatryoshkaRetriever(encoder=None, backend=made.backend, coarse_dims=512)


def test_precedence(retriever: MatryoshkaRetriever) -> None:
    manifest = retriever.manifest
    assert manifest is not None

    def stages(made: dict[str, Any], call: dict[str, Any], plan: dict[str, Any] | None = None) -> list[tuple[int, int]]:
        def checked(given: dict[str, Any], name: str) -> SearchSettings:
            from mrl_retrieval.settings import NOT_GIVEN

            get = lambda key: given.get(key, NOT_GIVEN)  # noqa: E731
            return SearchSettings.checked(get("coarse_top_k"), get("k"), get("stages"), top_k_name=name)

        resolved = checked(call, "top_k").resolve(checked(made, "final_top_k"), manifest.with_plan(plan), exact=False)
        return [(s.dims, s.limit) for s in resolved]

    assert stages({}, {}) == [(16, 200), (64, 10)]
    assert stages({}, {"k": 100}) == [(16, 400), (64, 100)]
    assert stages({}, {}, {"coarse_top_k": 50, "final_top_k": 5}) == [(16, 50), (64, 5)]
    assert stages({"coarse_top_k": 70}, {}, {"coarse_top_k": 50}) == [(16, 70), (64, 10)]
    assert stages({"coarse_top_k": 70, "k": 7}, {"coarse_top_k": 90, "k": 3}) == [(16, 90), (64, 3)]
    assert stages({"stages": [(16, 90), (32, 30)]}, {}) == [(16, 90), (32, 30), (64, 10)]
    assert stages({"stages": [(16, 90), (32, 30)]}, {"coarse_top_k": 40}) == [(16, 40), (64, 10)]
    assert stages({"coarse_top_k": 70}, {"stages": [(16, 90), (999, 30)]}) == [(16, 90), (64, 30), (64, 10)]
    with pytest.raises(errors.InvalidInput, match="keeps 70 candidates, fewer than the 100"):
        stages({"coarse_top_k": 70}, {"k": 100})


def test_opening_makes_nothing() -> None:
    fresh = MatryoshkaRetriever(encoder=HashingEncoder(16), backend="memory:nothing-made")
    fresh.search("x")
    fresh.get(["a"])
    fresh.delete(["a"])
    assert fresh.index([]) == []
    assert fresh.backend.collections() == []
    with pytest.raises(errors.CollectionNotFound, match="collections there: none"):
        MatryoshkaRetriever.open("memory:nothing-made")


def test_two_that_make_the_collection_at_once() -> None:
    first = MatryoshkaRetriever(encoder=None, backend="memory:race")
    second = MatryoshkaRetriever(encoder=None, backend="memory:race")
    third = MatryoshkaRetriever(encoder=None, backend="memory:race", coarse_dims=4)
    first.index(["a"], vectors=vectors(1))
    second.index(["b"], vectors=vectors(1))
    assert first.count() == 2
    with pytest.raises(errors.CollectionMismatchError):
        third.index(["c"], vectors=vectors(1))
    MatryoshkaRetriever.open("memory:race").backend.drop()


# -- batches and failures ----------------------------------------------------------------------------------------


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


# -- laws --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    dim=st.integers(1, 12),
    coarse=st.integers(1, 12),
    k=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_all_candidates_make_it_exact_and_recall_never_falls(n: int, dim: int, coarse: int, k: int, seed: int) -> None:
    data = np.round(vectors(n, dim, seed), 1)  # rounded: ties happen
    query = np.round(vectors(1, dim, seed + 1)[0], 1)
    made = MatryoshkaRetriever(encoder=None, coarse_dims=coarse)
    ids = made.index([None] * n, range(n), vectors=data)
    ((_, scores),) = exact_search(query[None], data, ids, k)
    kth = float(scores[-1])
    full = made.search_by_vector(query, k, coarse_top_k=max(n, k))
    assert [h.score for h in full] == pytest.approx(scores.tolist(), abs=1e-5)
    assert made.search_by_vector(query, k, exact=True).ids == full.ids
    found = []
    for candidates in range(k, n + k, max(1, n // 5)):
        result = made.search_by_vector(query, k, coarse_top_k=candidates)
        found.append(sum(hit.score >= kth - 1e-5 for hit in result))
    assert found == sorted(found)


def test_results_are_the_same_for_a_funnel_given_either_way(retriever: MatryoshkaRetriever) -> None:
    funnel = [(16, 40), (32, 20)]
    made = MatryoshkaRetriever(encoder=HashingEncoder(64), backend=retriever.backend, stages=funnel)
    assert made.search(TEXTS[5]).ids == retriever.search(TEXTS[5], stages=funnel).ids
    assert Stage(16, 40) == made._made.stages[0]  # type: ignore[index]
