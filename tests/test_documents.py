import copy
import dataclasses
import pickle
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval.documents import (
    Hit,
    Row,
    SearchResult,
    canonical_json,
    check_document,
    check_id,
    check_metadata,
    content_id,
)
from mrl_retrieval.errors import InvalidInput

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_metadata_is_copied_deep_and_exact(value: dict[str, object]) -> None:
    copy = check_metadata(value, 0)
    assert canonical_json(copy) == canonical_json(value) and copy is not value
    for key, item in value.items():
        if isinstance(item, (list, dict)):
            assert copy[key] is not item


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": (1, 2)}, r"metadatas\[7\].a is tuple"),
        ({"a": {"b": [1, {1, 2}]}}, r"metadatas\[7\].a.b\[1\] is set"),
        ({"a": float("nan")}, "nan"),
        ({"a": float("inf")}, "inf"),
        ({"a": 2**63}, "64 bits"),
        ({1: 2}, "key 1 of type int"),
        ({"a": b"x"}, "bytes"),
        ({"a": "\ud800"}, "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (["a"], "list, expected a dict"),
        ("a", "str, expected a dict"),
    ],
)
def test_metadata_that_would_not_come_back(value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_metadata(value, 7)


def test_numpy_scalars_are_named_with_the_remedy() -> None:
    import numpy as np

    with pytest.raises(InvalidInput, match=r"int\(\) or float\(\)"):
        check_metadata({"a": np.int64(3)}, 0)


def test_ids() -> None:
    assert check_id(7, 0) == "7" and check_id("7", 0) == "7"
    for wrong in ("", None, 1.5, True, b"x", "\ud800", ["a"]):
        with pytest.raises(InvalidInput, match=r"ids\[3\]"):
            check_id(wrong, 3)


def test_documents() -> None:
    assert check_document("", 0) == "" and check_document(None, 0, optional=True) is None
    for wrong in (None, 1, b"x", ["a"], "a\udc80"):
        with pytest.raises(InvalidInput, match=r"documents\[3\]"):
            check_document(wrong, 3)


def test_content_ids_are_fixed_for_ever() -> None:
    """A changed value would give every document that was indexed without an id a second one."""
    assert content_id("text", {}) == "e2c4516c-584c-54cc-9416-100abfe24732"
    assert content_id("text", {"b": 1, "a": [1.5, None, "ü"]}) == content_id("text", {"a": [1.5, None, "ü"], "b": 1})
    distinct = [content_id(d, m) for d in ("a", "b", None) for m in ({}, {"x": 1}, {"x": 1.0}, {"x": True})]
    assert len(set(distinct)) == 12
    assert uuid.UUID(distinct[0]).version == 5


def test_a_hit_is_three_things_when_iterated_and_frozen() -> None:
    hit = Hit("a", 0.5, "text", {"k": 1}, 0.25)
    assert list(hit) == ["a", 0.5, "text"]
    with pytest.raises(AttributeError):
        hit.score = 1.0  # type: ignore[misc]
    assert not hasattr(hit, "__dict__")


def test_a_result_is_an_immutable_sequence() -> None:
    hits = (Hit("a", 0.5, "x"), Hit("b", 0.25, None))
    result = SearchResult(hits)
    assert len(result) == 2 and result[0] is hits[0] and result[-1:] == hits[1:] and list(result) == list(hits)
    assert hits[1] in result and next(reversed(result)) is hits[1] and result.index(hits[1]) == 1
    assert (result.certificate, result.trace, result.ids) == (None, None, ["a", "b"])
    assert not SearchResult() and result == SearchResult(hits)
    with pytest.raises(TypeError):
        result[0] = hits[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (Hit("a", 0.5, "text", {"n": 1}, 0.25), ("a", 0.5, "text", {"n": 1}, 0.25, None, None)),
        (Hit("a", 0.5, None, ranks=(3, 1), rerank_score=7.0), ("a", 0.5, None, {}, None, (3, 1), 7.0)),
        (Row("a", "text", {"n": 1}), ("a", "text", {"n": 1}, None)),
        (Row(id="a", document=None), ("a", None, {}, None)),
    ],
)
def test_rows_and_hits_are_frozen_dataclasses(made: Any, values: tuple[object, ...]) -> None:
    assert tuple(getattr(made, field.name) for field in dataclasses.fields(made)) == values
    for twin in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made)), dataclasses.replace(made)):
        assert twin == made and type(twin) is type(made) and repr(twin) == repr(made)
    assert dataclasses.replace(made, id="b") != made and dataclasses.replace(made, id="b").id == "b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.id = "b"
    with pytest.raises((AttributeError, TypeError)):
        made.other = 1


def test_no_two_rows_or_hits_share_their_metadata() -> None:
    assert Hit("a", 1.0, None).metadata is not Hit("a", 1.0, None).metadata
    assert Row("a", None).metadata is not Row("a", None).metadata
    given = {"n": 1}
    assert Hit("a", 1.0, None, given).metadata is given
