"""How often the server is asked, and what an asking leaves behind on the connection."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

from psycopg import sql

from mrl_adapters._pgvector import search
from mrl_adapters._pgvector.client import Connections, Statement
from mrl_adapters._pgvector.filters import condition
from mrl_adapters._pgvector.values import as_vector
from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.errors import BackendError, FilterError
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of
from tests.backends.pgvector.helpers import COARSE, Connect, rows, vectors

FUNNEL = (Stage(COARSE, 30), Stage(12, 20), Stage(16, 15), Stage(DIM, 10))


def found(backend: PgvectorBackend, filter: dict[str, Any] | None = None, queries: int = 1) -> list[list[str]]:
    rankings = backend.search(SearchRequest(vectors(queries, 4), FUNNEL, parse_filter(filter)))
    return [[row.id for row in ranking.rows] for ranking in rankings]


def shown(backend: PgvectorBackend, name: str) -> str:
    """A setting of the one connection, as the next call finds it."""
    (connection,) = backend._session._connections._idle
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def prepared(backend: PgvectorBackend) -> int:
    """How many statements its one connection has prepared."""
    ((count,),) = backend._session.ask("looking", [Statement(sql.SQL("SELECT count(*) FROM pg_prepared_statements"))])[
        0
    ]
    return int(count)


def test_all_stages_and_queries_are_one_asking(made: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = made()
    backend.upsert(batch_of(rows(50)))
    asked: list[int] = []
    ask = Connections.ask

    def counting(self: Connections, doing: str, statements: Any, settings: Any, **how: Any) -> Any:
        asked.append(len(statements))
        return ask(self, doing, statements, settings, **how)

    monkeypatch.setattr(Connections, "ask", counting)
    assert [len(ids) for ids in found(backend, {"third": 1}, queries=3)] == [10, 10, 10]
    assert asked == [3]


@pytest.mark.parametrize("filter", [None, {"third": 1}, {"i": {"$gte": 3}}])
@pytest.mark.parametrize("prepare", [True, False])
def test_an_asking_is_one_round_trip(
    made: Connect, tmp_path: Path, filter: dict[str, Any] | None, prepare: bool
) -> None:
    """As libpq's own record of the messages has it: the server says once that it is ready for the next."""
    backend = made(pool_size=1, prepare=prepare)
    backend.upsert(batch_of(rows(50)))
    for _ in range(3):
        path = tmp_path / "messages"
        (connection,) = backend._session._connections._idle
        with path.open("w") as file:
            connection.pgconn.trace(file.fileno())
            assert len(found(backend, filter)[0]) == 10
            connection.pgconn.untrace()
        messages = path.read_text()
        assert messages.count("ReadyForQuery") == messages.count("Sync") == 1, messages
        assert "BEGIN" not in messages
        sent = re.findall(r"\tF\t\d+\t(\w+)", messages)
        assert {after for each, after in pairwise(sent) if each == "Execute"} == {"Flush"}, "an answer waits for others"
    assert ("Parse" in re.findall(r"F\t\d+\t(\w+)", messages)) is not prepare, "parsed again though it was prepared"


def test_without_prepared_statements_none_are_left(made: Connect) -> None:
    with_them, without = made("with", pool_size=1), made("without", pool_size=1, prepare=False)
    for backend in (with_them, without):
        backend.upsert(batch_of(rows(50)))
        for third in range(3):
            assert len(found(backend, {"third": third})[0]) == 10
    assert found(with_them, {"third": 1}) == found(without, {"third": 1})
    # The search, whatever the filter's value, and the settings: before any extension is known, of writes, of searches.
    assert prepared(with_them) == 4 and prepared(without) == 0


def test_a_statement_that_fails_leaves_none(made: Connect) -> None:
    backend = made(pool_size=1)
    backend.count()
    for divisor in range(3):
        with pytest.raises(BackendError, match="division by zero"):
            failing = sql.SQL("SELECT {} / (count(*) - count(*))").format(divisor)
            backend._session.ask("dividing", [Statement(failing, prepare=True)])
    assert prepared(backend) == 1, "its own settings"


def test_a_filter_is_put_together_once_and_queries_as_they_are_sent(
    made: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = made()
    backend.upsert(batch_of(rows(50)))
    conditions, vectors_made, at_asking = [0], [0], list[tuple[int, int]]()
    ask = Connections.ask
    keys: set[int] = set()

    def put_together(*arguments: Any) -> Any:
        conditions[0] += 1
        return condition(*arguments)

    def packed(vector: Any) -> Any:
        vectors_made[0] += 1
        return as_vector(vector)

    def asking(self: Connections, doing: str, statements: Any, settings: Any, **how: Any) -> Any:
        at_asking.append((len(statements), vectors_made[0]))
        keys.update(id(statement.parameters["p0"]) for statement in statements)
        return ask(self, doing, statements, settings, **how)

    monkeypatch.setattr(search, "condition", put_together)
    monkeypatch.setattr(search, "as_vector", packed)
    monkeypatch.setattr(Connections, "ask", asking)
    wanted = frozenset(f"id{i}" for i in range(0, 50, 2))
    found = backend.exact_search(vectors(250, 4), 25, IdIn(wanted))
    assert [frozenset(candidates.ids) for candidates in found] == [wanted] * 250
    assert conditions == [1] and len(keys) == 1
    assert at_asking == [(100, 100), (100, 200), (50, 250)]


def test_settings_hold_for_one_asking(made: Connect) -> None:
    """Behind a pooler the next transaction on this connection may be somebody else's."""
    backend = made(pool_size=1, ef_search=123, timeout=7)
    backend.upsert(batch_of(rows(50)))
    names = ("search_path", "statement_timeout", "hnsw.ef_search", "jit", "plan_cache_mode", "random_page_cost")
    before = {name: shown(backend, name) for name in names}
    found(backend)
    backend.upsert(batch_of(rows(60)))
    assert {name: shown(backend, name) for name in names} == before
    assert before["hnsw.ef_search"] != "123" and before["statement_timeout"] != "7s"


def test_an_order_that_is_none_is_an_error_in_the_same_asking(made: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = made()
    stored = rows(50)
    stored[7].metadata["i"] = "seven"
    backend.upsert(batch_of(stored))
    asked: list[str] = []
    ask = Connections.ask

    def counting(self: Connections, doing: str, statements: Any, settings: Any, **how: Any) -> Any:
        asked.append(doing)
        return ask(self, doing, statements, settings, **how)

    monkeypatch.setattr(Connections, "ask", counting)
    with pytest.raises(FilterError, match="id7"):
        found(backend, {"i": {"$gt": 3}}, queries=2)
    assert asked == ["searching"]
    stored[7].metadata["i"] = 7
    backend.upsert(batch_of(stored))
    full = np.array([row.vector for row in stored])
    expected = np.argsort(-(full[4:] @ vectors(1, 4)[0]))[:10] + 4
    ranking = backend.search(
        SearchRequest(vectors(1, 4), (Stage(COARSE, 50), Stage(DIM, 10)), parse_filter({"i": {"$gt": 3}}))
    )[0]
    assert [row.id for row in ranking.rows] == [f"id{i}" for i in expected]
