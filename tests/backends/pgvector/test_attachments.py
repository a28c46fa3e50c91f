"""The table of attachments: made with the first, for all collections, and emptied with each."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from mrl_retrieval.errors import CorruptionError, MRLError, NotACollection
from tests.backends.pgvector.helpers import MANIFEST, Connect


def stored(superuser: psycopg.Connection[Any], schema: str) -> list[tuple[Any, ...]]:
    query = sql.SQL("SELECT name, length(content) FROM {} ORDER BY name, collection")
    return superuser.execute(query.format(sql.Identifier(schema, "mrl_attachments"))).fetchall()


def test_it_is_made_on_demand_and_emptied_by_drop(
    connect: Connect, superuser: psycopg.Connection[Any], schema: str
) -> None:
    backend, other = connect(), connect(collection="other")
    backend.write_manifest(MANIFEST, None)
    assert backend.read_attachment("rotation") is None
    with pytest.raises(psycopg.errors.UndefinedTable):
        stored(superuser, schema)
    other.write_manifest(MANIFEST, None)
    backend.write_attachment("rotation", b"123")
    other.write_attachment("rotation", b"4")
    assert stored(superuser, schema) == [("rotation", 35), ("rotation", 33)]
    backend.drop()
    assert stored(superuser, schema) == [("rotation", 33)]
    assert other.read_attachment("rotation") == b"4"
    other.drop()
    assert stored(superuser, schema) == []


def test_a_table_that_is_not_ours(connect: Connect, superuser: psycopg.Connection[Any], schema: str) -> None:
    backend = connect()
    backend.write_manifest(MANIFEST, None)
    table = sql.Identifier(schema, "mrl_attachments")
    superuser.execute(sql.SQL("CREATE TABLE {} (precious text)").format(table))
    superuser.execute(sql.SQL("GRANT ALL ON {} TO PUBLIC").format(table))
    with pytest.raises(NotACollection, match="mrl_attachments"):
        backend.write_attachment("rotation", b"1")
    with pytest.raises(NotACollection, match="mrl_attachments"):
        backend.read_attachment("rotation")
    superuser.execute(sql.SQL("SELECT precious FROM {}").format(table))


def test_damage_is_noticed(connect: Connect, superuser: psycopg.Connection[Any], schema: str) -> None:
    backend = connect()
    backend.write_manifest(MANIFEST, None)
    backend.write_attachment("rotation", b"0123456789")
    table = sql.Identifier(schema, "mrl_attachments")
    superuser.execute(sql.SQL("UPDATE {} SET content = set_byte(content, 40, 7)").format(table))
    with pytest.raises(CorruptionError, match="'rotation'"):
        backend.read_attachment("rotation")


def test_many_write_the_first_at_once(connect: Connect) -> None:
    made = connect()
    made.write_manifest(MANIFEST, None)
    backends = [connect() for _ in range(6)]
    failed: list[MRLError] = []
    ready = threading.Barrier(6)

    def write(i: int) -> None:
        ready.wait()
        try:
            backends[i].write_attachment("rotation", bytes([i]) * 50_000)
            backends[i].write_attachment(f"own-{i}", bytes([i]))
        except MRLError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert made.read_attachment("rotation") in [bytes([i]) * 50_000 for i in range(6)]
    assert [made.read_attachment(f"own-{i}") for i in range(6)] == [bytes([i]) for i in range(6)]
