"""PostgreSQL tables with pgvector as users make them become two-stage collections, and stay as they were."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.moving.importing import Fields, ImportReport, import_collection
from mrl_retrieval.registry import open_backend
from tests.postgres_server import PASSWORD, USER, PostgresServer

DIM = 32
TEXTS = [f"document number {i} about topic {i % 7}" for i in range(250)]
ENCODER = HashingEncoder(DIM)
VECTORS = ENCODER.encode_document(TEXTS)
LOGIN = {"user": USER, "password": PASSWORD}


class Theirs:
    """A schema of somebody's, first in the user's search path."""

    def __init__(self, server: PostgresServer) -> None:
        self.server, self.schema = server, f"shop-{uuid.uuid4().hex[:8]}"
        self.connection = psycopg.connect(server.dsn(user=USER), autocommit=True)
        self.run(sql.SQL("CREATE SCHEMA {0}; SET search_path = {0}, public").format(sql.Identifier(self.schema)))
        self.connection.execute(
            sql.SQL("ALTER ROLE {} SET search_path = {}, public").format(
                sql.Identifier(USER), sql.Identifier(self.schema)
            )
        )

    def run(self, text: Any, *rows: Any) -> None:
        with self.connection.cursor() as cursor:
            if rows:
                cursor.executemany(text, rows)
            else:
                cursor.execute(text)

    def address(self, table: str) -> str:
        return f"pgvector+{self.server.url}?collection={table}"

    def snapshot(self, table: str) -> list[str]:
        query = sql.SQL("SELECT t::text, t.xmin::text FROM {} AS t ORDER BY 1").format(sql.Identifier(table))
        return [" ".join(row) for row in self.connection.execute(query).fetchall()]

    def take(self, table: str, target: str | None = None, **options: Any) -> ImportReport:
        fields = Fields(**{k: options.pop(k) for k in ("vector", "text", "id", "metadata") if k in options})
        source = LOGIN | options.pop("source_options", {})
        theirs = LOGIN if target is None or target.startswith("pgvector") else {}
        return import_collection(
            self.address(table), target, fields=fields, source_options=source, backend_options=theirs, **options
        )


@pytest.fixture
def theirs(postgres: PostgresServer) -> Iterator[Theirs]:
    made = Theirs(postgres)
    yield made
    with open_backend(made.address("items-mrl"), **LOGIN) as backend:
        backend.drop()
    made.run(
        sql.SQL("DROP SCHEMA {} CASCADE; ALTER ROLE {} RESET ALL").format(
            sql.Identifier(made.schema), sql.Identifier(USER)
        )
    )
    made.connection.close()


def literal(vector: Any) -> str:
    return "[" + ",".join(str(float(x)) for x in vector) + "]"


def items(theirs: Theirs, kind: str = "vector") -> None:
    """A table like those of pgvector's own examples."""
    theirs.run(
        f"CREATE TABLE items (id bigserial PRIMARY KEY, embedding {kind}({DIM}), body text, lang varchar(2), "
        "tags text[], extra jsonb, price numeric(12, 2), made timestamptz, raw bytea, search tsvector, flag boolean, n float8)"
    )
    theirs.run(
        "INSERT INTO items (embedding, body, lang, tags, extra, price, made, raw, search, flag, n) VALUES "
        "(%s, %s, 'en', %s, %s, %s, '2024-07-01 12:00:00+02', %s, to_tsvector('x'), %s, %s)",
        *[
            (literal(v * 3), t, ["a", None], json.dumps({"i": i, "deep": {"x": [1, 2.0]}}), i / 4, b"\0\xff", i % 2 == 0, i)
            for i, (t, v) in enumerate(zip(TEXTS, VECTORS, strict=True))
        ],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_beside_the_original(theirs: Theirs, kind: str) -> None:
    items(theirs, kind)
    theirs.run("INSERT INTO items (body) VALUES ('no vector'), (NULL)")
    before = theirs.snapshot("items")
    report = theirs.take("items", text="body", encoder=ENCODER, coarse_dims=16, batch_size=60)
    assert report.target == f"{theirs.address('items')}-mrl" and (report.rows, report.vectors) == (252, 250)
    assert report.shortest == pytest.approx(3, abs=2e-3) == report.longest
    with MatryoshkaRetriever.open(report.target, backend_options=LOGIN) as retriever:
        assert retriever.count() == 252 and retriever.count({"flag": True, "extra.i": {"$lt": 10}}) == 5
        (hit,) = retriever.search(TEXTS[33], 1)
        assert (hit.id, hit.document) == ("34", TEXTS[33]) and hit.score == pytest.approx(1, abs=1e-3)
        assert hit.metadata == {
            "lang": "en", "tags": ["a", None], "extra": {"i": 33, "deep": {"x": [1, 2.0]}}, "price": 8.25,
            "made": "2024-07-01T10:00:00+00:00", "raw": "AP8=", "flag": False, "n": 33.0,
        }  # fmt: skip
        row, bare, empty = retriever.get(["8", "251", "252"], vectors=True)
        assert row is not None and row.vector is not None and bare is not None and empty is not None
        np.testing.assert_allclose(row.vector, VECTORS[7], atol=1e-3 if kind == "halfvec" else 1e-6)
        assert (bare.document, bare.vector, empty.document, empty.metadata["extra"]) == ("no vector", None, None, None)
    assert theirs.snapshot("items") == before


@pytest.mark.parametrize("name", ["items", "schema.items", "schema option"])
def test_another_database_and_again(theirs: Theirs, tmp_path: Path, name: str) -> None:
    items(theirs)
    target = f"faiss:{tmp_path}/kb"
    if name != "items":
        theirs.run(sql.SQL("ALTER ROLE {} RESET search_path").format(sql.Identifier(USER)))
    table = f"{theirs.schema}.items" if name == "schema.items" else "items"
    options = {"schema": theirs.schema} if name == "schema option" else {}
    take: dict[str, Any] = {"text": "lang", "metadata": ("n", "body"), "source_options": options}
    assert theirs.take(table, target, **take).rows == 250
    theirs.run("UPDATE items SET body = 'changed', embedding = array_fill(1, ARRAY[32])::vector WHERE id = 1")
    assert theirs.take(table, target, **take).rows == 250
    with MatryoshkaRetriever.open(target) as retriever:
        (row,) = retriever.get(["1"])
        assert row is not None and (row.document, row.metadata) == ("en", {"n": 0.0, "body": "changed"})
        assert retriever.search_by_vector([1.0] * DIM, 1).ids == ["1"]


def test_keys_of_other_types_and_a_lifted_object(theirs: Theirs, tmp_path: Path) -> None:
    """The layout of LangChain's PGVectorStore, but for its names."""
    ids = [uuid.uuid4() for _ in TEXTS]
    theirs.run('CREATE TABLE "Chunks" ("The Id" uuid PRIMARY KEY, content text, emb vector, "meta ""data" json)')
    rows = [(i, t, literal(v), json.dumps({"page": n})) for n, (i, t, v) in enumerate(zip(ids, TEXTS, VECTORS, strict=True))]  # fmt: skip
    theirs.run('INSERT INTO "Chunks" VALUES (%s, %s, %s, %s)', *rows)
    theirs.run('INSERT INTO "Chunks" VALUES (%s, NULL, NULL, %s)', (uuid.UUID(int=1), None), (uuid.UUID(int=2), "[1]"))
    for names, expected in ((None, {"page": 3}), (("page",), {"page": 3}), (("nothing",), {}), (('meta "data',), None)):
        target = f"faiss:{tmp_path}/{names}"
        theirs.take("Chunks", target, metadata=names, batch_size=7)
        with MatryoshkaRetriever.open(target) as retriever:
            row, null, odd = retriever.get([str(ids[3]), str(uuid.UUID(int=1)), str(uuid.UUID(int=2))])
            assert row is not None and null is not None and odd is not None and row.document == TEXTS[3]
            if expected is None:
                assert row.metadata == {'meta "data': {"page": 3}} and null.metadata == {'meta "data': None}
            else:
                assert row.metadata == expected and null.metadata == {} and odd.metadata == {'meta "data': [1]}


def test_rows_without_a_vector_come_first_in_the_table(theirs: Theirs, tmp_path: Path) -> None:
    theirs.run("CREATE TABLE notes (name text PRIMARY KEY, v vector(3), text text)")
    theirs.run(
        "INSERT INTO notes VALUES (%s, %s, %s)", *[(f"ä {i}", "[1,2,3]" if i > 40 else None, "") for i in range(50)]
    )
    report = theirs.take("notes", f"faiss:{tmp_path}/kb", batch_size=5)
    assert (report.rows, report.vectors) == (50, 9)


def test_values_that_python_has_no_place_for(theirs: Theirs, tmp_path: Path) -> None:
    theirs.run("CREATE TYPE mood AS ENUM ('good')")
    theirs.run("CREATE TYPE pair AS (a int, b text)")
    values = {
        "'infinity'::timestamptz": "infinity", "'0044-03-15 BC'::date": "0044-03-15 BC", "'24:00'::time": "24:00:00",
        "'good'::mood": "good", "'1 mon 2 days'::interval": "1 mon 2 days", "'NaN'::float8": None, "'NaN'::numeric": "NaN",
        "0.1234567890123456789::numeric": "0.1234567890123456789", "1e30::numeric": 1e30, "2^62::numeric": 2**62, "(1, 'x')::pair": "(1,x)",
        "'10.0.0.0/8'::inet": "10.0.0.0/8", "ARRAY['-infinity'::date, '2024-01-02']": ["-infinity", "2024-01-02"],
        "'[1,2]'::vector": None, "'{1:2}/3'::sparsevec": None, "'12:30:00+05:30'::timetz": "12:30:00+05:30",
    }  # fmt: skip
    columns = ", ".join(f"{value} AS c{i}" for i, value in enumerate(values))
    theirs.run(f"CREATE TABLE odd AS SELECT 'x' AS name, '[1,2]'::vector(2) AS v, {columns}")
    theirs.take("odd", f"faiss:{tmp_path}/kb", vector="v", id="name")
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        (row,) = retriever.get(["x"])
    assert row is not None
    expected = {f"c{i}": value for i, value in enumerate(values.values()) if "vec" not in list(values)[i]}
    assert row.metadata == expected


def test_what_is_refused(theirs: Theirs, tmp_path: Path) -> None:
    items(theirs)
    theirs.run("CREATE VIEW few AS SELECT * FROM items WHERE id < 10")
    theirs.run("CREATE TABLE two (a int, b int, v vector(2), w halfvec(2), PRIMARY KEY (a, b))")
    theirs.run("CREATE TABLE plain (id int PRIMARY KEY, v real[])")
    theirs.run("CREATE TABLE empty (id int PRIMARY KEY, v vector)")
    target = f"faiss:{tmp_path}/kb"

    def refused(error: type[Exception], words: str, table: str, **options: Any) -> None:
        with pytest.raises(error, match=words) as caught:
            theirs.take(table, target, **options)
        assert PASSWORD not in str(caught.value) and not (tmp_path / "kb").exists()

    refused(errors.CollectionNotFound, "no table 'x' .*items.*two", "x")
    refused(errors.CollectionNotFound, "no table 'items' in the schema 'y'", "items", source_options={"schema": "y"})
    refused(errors.InvalidInput, "no column 'x' for --vector-field .*embedding vector", "items", vector="x")
    refused(errors.InvalidInput, "no column 'x' for --text-field", "items", text="x")
    refused(errors.InvalidInput, "no column 'x' for --id-field", "items", id="x")
    refused(errors.InvalidInput, "no column 'x' for --metadata-fields", "items", metadata=("body", "x"))
    refused(errors.InvalidInput, "'body' does not hold vectors", "items", vector="body")
    refused(errors.InvalidInput, "'embedding' is the vector", "items", text="embedding")
    refused(errors.InvalidInput, "no column of vectors .*real\\[\\]", "plain")
    refused(errors.InvalidInput, r"several vectors \(v, w\)", "two", id="a")
    refused(errors.InvalidInput, r"primary key of 2 columns \(a, b\)", "two", vector="v")
    refused(errors.InvalidInput, "no primary key: name a column", "few")
    refused(errors.InvalidInput, "250 rows have 'en' as 'lang'", "items", id="lang")
    refused(errors.InvalidInput, "no rows", "empty")
    refused(errors.InvalidInput, "takes no option 'm'", "items", source_options={"m": 3})
    refused(errors.BackendError, "check the user and the password", "items", source_options={"password": "wrong"})
    refused(
        errors.ModelMismatchError,
        "not the encoder's",
        "items",
        encoder=lambda texts: np.ones((len(texts), DIM)),
        text="body",
    )
    theirs.run("INSERT INTO items (body) VALUES (NULL)")
    refused(errors.InvalidInput, "1 rows have no 'body'", "items", id="body")
    assert theirs.take("few", target, id="id").rows == 9
    theirs.run("REVOKE ALL ON items FROM CURRENT_USER")
    with pytest.raises(errors.BackendError, match="permission denied .*have the right granted"):
        theirs.take("items", f"{target}2", text="body")


def test_a_text_that_is_not_clear_is_said(theirs: Theirs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items(theirs)
    theirs.take("items", f"faiss:{tmp_path}/kb", metadata=("body", "n"))
    assert "none of the columns body, lang is taken as the text" in caplog.text
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        (row,) = retriever.get(["4"])
        assert row is not None and (row.document, row.metadata) == (None, {"body": TEXTS[3], "n": 3.0})


def test_a_view_of_one_of_langchains_collections(theirs: Theirs, tmp_path: Path) -> None:
    """Its tables, and the view of docs/pgvector.md."""
    theirs.run(
        "CREATE TABLE langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar UNIQUE, cmetadata json);"
        "CREATE TABLE langchain_pg_embedding (id varchar PRIMARY KEY, collection_id uuid, embedding vector, "
        "document varchar, cmetadata jsonb)"
    )
    collections = [(uuid.UUID(int=i), name) for i, name in enumerate(["docs", "other"])]
    theirs.run("INSERT INTO langchain_pg_collection VALUES (%s, %s)", *collections)
    rows = [(f"{i}", uuid.UUID(int=i % 2), literal(VECTORS[i]), TEXTS[i], json.dumps({"i": i})) for i in range(100)]
    theirs.run("INSERT INTO langchain_pg_embedding VALUES (%s, %s, %s, %s, %s)", *rows)
    page = (Path(__file__).parent.parent.parent / "docs" / "pgvector.md").read_text(encoding="utf-8")
    theirs.run(page.partition("```sql\n")[2].partition("```")[0])
    assert theirs.take("docs", f"faiss:{tmp_path}/kb", id="id", encoder=ENCODER).rows == 50
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        (hit,) = retriever.search(TEXTS[8], 1)
        assert (hit.id, hit.document, hit.metadata) == ("8", TEXTS[8], {"i": 8})


def test_names_are_never_sql(theirs: Theirs, tmp_path: Path) -> None:
    hostile = '"; DROP TABLE "evil""; --%s {} \' é'
    name, column = sql.Identifier("evil"), sql.Identifier(hostile)
    theirs.run(sql.SQL("CREATE TABLE {} (i int PRIMARY KEY, {} vector(2), text text)").format(name, column))
    theirs.run("INSERT INTO evil VALUES (1, '[1,2]', 'x')")
    assert theirs.take("evil", f"faiss:{tmp_path}/kb", vector=hostile).rows == 1
    for role in ("vector", "text", "id"):
        with pytest.raises(errors.InvalidInput, match="no column"):
            theirs.take("evil", f"faiss:{tmp_path}/kb", **{role: "i; DROP TABLE evil"})
    assert len(theirs.snapshot("evil")) == 1


def test_a_stream_that_nobody_reads_to_its_end_ends_its_transaction(theirs: Theirs, tmp_path: Path) -> None:
    items(theirs)
    broken = f"faiss:{tmp_path}/kb"
    with pytest.raises(errors.InvalidInput, match="fine_dims"):
        theirs.take("items", broken, fine_dims=DIM * 2, batch_size=10)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND application_name = 'mrl_retrieval'"
    assert theirs.connection.execute(busy).fetchone() == (0,)


def test_a_connection_lost_on_the_way(theirs: Theirs, tmp_path: Path) -> None:
    items(theirs)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(errors.BackendUnavailable, match="while reading"):
        theirs.take("items", f"faiss:{tmp_path}/kb", batch_size=50, progress=lambda *_: theirs.connection.execute(end))
    assert theirs.take("items", f"faiss:{tmp_path}/kb").rows == 250
