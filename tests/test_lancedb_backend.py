"""What is special to LanceDB: codes instead of a user's words in SQL, versions, indexes, writers that take turns."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

import lancedb
import pyarrow as pa

from mrl_adapters import _lancedb_filters as filters
from mrl_adapters import _lancedb_upkeep as upkeep
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import Row, RowBatch, canonical_json
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    FilterError,
    InvalidInput,
    LockTimeout,
    ManifestError,
    NotACollection,
)
from mrl_retrieval.filters import And, Compare, Filter, IdIn, Not, Or, matches, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage

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


def rows(n: int, seed: int = 0, before: str = "id") -> list[Row]:
    return [Row(f"{before}{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def made(address: str, manifest: Manifest = MANIFEST, **options: Any) -> LanceDBBackend:
    backend = open_backend(address, **options)
    assert isinstance(backend, LanceDBBackend)
    backend.write_manifest(manifest, None)
    return backend


@pytest.fixture
def memory() -> Iterator[LanceDBBackend]:
    with made("lancedb:", index="flat") as backend:
        assert isinstance(backend, LanceDBBackend)
        yield backend


def table_of(backend: LanceDBBackend) -> Any:
    return backend._table()


# -- SQL without a user's words ----------------------------------------------------------------------------

# Fixed words, column names, signs, and codes in quotes.
SAFE = re.compile(
    r"(?: |,|\(|\)|\[|\]|[<>]=?|AND|OR|NOT|IN|AS|CAST|BIGINT|false|coalesce|array_element|array_position|array_has_any"
    r"|terms|order_keys|order_values|key|'[0-9a-f]*')*"
)

HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["'", "''", "\\'", '"', "`", "\\", "\x00", "a\x00b", "\n", "--", "/*", ";", "%", "_", "'; DROP TABLE rows; --",
         "' OR 'a'='a", "\u202e", "\u2028", "\ufeff", "😀", "e\u0301", "é", "NULL", "true", "_rowid", "key", "x" * 5000]
    ),
)  # fmt: skip
KEYS = HOSTILE.filter(lambda key: bool(key) and "." not in key and not key.startswith("$"))
SCALARS = st.one_of(
    HOSTILE,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53, 2**53 + 1, float(2**53), -0.0, 0, 5e-324, 1e300, 2**63 - 1, -(2**63)]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2))


def order_operand() -> st.SearchStrategy[Any]:
    return SCALARS.filter(lambda v: isinstance(v, (int, float, str)) and not isinstance(v, bool))


@st.composite
def trees(draw: st.DrawFn, keys: st.SearchStrategy[str] = KEYS, depth: int = 3) -> Filter:
    kind = draw(st.sampled_from(["and", "or", "not", "leaf", "leaf", "leaf"] if depth else ["leaf"]))
    if kind == "leaf":
        op = draw(st.sampled_from(sorted(filters.OPERATORS - {"$ne", "$nin"})))
        if op in ("$gt", "$gte", "$lt", "$lte"):
            value = draw(order_operand())
        elif op in ("$exists", "$is_empty"):
            value = draw(st.booleans())
        elif op in ("$in", "$any", "$all"):
            value = draw(st.lists(VALUES, max_size=3))
        else:
            value = draw(VALUES)
        return Compare((draw(keys),), op, value)
    if kind == "not":
        return Not(draw(trees(keys, depth - 1)))
    parts = tuple(draw(st.lists(trees(keys, depth - 1), min_size=1, max_size=3)))
    return And(parts) if kind == "and" else Or(parts)


class TestSQL:
    @given(trees(), st.lists(HOSTILE, max_size=3))
    @settings(max_examples=300, deadline=None)
    def test_no_word_of_a_user_is_in_it(self, tree: Filter, ids: list[str]) -> None:
        assert SAFE.fullmatch(filters.compile_where(tree))
        assert SAFE.fullmatch(filters.keys_in(ids))
        offenders = filters.order_offenders(tree)
        assert offenders is None or SAFE.fullmatch(offenders)

    @pytest.mark.parametrize("word", ["'", "abc'", "G", " ", "\\", "\x00", "é", "a\n"])
    def test_nothing_but_a_code_is_quoted(self, word: str) -> None:
        with pytest.raises(ValueError, match="no code"):
            filters._quoted(word)

    @given(order_operand(), order_operand())
    @settings(max_examples=500, deadline=None)
    def test_the_order_of_codes_is_the_order_of_values(self, a: Any, b: Any) -> None:
        if isinstance(a, str) != isinstance(b, str):
            return
        if isinstance(b, str) and len(b.encode()) >= 64:
            return  # not pushed down as an operand
        assert (filters._sortable(a) < filters._sortable(b)) == (a < b)
        assert (filters._sortable(a) > filters._sortable(b)) == (a > b)

    def test_what_is_too_deep_or_too_long_is_left_to_the_core(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(10)))
        deep: Filter = Compare(("i",), "$eq", 3)
        for _ in range(60):
            deep = Not(Not(And((deep,))))
        wide = Or(tuple(Compare(("i",), "$eq", i) for i in range(5000)))
        many = Compare(("i",), "$in", list(range(5, 20_000)))
        text = Compare(("third",), "$gt", "x" * 64)
        for tree, expected in ((deep, 1), (wide, 10), (many, 5)):
            assert not memory.can_filter(tree)
            assert memory.count(tree) == expected
        assert not memory.can_filter(text)
        with pytest.raises(FilterError):
            memory.count(text)
        largest = parse_filter({"$and": [{"$or": [{f"k{j}": {"$ne": 1}} for j in range(9)]} for _ in range(11)]})
        assert largest is not None and memory.can_filter(largest) and memory.count(largest) == 10

    @given(st.dictionaries(KEYS, VALUES, max_size=4), HOSTILE.filter(bool), HOSTILE)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_hostile_rows_come_back_and_are_found(
        self, memory: LanceDBBackend, metadata: dict[str, Any], id: str, document: str
    ) -> None:
        row = Row(id, document, metadata, vectors(1)[0])
        memory.upsert(batch([row, Row("bystander", "x", {"other": 1}, vectors(1)[0])]))
        got = memory.get([id, "bystander"])
        assert got[0] is not None and got[1] is not None
        assert (got[0].id, got[0].document) == (id, document)
        assert canonical_json(got[0].metadata) == canonical_json(metadata)
        for key, value in metadata.items():
            assert id in memory.coarse_search(row.vector[None, :COARSE], 9, Compare((key,), "$eq", value))[0].ids
        assert memory.count(IdIn(frozenset({id}))) == 1
        assert memory.delete([id]) == 1
        assert memory.get([id]) == [None]
        memory.delete(["bystander"])
        assert memory.count() == 0

    @given(st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_filter_means_what_it_means_in_the_core(self, memory: LanceDBBackend, data: st.DataObject) -> None:
        few = st.sampled_from(["a", "b", "x'y"])
        metadatas = data.draw(st.lists(st.dictionaries(few, VALUES, max_size=3), min_size=1, max_size=6))
        stored = [Row(f"r{i}", None, m, v) for i, (m, v) in enumerate(zip(metadatas, vectors(9), strict=False))]
        memory.delete([f"r{i}" for i in range(9)])
        memory.upsert(batch(stored))
        for _ in range(4):
            tree = data.draw(trees(few))
            try:
                expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
            except FilterError:
                with pytest.raises(FilterError):
                    memory.count(tree)
                continue
            assert memory.count(tree) == len(expected)
            assert {id for part in memory.scan(tree) for id in part.ids} == expected


class TestFilters:
    def test_indexed_filters_are_exact_through_updates(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some rows in the index, some not yet, some replaced or removed since."""
        monkeypatch.setattr(upkeep, "_SCALARS_FROM", 1)
        rng = np.random.default_rng(4)
        truth: dict[str, dict[str, Any]] = {}
        asked = [
            {"t": "a"}, {"t": {"$ne": "a"}}, {"t": {"$in": ["a", "b"]}}, {"t": {"$exists": False}}, {"n": {"$gt": 50}},
            {"$not": {"n": {"$gt": 50}}}, {"l": {"$contains": 1}}, {"l": {"$all": []}}, {"l": {"$is_empty": True}},
            {"$or": [{"t": "c"}, {"n": {"$lte": 3}}]}, {"$and": [{"t": {"$nin": ["c"]}}, {"l": {"$any": [2, 3]}}]},
        ]  # fmt: skip
        for step in range(12):
            ids = [f"r{i}" for i in rng.choice(150, size=40, replace=False)]
            new = {id: {"n": int(rng.integers(100)), "l": [int(x) for x in rng.integers(4, size=2)]} for id in ids}
            for id in ids[:30]:
                new[id]["t"] = str(rng.choice(["a", "b", "c"]))
            for id in ids[:4]:
                new[id]["l"] = []
            memory.upsert(batch([Row(id, None, m, v) for (id, m), v in zip(new.items(), vectors(40), strict=True)]))
            truth |= new
            gone = [f"r{i}" for i in rng.choice(150, size=8)]
            assert memory.delete(gone) == len(truth.keys() & set(gone))
            truth = {id: m for id, m in truth.items() if id not in gone}
            if step % 4 == 1:
                memory.flush()
            for given_filter in asked:
                tree = parse_filter(given_filter)
                expected = {id for id, m in truth.items() if matches(tree, id, m)}
                assert {id for part in memory.scan(tree) for id in part.ids} == expected
                found = memory.coarse_search(vectors(1, dim=COARSE), 1000, tree)[0].ids
                assert sorted(found) == sorted(expected)
        assert {found.name for found in table_of(memory).list_indices()} == {"terms_idx", "key_idx"}
        assert memory.count() == len(truth)

    def test_integers_are_ordered_exactly(self, memory: LanceDBBackend) -> None:
        numbers = [
            2**53 - 1,
            2**53,
            2**53 + 1,
            2**63 - 1,
            -(2**63),
            -(2**63) + 1,
            float(2**53),
            0,
            -0.0,
            1e300,
            -1e-300,
        ]
        memory.upsert(batch([Row(f"r{i}", None, {"n": n}, None) for i, n in enumerate(numbers)]))
        for operand in [*numbers, 2**53 + 0.5, 2**63]:
            for op, expected in {
                "$gt": sum(n > operand for n in numbers),
                "$gte": sum(n >= operand for n in numbers),
                "$lt": sum(n < operand for n in numbers),
                "$lte": sum(n <= operand for n in numbers),
            }.items():
                tree = parse_filter({"n": {op: operand}})
                assert tree is not None and memory.can_filter(tree)
                assert memory.count(tree) == expected

    def test_long_lists_of_ids(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch([*rows(3000), Row("bare", None, {}, None)]))
        full = np.array([row.vector for row in rows(3000)])
        for step in (3, 7):
            allowed = [f"id{i}" for i in range(0, 3000, step)]
            tree = IdIn(frozenset([*allowed, "bare", "unknown"]))
            query = prefix(vectors(2, seed=9), COARSE)
            got = memory.coarse_search(query, 50, tree)
            kept = [int(id[2:]) for id in allowed]
            for found, (ids, scores) in zip(
                got, exact_search(query, prefix(full[kept], COARSE), allowed, 50), strict=True
            ):
                assert found.ids == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-6)
            assert memory.count(tree) == len(allowed) + 1
            assert sum(len(part) for part in memory.scan(tree, batch_size=100)) == len(allowed) + 1
            assert len(memory.coarse_search(query, 5000, tree)[0].ids) == len(allowed)


