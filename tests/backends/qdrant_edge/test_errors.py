"""Errors of Qdrant's engine are ours, with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl_adapters._qdrant.filters import point_id
from mrl_adapters._qdrant_edge import shard as _qdrant_edge_shard
from mrl_retrieval.errors import (
    BackendError,
)
from tests.backends.qdrant.helpers import filled


def test_what_the_engine_refuses_is_ours_with_its_words() -> None:
    with filled("qdrant-edge:", 3) as backend:
        point = {"id": point_id("x"), "vector": {"full": [1.0]}, "payload": {}}
        with pytest.raises(BackendError, match="writing rows.*expected dim: 24, got 1") as caught:
            backend._upsert([point])
        assert caught.value.__cause__ is not None
        with pytest.raises(BackendError, match="searching.*nowhere"):
            backend._query_batch([{"query": [1.0], "using": "nowhere", "limit": 1, "with_payload": False}])
        assert backend.count() == 3


def test_a_panic_of_the_engine_is_an_error_of_ours(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(BackendError, match="index out of bounds"), _qdrant_edge_shard.engine_errors("x", tmp_path):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), _qdrant_edge_shard.engine_errors("x", tmp_path):
        raise KeyboardInterrupt
