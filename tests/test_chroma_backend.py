"""What is special to Chroma: three kinds of places, filters as terms, writes in two steps, approximate search."""

from __future__ import annotations

import json
import operator
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

import chromadb
from chromadb.config import Settings
from chromadb.errors import InternalError

from mrl_adapters._chroma_filters import rank
from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    BackendUnavailable,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    FilterError,
    InvalidInput,
    ManifestError,
    NotACollection,
)
from mrl_retrieval.filters import And, IdIn, Not, matches, parse_filter
from mrl_retrieval.manifest import Canaries, Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.servers import free_port, run_chroma

DIM, COARSE = 24, 8
MANIFEST = Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)


def vectors(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return normalize(np.random.default_rng(seed).normal(size=(n, dim)))


def batch(rows: list[Row]) -> RowBatch:
    full = np.zeros((len(rows), DIM), dtype=np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            full[i] = row.vector
    has = np.array([row.vector is not None for row in rows], dtype=np.bool_)
    return RowBatch([r.id for r in rows], [r.document for r in rows], [r.metadata for r in rows], full, has)


def rows(n: int, seed: int = 0) -> list[Row]:
    return [Row(f"id{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def by_id(backend: ChromaBackend, **options: Any) -> dict[str, Row]:
    return {row.id: row for part in backend.scan(**options) for row in part.rows()}


def same(a: Row | None, b: Row | None) -> bool:
    if a is None or b is None:
        return a is b
    vectors_equal = (a.vector is None) == (b.vector is None) and (a.vector is None or (a.vector == b.vector).all())
    texts = [json.dumps(row.metadata, sort_keys=True) for row in (a, b)]  # tells 1 from 1.0 and from True
    return a.id == b.id and a.document == b.document and texts[0] == texts[1] and bool(vectors_equal)


def made(address: str, manifest: Manifest = MANIFEST, **options: Any) -> ChromaBackend:
    backend = open_backend(address, **options)
    assert isinstance(backend, ChromaBackend)
    backend.write_manifest(manifest, None)
    return backend


@pytest.fixture
def memory() -> Iterator[ChromaBackend]:
    with made("chroma:") as backend:
        assert isinstance(backend, ChromaBackend)
        yield backend


@pytest.fixture(params=["memory", "folder", "server"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the address of a collection that does not exist yet, in each kind of place."""

    def address() -> str:
        if request.param == "memory":
            return "chroma:"
        if request.param == "folder":
            return f"chroma:{tmp_path / 'kb'}"
        return f"chroma+{request.getfixturevalue('chroma_server')}?collection=t{uuid.uuid4().hex[:12]}"

    return address


class TestPlaces:
    def test_the_two_stages_over_all_rows_are_the_exact_answer(self, opener: Callable[[], str]) -> None:
        stored = rows(300)
        queries = vectors(7, seed=1)
        with made(opener()) as backend:
            backend.upsert(batch(stored))
            full = np.array([row.vector for row in stored])
            expected = exact_search(queries, full, [row.id for row in stored], 10)
            for stages in [(Stage(COARSE, 300), Stage(DIM, 10)), (Stage(DIM, 10),)]:
                got = backend.search(SearchRequest(queries, stages))
                for ranking, (ids, scores) in zip(got, expected, strict=True):
                    assert [row.id for row in ranking.rows] == ids
                    np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)
                    assert ranking.rows[0].document == f"text {ids[0][2:]}"

    def test_coarse_scores_are_the_cosines_of_the_prefixes(self, opener: Callable[[], str]) -> None:
        stored, query = rows(50), prefix(vectors(2, seed=3), COARSE)
        with made(opener()) as backend:
            backend.upsert(batch(stored))
            short = prefix(np.array([row.vector for row in stored]), COARSE)
            expected = exact_search(query, short, [row.id for row in stored], 20)
            for got, (ids, scores) in zip(backend.coarse_search(query, 20, None), expected, strict=True):
                assert got.ids == ids
                np.testing.assert_allclose(got.scores, scores, atol=1e-6)

    def test_metadata_documents_and_vectors_come_back_as_given(self, opener: Callable[[], str]) -> None:
        v = vectors(1)[0]
        odd = {
            "": 1, "dotted.key": [1, 1.0, True, None, {"a": []}], "ünï\n\"'\\": {"deep": {"er": {}}}, "none": None,
            "big": 2**63 - 1, "small": -(2**63), "float": 1.0, "zero": -0.0, "tiny": 5e-324, "true": True, "empty": [],
            "_terms": "mine", "_json": "{", "_slot": 7, "n:i": "no number", "chroma:document": "x", "#id": 1, "$eq": 2,
            "nul": "a\x00b", "long": "x" * 10_000, "😀": "民主主義",
        }  # fmt: skip
        stored = [
            Row("plain", "text", {}, v),
            Row("ünï 😀\n", "", odd, v),
            Row("0:plain", None, {"a": {"b": 1}}, v),
            Row("no vector", "text", odd, None),
            Row("nothing", None, {}, None),
            Row("x" * 3000, "nul \x00 in it", {"i": 1}, v),
        ]
        with made(opener()) as backend:
            backend.upsert(batch(stored))
            ids = [row.id for row in stored]
            got = backend.get([*ids, "unknown", ids[0]], vectors=True)
            assert got[len(ids)] is None
            assert same(got[-1], stored[0])
            assert all(same(a, b) for a, b in zip(got, stored, strict=False))
            assert all(same(by_id(backend, vectors=True)[row.id], row) for row in stored)

    def test_reindexing_leaves_nothing_of_the_old_row(self, opener: Callable[[], str]) -> None:
        v = vectors(3)
        with made(opener()) as backend:
            backend.upsert(batch([Row("a", "old", {"n": 5, "s": "x", "l": [1], "d": {"n": 7}}, v[0])]))
            backend.upsert(batch([Row("a", None, {"n": "five"}, v[1])]))
            assert same(backend.get(["a"], vectors=True)[0], Row("a", None, {"n": "five"}, v[1]))
            for old in [{"s": "x"}, {"l": {"$contains": 1}}, {"d.n": {"$gt": 0}}, {"s": {"$exists": True}}]:
                assert backend.count(parse_filter(old)) == 0
            with pytest.raises(FilterError, match="'five'"):
                backend.count(parse_filter({"n": {"$gt": 0}}))
            backend.upsert(batch([Row("a", "new", {"m": 1}, None)]))
            assert same(backend.get(["a"], vectors=True)[0], Row("a", "new", {"m": 1}, None))
            assert backend.coarse_search(v[:1, :COARSE], 5, None)[0].ids == []
            backend.upsert(batch([Row("a", "newest", {"n": 5.5}, v[2])]))
            assert same(backend.get(["a"], vectors=True)[0], Row("a", "newest", {"n": 5.5}, v[2]))
            assert backend.count() == 1
            assert backend.count(parse_filter({"n": {"$gt": 5}})) == 1
            assert backend.delete(["a", "unknown", "a"]) == 1
            assert backend.get(["a"]) == [None]
            assert backend.count() == 0

    def test_rows_without_a_vector_are_counted_and_filtered_but_never_found(self, opener: Callable[[], str]) -> None:
        stored = [replace(row, vector=None) if row.metadata["third"] == 0 else row for row in rows(60)]
        with made(opener()) as backend:
            backend.upsert(batch(stored))
            assert (backend.count(), backend.stats().rows, backend.stats().vectors) == (60, 60, 40)
            assert backend.count(parse_filter({"third": 0})) == 20
            assert backend.count(parse_filter({"third": {"$ne": 1}})) == 40
            query = prefix(vectors(1, seed=2), COARSE)
            for filter in (None, parse_filter({"i": {"$gte": 0}}), IdIn(frozenset(r.id for r in stored))):
                found = backend.coarse_search(query, 100, filter)[0].ids
                assert sorted(found) == sorted(row.id for row in stored if row.vector is not None)
            assert backend.coarse_search(query, 100, parse_filter({"third": 0}))[0].ids == []

    def test_collections_are_ours_alone_and_drop_leaves_the_others(self, opener: Callable[[], str]) -> None:
        with made(opener()) as backend:
            name = backend.address.collection
            client = backend._connection.client()
            client.create_collection(f"users-{name}", embedding_function=None)
            backend.upsert(batch(rows(5)))
            assert name in backend.collections()
            assert not any("users" in other for other in backend.collections())
            assert (backend.read_manifest() or MANIFEST).collection_id == MANIFEST.collection_id
            backend.drop()
            backend.drop()
            assert backend.read_manifest() is None
            assert name not in backend.collections()
            left = [c.name for c in client.list_collections() if c.name.endswith(name)]
            assert left == [f"users-{name}"]
            with pytest.raises(CollectionNotFound):
                backend.count()

    def test_a_dropped_collection_haunts_no_other(self, opener: Callable[[], str]) -> None:
        """Chroma keeps the lists of a deleted collection's rows, and gives them to new rows of the same number."""
        with made(opener()) as backend:
            backend.upsert(batch([*rows(20), Row("bare", None, {"l": [1]}, None)]))
            backend.drop()
            client = backend._connection.client()
            theirs = client.create_collection(f"t{uuid.uuid4().hex}", embedding_function=None)
            theirs.upsert(ids=[str(i) for i in range(60)], embeddings=vectors(60), documents=["text"] * 60)
            assert not any(theirs.get()["metadatas"])
            theirs.upsert(ids=[str(i) for i in range(60)], embeddings=vectors(60), metadatas=[{"_terms": ["."]}] * 60)
            client.delete_collection(theirs.name)  # as another program would, which leaves its lists behind
            backend.write_manifest(MANIFEST, None)
            backend.upsert(batch(rows(20)))
            assert backend.count() == 20
            assert backend.count(parse_filter({"third": {"$ne": 7}})) == 20

    def test_the_manifest_is_compared_before_it_is_replaced(self, opener: Callable[[], str]) -> None:
        canaries = Canaries(vectors(8, dim=2048), vectors(8, dim=2048))
        large = Manifest(dim=2048, coarse_dims=64, fine_dims=2048, canaries=canaries)
        assert len(large.dumps()) > 40_000
        with made(opener(), large) as backend:
            stored = backend.read_manifest()
            assert stored is not None and stored.checksum == large.checksum
            changed = large.with_plan({"coarse_top_k": 300})
            backend.write_manifest(changed, stored)
            assert (backend.read_manifest() or large).checksum == changed.checksum
            with pytest.raises(ConflictError):
                backend.write_manifest(large.with_plan({"other": 1}), large)
            with pytest.raises(ConflictError):
                backend.write_manifest(large, None)

    def test_a_foreign_collection_under_our_name_is_refused(self, opener: Callable[[], str]) -> None:
        with open_backend(opener()) as backend:
            assert isinstance(backend, ChromaBackend)
            name = f"mrl-coarse.{backend.address.collection}"
            client = backend._connection.client()
            client.create_collection(name, metadata={"by": "somebody"}, embedding_function=None)
            for attempt in (backend.read_manifest, lambda: backend.write_manifest(MANIFEST, None), backend.drop):
                with pytest.raises(NotACollection, match="did not make"):
                    attempt()
            assert backend.collections() == [] or backend.address.collection not in backend.collections()
            assert client.get_collection(name, embedding_function=None).metadata == {"by": "somebody"}

    def test_more_rows_than_one_call_to_chroma_takes(self, opener: Callable[[], str]) -> None:
        n = 6000
        full = vectors(n)
        big = RowBatch([f"id{i}" for i in range(n)], [None] * n, [{"i": i} for i in range(n)], full, np.ones(n, bool))
        with made(opener()) as backend:
            backend.upsert(big)
            ids = [f"id{i}" for i in range(n)]
            assert backend.count() == n
            got, found = backend.fetch_vectors([*reversed(ids), "unknown"])
            assert found[:-1].all() and not found[-1]
            assert (got[:-1][::-1] == full).all()
            allowed = frozenset(ids[::2]) | {f"unknown{i}" for i in range(40_000)}
            query = prefix(vectors(1, seed=9), COARSE)
            assert sorted(backend.coarse_search(query, n, IdIn(allowed))[0].ids) == sorted(ids[::2])
            assert backend.count(IdIn(allowed)) == n // 2
            assert sorted(backend.coarse_search(query, n, None)[0].ids) == sorted(ids)
            assert backend.delete(ids) == n


class TestFolder:
    def test_opening_creates_nothing(self, tmp_path: Path) -> None:
        with open_backend(f"chroma:{tmp_path / 'kb'}") as backend:
            assert backend.read_manifest() is None
            assert backend.collections() == []
            backend.drop()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_a_place_that_is_not_chroma_is_refused(self, tmp_path: Path, what: str) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        place = tmp_path / "notes.txt" if what == "file" else tmp_path
        with pytest.raises(NotACollection, match="choose another"):
            open_backend(f"chroma:{place}")

    def test_a_damaged_database_is_our_error(self, tmp_path: Path) -> None:
        (tmp_path / "chroma.sqlite3").write_bytes(b"this is no database" * 100)
        with open_backend(f"chroma:{tmp_path}") as backend, pytest.raises(BackendError, match="connecting"):
            backend.read_manifest()

    @pytest.mark.parametrize(
        "words",
        [
            "Permission denied (os error 13)",
            "error returned from database: (code: 1544) attempt to write a readonly database",
            "error returned from database: (code: 14) unable to open database file",
            "Read-only file system (os error 30)",
        ],
    )
    def test_a_folder_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
        """In Chroma's own words, since for root there is no such folder."""

        def refuse(*_: object, **__: object) -> None:
            raise InternalError(words)

        monkeypatch.setattr(chromadb, "PersistentClient", refuse)
        with open_backend(f"chroma:{tmp_path / 'kb'}") as backend:
            with pytest.raises(BackendError, match=f"{tmp_path / 'kb'} .*check the permissions") as caught:
                backend.write_manifest(MANIFEST, None)
            assert words in str(caught.value)

    def test_a_folder_that_cannot_even_be_looked_into(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        backend = open_backend(f"chroma:{tmp_path}")
        monkeypatch.setattr(Path, "is_file", refuse)
        for attempt in (backend.read_manifest, lambda: open_backend(f"chroma:{tmp_path}")):
            with pytest.raises(BackendError, match=f"{tmp_path} .*check the permissions"):
                attempt()

    def test_a_damaged_manifest_is_noticed(self, tmp_path: Path) -> None:
        with made(f"chroma:{tmp_path}") as backend:
            coarse = backend._pair().coarse
            coarse.modify(metadata={**coarse.metadata, "mrl_manifest": coarse.metadata["mrl_manifest"][:-40]})
            with pytest.raises(ManifestError):
                backend.read_manifest()
            backend.drop()
            assert backend.read_manifest() is None

    def test_close_releases_the_folder(self, tmp_path: Path) -> None:
        for _ in range(2):
            with made(f"chroma:{tmp_path / 'kb'}") as backend:
                backend.upsert(batch(rows(10)))
            backend.close()
            with pytest.raises(BackendError, match="closed"):
                backend.count()
            with open_backend(f"chroma:{tmp_path / 'kb'}") as again:
                assert again.count() == 10
                assert again.capabilities.persistent
            shutil.rmtree(tmp_path / "kb")

    def test_two_backends_and_a_client_of_the_user_see_one_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        theirs = chromadb.PersistentClient("kb", settings=Settings(allow_reset=True))
        try:
            with made("chroma:./kb") as a, open_backend(f"chroma:{tmp_path}/kb/../kb") as b:
                a.upsert(batch(rows(20)))
                b.upsert(batch([replace(row, id=f"b{row.id}") for row in rows(20, seed=5)]))
                query = prefix(vectors(1, seed=2), COARSE)
                assert len(a.coarse_search(query, 100, None)[0].ids) == 40
                assert a.coarse_search(query, 100, None)[0].ids == b.coarse_search(query, 100, None)[0].ids
                assert len(theirs.list_collections()) == 2
        finally:
            theirs.close()

    def test_graph_settings_are_kept_and_held_to(self, tmp_path: Path) -> None:
        with made(f"chroma:{tmp_path}", ef_search=77) as backend:
            assert backend.stats().details["ef_search"] == 77
        with open_backend(f"chroma:{tmp_path}", ef_search=77) as backend:
            assert backend.read_manifest() is not None
        with open_backend(f"chroma:{tmp_path}", ef_search=78) as backend, pytest.raises(CollectionMismatchError):
            backend.read_manifest()
        with pytest.raises(InvalidInput, match="ef_search is 0"):
            open_backend(f"chroma:{tmp_path}", ef_search=0)


class TestMemory:
    def test_every_address_is_a_world_of_its_own(self) -> None:
        theirs = chromadb.EphemeralClient(settings=Settings(allow_reset=True))
        try:
            with made("chroma:") as a, made("chroma::memory:") as b:
                a.upsert(batch(rows(3)))
                assert (a.count(), b.count(), theirs.list_collections()) == (3, 0, [])
                assert not a.capabilities.persistent
            with open_backend("chroma:") as c:
                assert c.read_manifest() is None
        finally:
            theirs.close()

    def test_unknown_options(self) -> None:
        with pytest.raises(InvalidInput, match="takes .*ef_search.*; got ef_serach"):
            open_backend("chroma:", ef_serach=3)
        with pytest.raises(AddressError, match="api_key"):
            open_backend("chroma:", api_key="secret")


class TestServer:
    def test_a_server_that_is_down(self, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        with open_backend(f"chroma+{url}") as down, pytest.raises(BackendUnavailable, match=f"{url}.*chroma run"):
            down.read_manifest()
        with run_chroma(tmp_path) as url:
            backend = made(f"chroma+{url}")
            backend.upsert(batch(rows(3)))
        with pytest.raises(BackendUnavailable, match=url):
            backend.count()
        with pytest.raises(BackendUnavailable, match=url):
            list(backend.scan())
        backend.close()

    def test_a_server_keeps_what_it_was_given(self, tmp_path: Path) -> None:
        with run_chroma(tmp_path) as url, made(f"chroma+{url}") as backend:
            backend.upsert(batch(rows(30)))
        with run_chroma(tmp_path) as url, open_backend(f"chroma+{url}") as backend:
            assert backend.count() == 30
            assert all(same(row, by_id(backend, vectors=True)[row.id]) for row in rows(30))

    def test_a_tenant_that_is_not_there(self, chroma_server: str) -> None:
        lost = open_backend(f"chroma+{chroma_server}", tenant="nobody")
        with lost, pytest.raises(BackendError, match="tenant 'nobody'"):
            lost.count()

    def test_the_token_is_sent_and_never_shown(self, monkeypatch: pytest.MonkeyPatch, chroma_server: str) -> None:
        monkeypatch.setenv("CHROMA_API_KEY", "from-the-environment")
        for options, key in [({}, "from-the-environment"), ({"api_key": "given"}, "given")]:
            with open_backend(f"chroma+{chroma_server}", headers={"X-Other": "1"}, **options) as backend:
                assert isinstance(backend, ChromaBackend)
                backend.read_manifest()
                sent = backend._connection.client()._server.get_request_headers()
                assert (sent["x-chroma-token"], sent["x-other"]) == (key, "1")
                with pytest.raises(BackendError) as caught, backend._connection.errors("trying"):
                    raise RuntimeError(f"the server echoes {key}")
                assert key not in str(caught.value)
                assert key not in str(backend.address)


class Failing:
    """A Chroma collection whose ``verb`` raises once, after some calls of it that do not."""

    def __init__(self, collection: Any, verb: str, error: Exception | None = None, after: int = 0) -> None:
        self._collection, self._verb, self._after = collection, verb, after
        self._error = error or RuntimeError("the disk is full")

    def __getattr__(self, name: str) -> Any:
        if name == self._verb:
            self._after -= 1
        if name == self._verb and self._after < 0:
            self._verb = ""

            def fail(**_: Any) -> None:
                raise self._error

            return fail
        return getattr(self._collection, name)


class TestInterruptedWrites:
    """Whatever fails on the way, the old row or the new one is there whole, and repetition or repair heals."""

    @pytest.mark.parametrize("heal", ["repeat", "repair"])
    @pytest.mark.parametrize(
        ("part", "verb", "wins"), [("full", "upsert", "old"), ("coarse", "upsert", "old"), ("full", "delete", "new")]
    )
    def test_a_write_that_fails_half_way(
        self, memory: ChromaBackend, part: str, verb: str, wins: str, heal: str
    ) -> None:
        before, after = rows(20), [replace(r, document="new", metadata={"new": 1}) for r in rows(25, seed=7)]
        memory.upsert(batch(before))
        whole = memory._pair()
        memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), verb)})
        with pytest.raises(BackendError, match="the disk is full"):
            memory.upsert(batch(after))
        memory._collections._pair = whole

        def check(expected: list[Row]) -> None:
            assert memory.count() == len(expected)
            assert memory.count(parse_filter({"new": 1})) == sum("new" in row.metadata for row in expected)
            found = by_id(memory, vectors=True)
            assert found.keys() == {row.id for row in expected}
            for row, got in zip(expected, memory.get([row.id for row in expected], vectors=True), strict=True):
                assert same(row, got) and same(row, found[row.id])
            queries = vectors(3, seed=8)
            oracle = exact_search(queries, np.array([r.vector for r in expected]), [r.id for r in expected], 5)
            for stages in [(Stage(COARSE, 25), Stage(DIM, 5)), (Stage(DIM, 5),)]:
                for ranking, (ids, scores) in zip(memory.search(SearchRequest(queries, stages)), oracle, strict=True):
                    assert [row.id for row in ranking.rows] == ids
                    np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)

        expected = before if wins == "old" else after
        check(expected)
        if heal == "repeat":
            memory.upsert(batch(after))
            check(after)
        else:
            memory.repair()
            check(expected)
        assert whole.full.count() == whole.coarse.count()

    @pytest.mark.parametrize(
        ("part", "verb", "after", "expected"),
        [
            ("full", "upsert", 0, []),
            ("full", "upsert", 1, ["a0"]),
            ("full", "upsert", 2, ["a0"]),
            ("coarse", "upsert", 0, ["a0", "b1"]),
            ("coarse", "delete", 0, ["a0", "b1", "c2", "d3"]),
            ("full", "delete", 0, ["a0", "b1", "c2", "d3", "e4"]),
        ],
    )
    def test_the_error_says_which_rows_are_in(
        self,
        memory: ChromaBackend,
        monkeypatch: pytest.MonkeyPatch,
        part: str,
        verb: str,
        after: int,
        expected: list[str],
    ) -> None:
        """Two requests: the first is in whole, of the second what its failing step had left to do is not."""
        monkeypatch.setattr(type(memory._collections), "max_batch", lambda _: 4)
        v = vectors(8)
        old = [Row("e4", "old", {}, v[0]), Row("c2", "old", {}, v[1])]
        memory.upsert(batch(old))
        new = [Row("a0", "new", {}, None), *(Row(f"x{i}", "new", {}, None) for i in range(3))]
        second = [
            Row("b1", "new", {}, None),  # in with the first step
            Row("c2", "new", {}, v[3]),  # with the second
            Row("d3", "new", {}, v[4]),
            Row("e4", "new", {}, None),  # with the third: it loses its vector
        ]
        whole = memory._pair()
        failing = Failing(getattr(whole, part), verb, after=after)
        memory._collections._pair = replace(whole, **{part: failing})
        with pytest.raises(BackendError) as caught:
            memory.upsert(batch([*new, *second]))
        memory._collections._pair = whole
        there = [row.id for row in memory.get([r.id for r in [*new, *second]]) if row and row.document == "new"]
        assert list(caught.value.indexed_ids) == there
        assert [id for id in there if not id.startswith("x")] == expected

    @pytest.mark.parametrize("heal", ["repeat", "repair", "delete"])
    @pytest.mark.parametrize("to_vector", [True, False])
    def test_a_row_that_gains_or_loses_its_vector(self, memory: ChromaBackend, to_vector: bool, heal: str) -> None:
        [full] = rows(1)
        bare = Row(full.id, "bare", {"bare": True}, None)
        before, after = (bare, full) if to_vector else (full, bare)
        memory.upsert(batch([before]))
        whole = memory._pair()
        part = "full" if to_vector else "coarse"
        memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), "delete")})
        with pytest.raises(BackendError):
            memory.upsert(batch([after]))
        memory._collections._pair = whole
        # Both records exist now; the coarse one hides the bare one.
        assert memory.count() == 1
        assert memory.count(parse_filter({"bare": True})) == 0
        assert same(memory.get([full.id], vectors=True)[0], full)
        assert list(by_id(memory)) == [full.id]
        if heal == "delete":
            assert memory.delete([full.id]) == 1
            assert memory.get([full.id]) == [None]
            assert whole.full.count() == whole.coarse.count() == 0
            return
        if heal == "repeat":
            memory.upsert(batch([after]))
            assert same(memory.get([full.id], vectors=True)[0], after)
        else:
            memory.repair()
            assert same(memory.get([full.id], vectors=True)[0], full)
        assert whole.full.count() == 1

    def test_what_a_dropped_collection_leaves_is_never_taken_up(self, memory: ChromaBackend) -> None:
        memory.upsert(batch(rows(3)))
        client = memory._connection.client()
        client.get_collection("mrl-coarse.default", embedding_function=None).modify(
            name="mrl-dropped.0123456789ab.default"
        )
        assert memory.read_manifest() is None
        memory.write_manifest(MANIFEST, None)
        assert memory.count() == 0
        assert len(client.list_collections()) == 4
        memory.repair()
        assert len(client.list_collections()) == 2


