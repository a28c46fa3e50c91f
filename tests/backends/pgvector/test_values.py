"""Texts and metadata as PostgreSQL takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")


from mrl_adapters._pgvector.values import escape, json_text, jsonb_text, kinds_of, unescape


class TestValues:
    texts = st.text(st.one_of(st.sampled_from("\x00\x01\x02\x03\x04ab\\\"'"), st.characters(exclude_categories=["Cs"])))

    @given(texts)
    def test_an_escaped_text_is_taken_and_comes_back(self, text: str) -> None:
        assert "\x00" not in escape(text) and unescape(escape(text)) == text

    @given(texts, texts)
    def test_order_is_kept(self, a: str, b: str) -> None:
        assert (a < b) == (escape(a).encode() < escape(b).encode())

    @given(texts, texts, texts)
    def test_substrings_are_kept_and_none_is_made(self, a: str, b: str, c: str) -> None:
        assert escape(b) in escape(a + b + c)
        assert (escape(b) in escape(a)) == (b in a)

    @given(st.dictionaries(texts, st.one_of(texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False))))
    def test_metadata_text_gives_back_what_it_was_given(self, metadata: dict[str, Any]) -> None:
        assert repr(json.loads(json_text(metadata))) == repr(metadata)
        assert "\\u0000" not in jsonb_text(metadata).replace("\\\\", "")

    def test_equal_numbers_are_spelled_alike(self) -> None:
        assert jsonb_text([1.0, -0.0, 1e3, 2.0**60, 0.1]) == "[1,0,1000,1152921504606846976,0.1]"

    def test_kinds_go_as_deep_as_filters_may(self) -> None:
        deep: Any = 1
        for _ in range(30):
            deep = {"k": deep}
        assert len(kinds_of(deep)) == 16
        assert kinds_of({"a.b": 1, "": 2, "x" * 500: "s"})[0].startswith("#")
