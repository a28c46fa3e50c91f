"""What the tests of this folder share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")


from mrl_adapters._pgvector.client import Statement
from mrl_adapters._pgvector.search import search_settings, search_statements
from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import BackendUnavailable
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.testing.base import clustered
from mrl_retrieval.two_stage import Stage
from tests.backends.common import DIM
from tests.postgres_server import PASSWORD, USER

COARSE = 8
MANIFEST = Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)
T = TypeVar("T")
Connect = Callable[..., PgvectorBackend]
"""Opens a backend: the collection's name, and options."""
LOGIN = {"user": USER, "password": PASSWORD}


HOSTILE = [
    "'; DROP TABLE mrl_collections; --", '"; DROP SCHEMA public CASCADE; --', "%s", "%(p0)s", "%%", "{}", "{0}", "$1", "\\", "\\'",
    "a\x00b", "\x00", "\x01", "\x02\x03", "\x01\x02\x02", '{"a":1}', '"', "'", "null", "\ud7ff\ue000", "\U0010ffff", "\\u0000", "\\\\u0000",
    "E'\\x00'", "$$", "$tag$", "/*", "--", "\n", "\r\n", "\t", "ａ", "e\u0301", "é", "🎉", "*", "[0]", "{a,b}", "::text", "NaN", "x" * 5000,
]  # fmt: skip


def vectors(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """``(n, dim)`` unit rows in clusters."""
    return normalize(clustered(n, dim, seed=seed))


def rows(n: int, seed: int = 0) -> list[Row]:
    """``id0``, ``id1``, … with text and metadata."""
    return [Row(f"id{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def plan(backend: PgvectorBackend, filter: Any = None, quantized: int = 1) -> str:
    """What PostgreSQL says it will do for a search of 100 candidates, with the settings of a search."""
    stages = [Stage(COARSE, 100), Stage(DIM, 10)]
    (statement,) = search_statements(
        backend._session.layout, vectors(1, 9), stages, parse_filter(filter), graph=100 * quantized, rows=True
    )
    assert isinstance(statement.text, bytes)
    explain = Statement(b"EXPLAIN (ANALYZE, TIMING OFF) " + statement.text, statement.parameters)
    (found,) = backend._session.ask("explaining", [explain], search_settings(backend._options, 100 * quantized))
    return "\n".join(line for (line,) in found)


def steps(plan: str, name: str) -> str:
    """The part of a plan that is one CTE."""
    return re.split(r"CTE \w+\n", plan.split(f"CTE {name}\n")[1])[0]


def at_last(call: Callable[[], T]) -> T:
    """What a call gives. Where its timeout is short, a busy machine may let it run out: then it is repeated."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except BackendUnavailable:
            if time.monotonic() > deadline:
                raise
