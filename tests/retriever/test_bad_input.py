"""What is refused, before anything is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.registry import open_backend


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