class TestGraph:
    def test_equal_vectors_do_not_hide_the_others(self, memory: ChromaBackend) -> None:
        """A graph over thousands of equal points falls apart; everything must be found nonetheless."""
        n = 3000
        full = np.zeros((n, DIM), dtype=np.float32)
        full[:10, 0] = 1
        full[10, 1] = 1
        ids = [f"{i:04d}" for i in range(n)]
        stored = RowBatch(ids, [None] * n, [{"even": i % 2 == 0} for i in range(n)], full, np.ones(n, bool))
        memory.upsert(stored)
        query = np.eye(COARSE, dtype=np.float32)[:1]
        for filter, expected in (
            (None, ids),
            (parse_filter({"even": True}), ids[::2]),
            (IdIn(frozenset(ids[::2])), ids[::2]),
        ):
            found = memory.coarse_search(query, n, filter)[0]
            assert sorted(found.ids) == expected
            assert (found.scores[:5] == 1).all()

    def test_more_candidates_than_chroma_can_count(self, opener: Callable[[], str]) -> None:
        query = vectors(2, seed=3)
        with made(opener()) as backend:
            for stored in ([], rows(1200)):
                backend.upsert(batch(stored)) if stored else None
                for filter in (
                    None,
                    parse_filter({"third": {"$in": [0, 1, 2]}}),
                    IdIn(frozenset(r.id for r in stored)),
                ):
                    for stages in [(Stage(COARSE, 10**20), Stage(DIM, 10**20)), (Stage(DIM, 10**20),)]:
                        for ranking in backend.search(SearchRequest(query, stages, filter)):
                            assert len(ranking.rows) == len(stored)

    def test_small_collections_are_searched_exactly(self, memory: ChromaBackend) -> None:
        full = np.zeros((900, DIM), dtype=np.float32)
        full[700:705, 0] = 1
        ids = [f"{i:04d}" for i in range(900)]
        memory.upsert(RowBatch(ids, [None] * 900, [{}] * 900, full, np.ones(900, bool)))
        assert memory.coarse_search(np.eye(COARSE, dtype=np.float32)[:1], 5, None)[0].ids == ids[700:705]

    def test_an_empty_collection(self, memory: ChromaBackend) -> None:
        query = vectors(2)
        for stages in [(Stage(COARSE, 10), Stage(DIM, 5)), (Stage(DIM, 5),)]:
            assert [r.rows for r in memory.search(SearchRequest(query, stages))] == [[], []]
            filtered = SearchRequest(query, stages, parse_filter({"a": {"$gt": 1}}))
            assert [r.rows for r in memory.search(filtered)] == [[], []]
        assert memory.count() == 0 and list(memory.scan()) == [] and memory.delete(["a"]) == 0

    @pytest.mark.parametrize(("part", "verb"), [("coarse", "query"), ("full", "get")])
    def test_a_delete_in_the_middle_of_a_read_is_waited_out(self, memory: ChromaBackend, part: str, verb: str) -> None:
        """Chroma fails a read whose rows go between its look into SQLite and its look into the graph."""
        stored = rows(20)
        memory.upsert(batch(stored))
        whole = memory._pair()
        error = InternalError("Error executing plan: Internal error: Error finding id")
        memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), verb, error)})
        query = stored[3].vector
        assert query is not None
        [ranking] = memory.search(SearchRequest(query[None, :], (Stage(COARSE, 10), Stage(DIM, 1))))
        assert ranking.rows[0].id == "id3"

    def test_threads_write_and_read_at_once(self, memory: ChromaBackend) -> None:
        stored, errors = rows(200), []

        def work(start: int) -> None:
            try:
                for i in range(start, 200, 4):
                    memory.upsert(batch([stored[i]]))
                    [ranking] = memory.search(
                        SearchRequest(stored[i].vector[None, :], (Stage(COARSE, 50), Stage(DIM, 1)))
                    )
                    assert ranking.rows[0].id == stored[i].id
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert memory.count() == 200