# -- places, versions, processes ---------------------------------------------------------------------------


class TestFolder:
    def test_opening_creates_nothing(self, tmp_path: Path) -> None:
        with open_backend(f"lancedb:{tmp_path / 'kb'}") as backend:
            assert backend.read_manifest() is None
            assert backend.collections() == []
            backend.drop()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_a_place_that_is_not_lancedb_is_refused(self, tmp_path: Path, what: str) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        place = tmp_path / "notes.txt" if what == "file" else tmp_path
        with pytest.raises(NotACollection, match="choose another"):
            open_backend(f"lancedb:{place}")

    @pytest.mark.parametrize("address", ["lancedb:s3://bucket/x", "lancedb+http://localhost:1"])
    def test_what_is_no_folder_is_refused(self, address: str) -> None:
        with pytest.raises(AddressError, match="folder"):
            open_backend(address)

    def test_tables_of_others_are_left_alone(self, tmp_path: Path) -> None:
        theirs = lancedb.connect(tmp_path)
        theirs.create_table("default", pa.table({"x": [1, 2]}))
        with made(f"lancedb:{tmp_path}") as backend:
            backend.upsert(batch(rows(5)))
            assert backend.collections() == ["default"]
            backend.drop()
            assert backend.collections() == []
        assert theirs.open_table("default").count_rows() == 2
        assert sorted(p.name for p in tmp_path.glob("*.lance")) == ["default.lance", "mrl-collections.lance"]

    def test_a_foreign_catalogue_is_refused(self, tmp_path: Path) -> None:
        lancedb.connect(tmp_path).create_table("mrl-collections", pa.table({"x": [1]}))
        with open_backend(f"lancedb:{tmp_path}") as backend:
            for attempt in (backend.read_manifest, lambda: backend.write_manifest(MANIFEST, None), backend.collections):
                with pytest.raises(NotACollection, match="did not make"):
                    attempt()

    def test_a_damaged_manifest_or_file_is_our_error(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as backend:
            backend.upsert(batch(rows(50)))
            catalogue = lancedb.connect(tmp_path).open_table("mrl-collections")
            catalogue.update(values={"manifest": MANIFEST.dumps()[:-40]})
            with pytest.raises(ManifestError):
                backend.read_manifest()
            catalogue.update(values={"manifest": MANIFEST.dumps()})
            backend.read_manifest()
            for file in tmp_path.glob("mrl-rows.*/data/*"):
                file.write_bytes(file.read_bytes()[:100])
        with open_backend(f"lancedb:{tmp_path}") as backend, pytest.raises(BackendError, match="reading rows"):
            backend.get(["id1"])

    def test_settings_are_kept_and_held_to(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", fine_dtype="float16", index="flat") as backend:
            backend.upsert(batch(rows(20)))
        with open_backend(f"lancedb:{tmp_path}", index="flat") as backend:
            assert backend.read_manifest() is not None
            assert backend.capabilities.vector_dtype == "float16" and not backend.capabilities.approximate_coarse
            (row,) = backend.get(["id3"], vectors=True)
            assert row is not None and row.vector is not None
            assert (row.vector == vectors(20)[3].astype(np.float16).astype(np.float32)).all()
        with (
            open_backend(f"lancedb:{tmp_path}", fine_dtype="float32") as backend,
            pytest.raises(CollectionMismatchError, match="float16"),
        ):
            backend.read_manifest()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"index": "best"}, {"coarse_quantization": "int3"}, {"fine_dtype": "int8"}, {"nprobes": 0}, {"nprobes": 2.5},
            {"index_threshold": 3}, {"num_partitions": True}, {"refine_factor": "2"}, {"lock_timeout": -1},
            {"keep_versions": 0}, {"index": "flat", "coarse_quantization": "scalar"},
            {"index": "hnsw", "coarse_quantization": "binary"},
        ],
    )  # fmt: skip
    def test_wrong_options(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            open_backend("lancedb:", **wrong)
        with pytest.raises(InvalidInput, match="colour"):
            open_backend("lancedb:", colour="red")

    def test_the_folder_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", keep_versions=0.001) as backend:
            for i in range(100):
                backend.upsert(batch(rows(20, seed=i)))
                backend.write_manifest(MANIFEST.with_plan({"i": i}), backend.read_manifest())
            assert backend.count() == 20
            assert len(table_of(backend).list_versions()) <= 2 * upkeep._COMMITS
            assert backend.stats().details["files"] <= 2 * upkeep._COMMITS
            assert len(list((tmp_path / "mrl-collections.lance" / "data").iterdir())) <= 40
            backend.flush()
            assert len(list(tmp_path.glob("mrl-rows.*/data/*"))) <= 2
            assert {id for part in backend.scan() for id in part.ids} == {f"id{i}" for i in range(20)}

    def test_older_versions_are_kept_for_those_who_still_read_them(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            a.upsert(batch(rows(3000)))
            reading = b.scan(batch_size=10, vectors=True)
            seen = [*next(reading).ids]
            a.upsert(batch(rows(3000, seed=5)))
            a.flush()
            a.delete([f"id{i}" for i in range(3000)])
            a.flush()
            seen += [id for part in reading for id in part.ids]
            assert len(seen) == 3000 == len(set(seen))
            assert b.count() == 0

    def test_dropped_and_made_again_by_somebody_else(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            a.upsert(batch(rows(30)))
            assert b.count() == 30
            a.drop()
            for attempt in (b.count, lambda: b.get(["id1"]), lambda: b.upsert(batch(rows(1))), b.stats):
                with pytest.raises(CollectionNotFound):
                    attempt()
            a.write_manifest(MANIFEST, None)
            a.upsert(batch(rows(7)))
            assert b.count() == 7 and b.get(["id6"])[0] is not None
            assert len(list(tmp_path.glob("mrl-rows.*.lance"))) == 1

    def test_leftovers_of_a_killed_process_are_removed(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as backend:
            backend.upsert(batch(rows(5)))
            other = made(f"lancedb:{tmp_path}?collection=other")
            lancedb.connect(tmp_path).create_table("mrl-rows.0123456789ab.default", pa.table({"x": [1]}))
            (data,) = (p / "data" for p in tmp_path.glob("mrl-rows.*.default.lance") if "0123456789ab" not in p.name)
            (data / "never-committed.lance").write_bytes(b"half a file")
            backend.repair()
            assert sorted(p.name.split(".")[2] for p in tmp_path.glob("mrl-rows.*")) == ["default", "other"]
            assert not (data / "never-committed.lance").exists()
            assert backend.count() == 5
            other.close()

    def test_the_manifest_is_compared_and_set_between_two(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            before = b.read_manifest()
            changed = MANIFEST.with_plan({"x": 1})
            a.write_manifest(changed, MANIFEST)
            with pytest.raises(ConflictError):
                b.write_manifest(MANIFEST.with_plan({"x": 2}), before)
            assert (b.read_manifest() or MANIFEST).checksum == changed.checksum

    def test_a_writer_waits_for_another_and_says_so(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}", lock_timeout=0.05) as b:
            with a._writing(), pytest.raises(LockTimeout, match="lock_timeout"):
                b.upsert(batch(rows(1)))
            b.upsert(batch(rows(1)))
        with made("lancedb:", lock_timeout=0.05) as alone, alone._writing():
            failures: list[BaseException] = []

            def write() -> None:
                try:
                    alone.upsert(batch(rows(1)))
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            assert isinstance(failures[0], LockTimeout)


WRITER = """
import sys
import numpy as np
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.registry import open_backend

address, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_backend(address, keep_versions=0.001) as backend:
    for round in range(rounds):
        ids = [f"{round}-{i}" for i in range(20)]
        full = normalize(np.random.default_rng(round).normal(size=(20, 24)))
        texts = [f"{name} {id}" for id in ids]
        backend.upsert(RowBatch(ids, texts, [{"by": name, "round": round}] * 20, full, np.ones(20, bool)))
        print(round, flush=True)
"""


def writer(address: str, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, address, name, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class TestProcesses:
    def test_two_writers_of_the_same_ids_leave_each_once(self, tmp_path: Path) -> None:
        """Without the lock LanceDB takes both for additions."""
        address = f"lancedb:{tmp_path}"
        with made(address) as backend:
            writers = [writer(address, name, 30) for name in ("one", "two")]
            seen = 0
            while any(process.poll() is None for process in writers):
                now = backend.count()
                assert now >= seen and now % 20 == 0
                seen = now
            for process in writers:
                out, errors = process.communicate()
                assert process.returncode == 0 and len(out.split()) == 30, errors
            stored = [row for part in backend.scan() for row in part.rows()]
            assert len(stored) == 600 == len({row.id for row in stored})
            assert all(row.document == f"{row.metadata['by']} {row.id}" for row in stored)

    @pytest.mark.parametrize("round", range(3))
    def test_what_was_acknowledged_survives_a_kill(self, tmp_path: Path, round: int) -> None:
        address = f"lancedb:{tmp_path}"
        with made(address):
            pass
        process = writer(address, "killed", 10_000)
        assert process.stdout is not None and process.stderr is not None
        acknowledged = [process.stdout.readline()]
        end = time.monotonic() + 0.3 + 0.45 * round
        while time.monotonic() < end:
            acknowledged.append(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged += rest.splitlines(keepends=True)
        done = [int(line) for line in acknowledged if line.endswith("\n")]
        with open_backend(address) as backend:
            counts: dict[int, int] = {}
            full = normalize(np.zeros((1, DIM), np.float32))
            for part in backend.scan(vectors=True):
                for row in part.rows():
                    number, i = map(int, row.id.split("-"))
                    counts[number] = counts.get(number, 0) + 1
                    full = normalize(np.random.default_rng(number).normal(size=(20, 24)))
                    assert row.document == f"killed {row.id}" and row.metadata == {"by": "killed", "round": number}
                    assert row.vector is not None and (row.vector == full[i]).all()
            assert set(done) <= set(counts) <= set(range(len(done) + 1))
            assert set(counts.values()) == {20}
            last = normalize(np.random.default_rng(done[-1]).normal(size=(20, 24)))
            assert backend.coarse_search(prefix(last[:1], COARSE), 1, None)[0].ids == [f"{done[-1]}-0"]
            backend.repair()
            backend.upsert(batch(rows(3)))
            assert backend.count() == 20 * len(counts) + 3

    def test_a_child_forked_after_the_first_use_is_refused(self, tmp_path: Path) -> None:
        """LanceDB itself crashes such a child now and then."""
        with made(f"lancedb:{tmp_path}") as backend:
            backend.upsert(batch(rows(10)))
        program = f"""
import os, warnings
warnings.simplefilter("ignore", RuntimeWarning)  # lancedb's own, at every fork
from mrl_retrieval.errors import BackendError
from mrl_retrieval.registry import open_backend
place = "lancedb:{tmp_path}"
with open_backend(place) as backend:
    assert backend.count() == 10
    child = os.fork()
    if not child:
        refused = 0
        calls = [backend.count, lambda: backend.delete(["id0"]), lambda: list(backend.scan()), backend.drop,
                 lambda: backend.get(["id0"]), backend.read_manifest, lambda: open_backend(place), backend.flush]
        for call in calls:
            try:
                call()
            except BackendError as error:
                refused += "spawn" in str(error)
        backend.close()
        os._exit(0 if refused == len(calls) else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    assert backend.delete(["id0"]) == 1 and backend.count() == 9
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


# -- the index over the prefixes ---------------------------------------------------------------------------

INDEXES = [
    {"index": "auto"},
    {"index": "ivf", "coarse_quantization": "scalar", "nprobes": 2},
    {"index": "ivf", "coarse_quantization": "product"},
    {"index": "ivf", "coarse_quantization": "binary"},
    {"index": "hnsw"},
    {"index": "hnsw", "coarse_quantization": "scalar", "num_partitions": 2},
    {"index": "hnsw", "coarse_quantization": "product"},
]


class TestIndex:
    @pytest.mark.parametrize("options", INDEXES, ids=lambda o: "-".join(map(str, o.values())))
    def test_rows_are_found_before_and_after_they_are_indexed(self, options: dict[str, Any]) -> None:
        stored = rows(600)
        with made("lancedb:", index_threshold=400, **options) as backend:
            backend.upsert(batch(stored[:300]))
            assert backend.stats().details["index"] == "flat"
            backend.upsert(batch(stored[300:500]))
            kind = backend.stats().details["index"]
            assert kind.startswith("ivf") and ("hnsw" in kind) == (options["index"] == "hnsw")
            backend.upsert(batch([*stored[500:], Row("bare", "b", {"third": 0}, None)]))
            self.check(backend, stored)
            backend.delete([row.id for row in stored[:100]])
            self.check(backend, stored[100:])
            backend.flush()
            self.check(backend, stored[100:])

    def check(self, backend: LanceDBBackend, stored: list[Row]) -> None:
        full = np.array([row.vector for row in stored])
        ids = [row.id for row in stored]
        queries = vectors(20, seed=8)
        short = prefix(full, COARSE)
        truth = exact_search(prefix(queries, COARSE), short, ids, 30)
        share = []
        for found, (expected, _) in zip(backend.coarse_search(prefix(queries, COARSE), 30, None), truth, strict=True):
            assert len(found.ids) == 30
            share.append(len(set(found.ids) & set(expected)) / 30)
        assert np.mean(share) >= 0.9
        # Scores are those of the stored prefixes, whatever the index holds.
        at = {id: i for i, id in enumerate(ids)}
        np.testing.assert_allclose(
            found.scores, [prefix(queries[-1:], COARSE)[0] @ short[at[id]] for id in found.ids], atol=1e-6
        )
        for tree in (parse_filter({"third": 1}), parse_filter({"i": {"$gte": 590}})):
            expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
            for limit in (3, 1000):
                got = backend.coarse_search(prefix(queries[:2], COARSE), limit, tree)
                assert [len(found.ids) for found in got] == [min(limit, len(expected))] * 2
                assert all(set(found.ids) <= expected for found in got)
        assert len(backend.coarse_search(prefix(queries[:1], COARSE), 10**9, None)[0].ids) == len(stored)

    def test_an_index_is_made_anew_when_the_collection_has_outgrown_it(self, memory: LanceDBBackend) -> None:
        with made("lancedb:", index="ivf", index_threshold=256) as backend:
            backend.upsert(batch(rows(300)))
            assert upkeep.vector_index(table_of(backend)) == ("coarse_300", 300)
            backend.upsert(batch(rows(1000, before="more")))
            backend.flush()
            assert upkeep.vector_index(table_of(backend)) == ("coarse_1300", 1300)

    def test_vectors_are_fetched_in_the_asked_order(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch([*rows(6000), Row("bare", None, {}, None)]))
        asked = ["id7", "nobody", "id7", "bare", *(f"id{i}" for i in reversed(range(6000)))]
        got, found = memory.fetch_vectors(asked)
        full = vectors(6000)
        assert found.tolist() == [True, False, True, False] + [True] * 6000
        assert (got[[0, 2]] == full[7]).all() and not got[[1, 3]].any() and (got[4:] == full[::-1]).all()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("queries", [1, 9])
    def test_many_queries_at_once_are_answered_as_each_alone(self, dtype: str, queries: int) -> None:
        """From a few queries on, all vectors are read once instead."""
        with made("lancedb:", index="flat", fine_dtype=dtype) as backend:
            backend.upsert(batch([*rows(9000), Row("bare", None, {}, None)]))
            stored = [row for part in backend.scan(vectors=True) for row in part.rows() if row.vector is not None]
            full, ids = np.array([row.vector for row in stored]), [row.id for row in stored]
            asked = vectors(queries, seed=2)
            asked[0] = 0
            for dims, search in ((COARSE, backend.coarse_search), (DIM, backend.exact_search)):
                for tree in (None, parse_filter({"i": {"$lt": 8500}}), IdIn(frozenset(ids[:5000]))):
                    kept = [i for i, row in enumerate(stored) if matches(tree, row.id, row.metadata)]
                    truth = exact_search(asked, full[kept], [ids[i] for i in kept], 20, dim=dims)
                    for found, (expected, scores) in zip(search(prefix(asked, dims), 20, tree), truth, strict=True):
                        np.testing.assert_allclose(found.scores, scores, atol=2e-6)
                        assert found.ids == expected or not scores.any()

    def test_a_whole_search_equals_the_oracle_where_there_is_no_index(self, memory: LanceDBBackend) -> None:
        stored = rows(300)
        queries = vectors(7, seed=1)
        memory.upsert(batch(stored))
        expected = exact_search(queries, np.array([row.vector for row in stored]), [row.id for row in stored], 10)
        for stages in [(Stage(COARSE, 300), Stage(DIM, 10)), (Stage(DIM, 10),)]:
            for ranking, (ids, scores) in zip(memory.search(SearchRequest(queries, stages)), expected, strict=True):
                assert [row.id for row in ranking.rows] == ids
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)


# -- failures ----------------------------------------------------------------------------------------------


class PanicException(BaseException):
    """Named as PyO3's, which is no Exception either."""


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (PanicException("index out of bounds"), "open the collection again"),
            (OSError(errno.ENOSPC, "No space left on device"), "make room"),
            (RuntimeError("lance error: LanceError(IO): ... No space left on device (os error 28)"), "make room"),
            (RuntimeError("lance error: ... Permission denied (os error 13)"), "give this process the right"),
            (ValueError("Invalid input, whatever"), "Invalid input, whatever"),
        ],
    )
    def test_lancedbs_errors_are_ours_with_its_words(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch, error: BaseException, remedy: str
    ) -> None:
        memory.upsert(batch(rows(5)))

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        table = table_of(memory)
        for name in ("merge_insert", "search", "delete", "count_rows"):
            monkeypatch.setattr(table, name, fail)
        calls = [
            lambda: memory.upsert(batch(rows(1))),
            lambda: memory.delete(["id1"]),
            lambda: memory.get(["id1"]),
            lambda: memory.coarse_search(vectors(1, dim=COARSE), 3, None),
            lambda: list(memory.scan()),
            lambda: memory.fetch_vectors(["id1"]),
            memory.count,
            memory.stats,
        ]
        for call in calls:
            with pytest.raises(BackendError, match=re.escape(remedy)) as raised:
                call()
            assert raised.value.__cause__ is error

    def test_an_interrupt_is_not_swallowed(self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*args: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(table_of(memory), "count_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.count()

    def test_a_commit_stands_when_tidying_up_fails(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(self: upkeep.Upkeep) -> None:
            raise RuntimeError("no room for an index")

        monkeypatch.setattr(upkeep.Upkeep, "if_due", fail)
        memory.upsert(batch(rows(5)))
        assert memory.count() == 5 and "no room for an index" in caplog.text

    def test_after_close(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(5)))
        memory.close()
        memory.close()
        with pytest.raises(BackendError, match="closed"):
            memory.count()

    def test_a_failed_batch_leaves_nothing(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(5)))
        good = batch(rows(50, before="new"))
        wrong = RowBatch(
            good.ids, good.documents, [*good.metadatas[:-1], {"x": object()}], good.vectors, good.has_vector
        )
        with pytest.raises((BackendError, TypeError)):
            memory.upsert(wrong)
        assert memory.count() == 5

    def test_threads_read_while_others_write_and_tidy_up(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", index="flat") as backend:
            backend.upsert(batch(rows(200)))
            stop = threading.Event()
            failures: list[BaseException] = []
            query = prefix(vectors(1, seed=3), COARSE)

            def look() -> None:
                try:
                    while not stop.is_set():
                        assert len(backend.coarse_search(query, 150, parse_filter({"i": {"$lt": 150}}))[0].ids) == 150
                        assert all(backend.get(["id1", "id149"]))
                        assert backend.count() >= 150
                except BaseException as error:
                    failures.append(error)

            def write(name: str) -> None:
                try:
                    for i in range(8):
                        backend.upsert(batch(rows(20, seed=i, before=name)))
                        backend.upsert(batch(rows(150)))
                        assert backend.delete([f"{name}{j}" for j in range(20)]) == 20
                        backend.flush()
                except BaseException as error:
                    failures.append(error)

            readers = [threading.Thread(target=look) for _ in range(4)]
            writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
            for thread in [*readers, *writers]:
                thread.start()
            for thread in writers:
                thread.join()
            stop.set()
            for thread in readers:
                thread.join()
            assert not failures, failures[0]
            assert backend.count() == 200
            assert json.dumps(backend.get(["id7"])[0].metadata) == '{"i": 7, "third": 1}'  # type: ignore[union-attr]


def test_the_table_can_be_read_by_lancedb_alone(tmp_path: Path) -> None:
    """The layout that docs/lancedb.md describes."""
    with made(f"lancedb:{tmp_path}") as backend:
        backend.upsert(batch([*rows(3), Row("bare", None, {"a": [1]}, None)]))
    db = lancedb.connect(tmp_path, read_consistency_interval=timedelta(0))
    (entry,) = db.open_table("mrl-collections").search().to_list()
    assert entry["name"] == "default" and Manifest.loads(entry["manifest"]).checksum == MANIFEST.checksum
    stored = {row["id"]: row for row in db.open_table(entry["rows"]).search().to_list()}
    assert json.loads(stored["bare"]["metadata"]) == {"a": [1]} and stored["bare"]["full"] is None
    assert np.allclose(stored["id1"]["full"], vectors(3)[1]) and len(stored["id1"]["coarse"]) == COARSE


@pytest.mark.parametrize("package", ["lancedb", "pyarrow"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mrl_retrieval import open_backend\n"
        "try:\n    open_backend('lancedb:')\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("MissingExtra") and "mrl-retrieval[lancedb]" in done.stdout
