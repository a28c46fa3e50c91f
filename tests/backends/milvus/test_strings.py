"""Hostile strings in ids, keys, values and texts are only strings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import filters as _milvus_filters
from mrl_adapters._milvus import rows as _milvus_rows
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import FilterError
from mrl_retrieval.filters import IdIn, matches, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, MANIFEST, vectors

HOSTILE = [
    '" or pk != "', "'] or true or pk in ['", "\\", '\\"', "%", "_", "a%b_c", "{x}", "{ids}", "$meta", 'terms like "%"',
    "a\x00b", "\n", "]", "~aaaa", "pk", "null", "true", "1", "1.0", "\u202e", "é", "e\u0301", "漢字🎉",
]  # fmt: skip


texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


keys = st.one_of(st.sampled_from(["a", "b"]), texts)


EXPRESSION = re.compile(r'"[A-Za-z0-9_.:~%-]*"')


@given(texts.filter(bool), texts.filter(bool))
def test_keys_are_harmless_and_their_own(one: str, other: str) -> None:
    key = _milvus_rows.key_of(one)
    assert re.fullmatch(r"[A-Za-z0-9_.:~-]{1,101}", key)
    assert (key == _milvus_rows.key_of(other)) == (one == other)
    assert _milvus_rows.is_hashed(key) == (key != one)


@given(keys.filter(lambda key: key and "." not in key and not key.startswith("$")), values, st.booleans())
def test_no_byte_of_a_users_is_in_an_expression(key: str, value: Any, listed: bool) -> None:
    for op in ("$eq", "$in", "$contains", "$all", "$gt", "$lte"):
        try:
            tree = parse_filter({key: {op: [value] if op in ("$in", "$all") else value}})
        except FilterError:
            continue
        if tree is not None and _milvus_filters.can_compile(tree):
            rest = EXPRESSION.sub("", _milvus_filters.compile_filter(tree, listed))
            rest = re.sub(r"n_[a-z2-7]{24} [<>]=? -?[0-9.e+-]+", "", rest)
            assert not re.sub(r"terms|like|array_contains|and|or|not|[() ,]", "", rest), rest


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusBackend]:
    with open_backend(f"milvus:{tmp_path_factory.mktemp('hostile')}/kb") as one:
        assert isinstance(one, MilvusBackend)
        one.write_manifest(MANIFEST, None)
        yield one


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(texts.filter(bool), st.dictionaries(keys, values, max_size=3)), min_size=1, max_size=6),
    st.data(),
)
def test_hostile_strings_are_only_strings(
    hostile: MilvusBackend, given_rows: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    stored = dict(given_rows)
    hostile.delete([id for page in hostile.scan() for id in page.ids])
    hostile.upsert(
        batch_of(
            [Row(id, id, metadata, v) for (id, metadata), v in zip(stored.items(), vectors(len(stored)), strict=True)]
        )
    )
    assert {row.id: row.metadata for page in hostile.scan() for row in page.rows()} == stored
    found = hostile.coarse_search(prefix(vectors(1), COARSE), 50, None)[0]
    assert sorted(found.ids) == sorted(stored)
    some = data.draw(st.sampled_from(sorted(stored)))
    assert hostile.count(IdIn(frozenset([some, "nobody"]))) == 1
    for key, value in stored[some].items():
        if not key or "." in key or key.startswith("$"):
            continue
        for op in ("$eq", "$ne", "$contains", "$gt"):
            try:
                tree = parse_filter({key: {op: value}})
                expected = {id for id, metadata in stored.items() if matches(tree, id, metadata)}
            except FilterError:
                continue
            assert {id for page in hostile.scan(tree) for id in page.ids} == expected, (key, op, value)
