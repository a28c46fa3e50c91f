"""Addresses, options and connecting."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg

from mrl_adapters._pgvector.errors import Errors
from mrl_adapters._pgvector.options import Options
from mrl_adapters.pgvector import PgvectorBackend
from mrl_adapters.pgvector_import import open_foreign
from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    BackendUnavailable,
    InvalidInput,
)
from mrl_retrieval.moving.importing import Fields
from mrl_retrieval.registry import open_backend
from tests.backends.pgvector.helpers import LOGIN, MANIFEST, Connect
from tests.postgres_server import PASSWORD, USER, PostgresServer


class TestAddresses:
    def test_the_environment_of_libpq(
        self, postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"PGHOST": postgres.sockets, "PGPORT": postgres.port, "PGDATABASE": "vectors"}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("PGUSER", USER)
        with open_backend("pgvector:?collection=x", schema=schema) as backend:
            backend.write_manifest(MANIFEST, None)
            assert backend.collections() == ["x"]
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        with open_backend(f"pgvector+{postgres.url}?collection=x", schema=schema) as backend:
            assert backend.read_manifest() == MANIFEST

    @pytest.mark.parametrize(
        "address",
        [
            "pgvector:./folder",
            "pgvector::memory:",
            "pgvector+http://host:1",
            "pgvector+postgresql://h/a/b",
            "pgvector+postgresql://h/a%00b",
        ],
    )
    def test_what_is_no_postgresql(self, address: str) -> None:
        with pytest.raises(AddressError, match="pgvector"):
            open_backend(address)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ef": 1}, "no option 'ef'"),
            ({"m": 1}, "from 2 to 100"),
            ({"m": True}, "from 2 to 100"),
            ({"m": 60, "ef_construction": 100}, "twice m"),
            ({"coarse_quantization": "int8"}, "'halfvec'"),
            ({"fine_dtype": None, "iterative_scan": None}, "iterative_scan"),
            ({"fine_dtype": "int8"}, "'float16'"),
            ({"timeout": 0}, "timeout"),
            ({"timeout": "1"}, "timeout"),
            ({"schema": ""}, "schema"),
            ({"schema": "ä" * 32}, "schema"),
            ({"pool_size": 0}, "pool_size"),
            ({"schema": 1}, "schema=1"),
            ({"schema": "a%sb"}, "schema='a%sb'"),
            ({"schema": "\ud800"}, "schema="),
            ({"schema": "a\0"}, "schema="),
            ({"timeout": float("nan")}, "timeout"),
            ({"prepare": "no"}, "prepare='no'"),
            ({"user": 5}, "user= is int"),
            ({"user": "\ud800"}, r"user= has a character"),
            ({"password": 12345}, "password= is int"),
            ({"password": "a\0b"}, r"password= has a character.*U\+0000"),
            ({"sslmode": "bogus"}, r"sslmode= 'bogus'.*'verify-full'"),
            ({"connection": "host=x"}, "connection= is str"),
            ({"connection": None}, "connection= is NoneType"),
            ({"connection": {1: "x"}}, "connection= has 1"),
            ({"connection": {"no_such_keyword": "1"}}, "'no_such_keyword'.*target_session_attrs"),
            ({"connection": {"autocommit": True}}, "'autocommit'"),
            ({"connection": {"row_factory": 3}}, "'row_factory'"),
            ({"connection": {"conninfo": "host=x"}}, "'conninfo'"),
            ({"connection": {"connect_timeout": "x"}}, r"connection\['connect_timeout'\] 'x': give a whole number"),
            ({"connection": {"keepalives": True}}, r"connection\['keepalives'\] is bool"),
            ({"connection": {"port": "x"}}, r"connection\['port'\] 'x'"),
            ({"connection": {"hostaddr": ["a"]}}, r"connection\['hostaddr'\] is list"),
            ({"connection": {"sslmode": "bogus"}}, r"connection\['sslmode'\] 'bogus'"),
            ({"connection": {"options": "-c x=1\0"}}, r"connection\['options'\] has a character"),
            ({"connection": {"host": "elsewhere"}}, "another host"),
            ({"connection": {"dbname": "y"}}, "another dbname"),
        ],
    )
    def test_options_are_checked_before_anything_is_connected(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidInput, match=words) as caught:
            open_backend("pgvector+postgresql://nowhere.invalid/x", **options)
        assert "cannot use the options" not in str(caught.value), "the backend says it itself"
        assert "a\0b" not in str(caught.value) and "12345" not in str(caught.value)

    def test_keywords_of_libpq_as_text_and_as_numbers(self, postgres: PostgresServer, schema: str) -> None:
        further = {
            "connect_timeout": "3",
            "keepalives": 1,
            "tcp_user_timeout": "0",
            "port": postgres.port,
            "service": None,
            "target_session_attrs": "read-write",
        }
        with open_backend(f"pgvector+{postgres.url}", schema=schema, connection=further, **LOGIN) as backend:
            assert backend.read_manifest() is None

    def test_nobody_there(self) -> None:
        with open_backend("pgvector+postgresql://127.0.0.1:1/x", **LOGIN) as backend:
            with pytest.raises(BackendUnavailable, match="127.0.0.1:1") as caught:
                backend.read_manifest()
            assert PASSWORD not in str(caught.value)

    def test_refusals_have_the_servers_words_and_no_password(self, postgres: PostgresServer) -> None:
        place = f"pgvector+{postgres.url}"
        for address, options, words in [
            (place, {"user": USER, "password": "wrong secret"}, "password authentication failed"),
            (place.replace("vectors", "nowhere"), LOGIN, "nowhere"),
            (place, {**LOGIN, "sslmode": "require"}, "SSL"),
            (place, {**LOGIN, "connection": {"service": "nowhere"}}, "nowhere.*check.*connection="),
            (place, {**LOGIN, "connection": {"target_session_attrs": "x"}}, "target_session_attrs.*connection="),
        ]:
            with open_backend(address, **options) as backend:
                with pytest.raises(BackendError, match=words) as caught:
                    backend.read_manifest()
                assert not isinstance(caught.value, BackendUnavailable)
                assert "wrong secret" not in str(caught.value) and PASSWORD not in str(caught.value)
        assert PASSWORD not in repr(Options.parse(LOGIN))

    def test_secrets_are_masked_wherever_they_turn_up(self) -> None:
        mapped = Errors(Address.parse("pgvector:"), 1, lambda: ["s3cret"])
        assert (
            "***" in (words := str(mapped.error("x", psycopg.OperationalError("bad s3cret")))) and "s3cret" not in words
        )

    def test_after_closing(self, made: Connect) -> None:
        backend = made()
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.count()

    def test_a_backend_that_nobody_closed_closes_its_connections(self, postgres: PostgresServer, schema: str) -> None:
        backend = open_backend(f"pgvector+{postgres.url}", schema=schema, **LOGIN)
        assert isinstance(backend, PgvectorBackend)
        backend.write_manifest(MANIFEST, None)
        (connection,) = backend._session._connections._idle
        del backend
        assert connection.closed


@pytest.mark.parametrize(
    ("options", "words"),
    [({"schema": 1}, "schema=1"), ({"timeout": "x"}, "timeout='x'"), ({"connection": {"no": 1}}, "'no'")],
)
def test_options_of_the_importer_are_checked_too(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        open_foreign(Address.parse("pgvector+postgresql://nowhere.invalid/x?collection=t"), Fields(), **options)