KEYS = st.sampled_from(["a", "b", "a=1", 'a="', "é", "c d", "$x", "n:a"])
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(
        [0.5, -0.0, 1.0, 2.0, -1.5, -2.5, 1e300, 2**53, 2**53 + 1, 2**52 + 0.5, 2**63 - 1, -(2**63), 5e-324]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "x", "1", "true", "é😀", "x" * 300]))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))


VALUES = st.recursive(SCALARS, nested, max_leaves=5)
METADATA = st.dictionaries(st.one_of(KEYS, st.sampled_from(["", "x.y"])), VALUES, max_size=4)


@st.composite
def paths(draw: st.DrawFn) -> str:
    first = draw(KEYS.filter(no_operator))
    return ".".join([first, *draw(st.lists(KEYS, max_size=1))])


def no_operator(key: str) -> bool:
    return not key.startswith("$")


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    operators = st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), VALUES),
        st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(VALUES, max_size=3)),
        st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
        st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(NUMBERS, st.sampled_from(["", "x"]))),
        st.tuples(st.sampled_from(["$text", "$itext"]), st.sampled_from(["", "x", "É"])),
    )
    return st.recursive(st.builds(condition, paths(), operators), combined, max_leaves=4)


def condition(path: str, operator: tuple[str, Any]) -> dict[str, Any]:
    return {path: dict([operator])}


