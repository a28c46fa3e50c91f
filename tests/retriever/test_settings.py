"""What is remembered of a collection, and what wins over what."""

import logging
from typing import Any

import pytest

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.settings import SearchSettings
from tests.retriever.common import vectors


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