def combined(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries({"$and": parts}),
        st.fixed_dictionaries({"$or": parts}),
        st.fixed_dictionaries({"$not": inner}),
    )


@pytest.fixture(scope="module")
def shared() -> Iterator[ChromaBackend]:
    with made("chroma:") as backend:
        assert isinstance(backend, ChromaBackend)
        yield backend


class TestFilters:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        metadatas=st.lists(METADATA, min_size=1, max_size=6), filters=st.lists(conditions(), min_size=5, max_size=10)
    )
    def test_they_mean_what_matches_means(
        self, shared: ChromaBackend, metadatas: list[dict[str, Any]], filters: list[dict[str, Any]]
    ) -> None:
        """The same ids are written again and again, so stale keys of an earlier example would show too."""
        full = vectors(len(metadatas))
        stored = [Row(f"r{i}", None, m, None if i % 3 == 2 else full[i]) for i, m in enumerate(metadatas)]
        shared.delete([f"r{i}" for i in range(len(stored), 6)])
        shared.upsert(batch(stored))
        assert all(same(a, b) for a, b in zip(shared.get([r.id for r in stored], vectors=True), stored, strict=True))
        query = full[:1, :COARSE]
        for value in filters:
            filter = parse_filter(value)
            try:
                expected = {row.id for row in stored if matches(filter, row.id, row.metadata)}
            except FilterError:
                with pytest.raises(FilterError, match="only values of one type"):
                    shared.count(filter)
                continue
            assert {id for part in shared.scan(filter) for id in part.ids} == expected, value
            assert shared.count(filter) == len(expected)
            found = shared.coarse_search(query, 10, shared.resolve_filter(filter))[0].ids
            assert set(found) == {id for id in expected if stored[int(id[1:])].vector is not None}

    @given(st.lists(NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)))
    def test_ranks_have_the_order_of_the_numbers(self, numbers: list[float]) -> None:
        for operand in (n for n in numbers if abs(n) <= 2**53):
            for n in numbers:
                assert (rank(n) > rank(operand), rank(n) == rank(operand)) == (n > operand, n == operand)
                assert abs(rank(n)) < 2**63

    def test_fractions_and_neighbours(self, opener: Callable[[], str]) -> None:
        """Chroma itself cuts 4.5 to 4 before it looks at integers, and a server reads floats as their neighbours."""
        stored: list[float] = [
            4,
            5,
            -4,
            -5,
            4.0,
            4.5,
            -4.5,
            0,
            2**53,
            2**53 + 1,
            -(2**53) - 1,
            2**63 - 1,
            1e300,
            5e-324,
        ]
        close = np.random.default_rng(2).uniform(-1e3, 1e3, 100)
        for away in (np.inf, -np.inf):
            stored += [float(x) for x in np.nextafter(close, away)]
        full = vectors(len(stored))
        metadatas: list[dict[str, Any]] = [{"n": n} for n in stored]
        ids = [str(i) for i in range(len(stored))]
        meaning = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
        with made(opener()) as backend:
            backend.upsert(RowBatch(ids, [None] * len(ids), metadatas, full, np.ones(len(ids), bool)))
            operands = [4, 4.5, -4.5, 0.25, -0.25, 5e-324, -5e-324, 2**53, 2**52 + 0.5]
            for operand in [*operands, *close[:5].tolist(), *stored[20:25]]:
                for op, holds in meaning.items():
                    filter = parse_filter({"n": {op: operand}})
                    assert filter is not None and backend.can_filter(filter)
                    expected = {id for id, n in zip(ids, stored, strict=True) if holds(n, operand)}
                    assert {id for part in backend.scan(filter) for id in part.ids} == expected, (op, operand)
                    assert backend.count(Not(filter)) == len(ids) - len(expected)

    def test_what_is_pushed_down(self, memory: ChromaBackend) -> None:
        memory.upsert(batch(rows(30)))
        for value, pushed in [
            ({"a": {"$in": [1, "x", None, True]}}, True),
            ({"$not": {"$and": [{"a": {"$gt": 1}}, {"$or": [{"b": {"$exists": False}}, {"c": [1, {}]}]}]}}, True),
            ({"a": {"$gt": "2020-01-01"}}, False),
            ({"a": {"$gt": 2**60}}, False),
            ({"a": {"$text": "x"}}, False),
            ({"i": {"$in": list(range(5000))}}, False),
        ]:
            filter = parse_filter(value)
            assert filter is not None
            assert memory.can_filter(filter) is pushed
            assert isinstance(memory.resolve_filter(filter), IdIn) is not pushed
        deep = parse_filter({"i": {"$lt": 7}})
        assert deep is not None
        for _ in range(400):
            deep = Not(And((deep, filter)))
        assert not memory.can_filter(deep)
        widest = parse_filter({"i": {"$nin": list(range(128))}})
        assert widest is not None and memory.can_filter(widest)
        assert memory.count(widest) == 0
        assert memory.count(And((IdIn(frozenset(["id1", "id20"])), parse_filter({"i": {"$lt": 7}})))) == 1  # type: ignore[arg-type]

    @pytest.mark.parametrize("vector", [True, False])
    def test_an_order_across_types_is_an_error_whichever_row_it_is(self, memory: ChromaBackend, vector: bool) -> None:
        memory.upsert(batch(rows(40)))
        memory.upsert(batch([Row("odd", None, {"i": "forty", "third": 1}, vectors(1)[0] if vector else None)]))
        filter = parse_filter({"$and": [{"third": 2}, {"i": {"$lt": 3}}]})
        for attempt in (memory.count, lambda f: list(memory.scan(f)), memory.resolve_filter):
            with pytest.raises(FilterError, match="'odd' holds 'forty'"):
                attempt(filter)
        memory.upsert(batch([Row("odd", None, {"i": None}, None)]))
        assert memory.count(filter) == 1

    def test_as_many_hits_as_match(self, memory: ChromaBackend) -> None:
        memory.upsert(batch(rows(2500)))
        queries = prefix(vectors(3, seed=4), COARSE)
        for value, n in (({"i": {"$in": [5, 700, 2400]}}, 3), ({"third": 1}, 833), ({"i": {"$gte": 2300}}, 200)):
            for limit in (2, 100, 2500):
                for found in memory.coarse_search(queries, limit, memory.resolve_filter(parse_filter(value))):
                    assert len(found.ids) == len(set(found.ids)) == min(limit, n)
                    assert (np.diff(found.scores) <= 0).all()
