"""Versions of a table: how many are kept, who still reads them, and tables that somebody else removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

import lancedb
import pyarrow as pa

from mrl_adapters._lancedb import upkeep
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.errors import (
    CollectionNotFound,
)
from mrl_retrieval.registry import open_backend
from tests.backends.lancedb.helpers import MANIFEST, batch, made, newest_table, rows


class TestVersions:
    def test_the_folder_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", keep_versions=0.001) as backend:
            for i in range(100):
                backend.upsert(batch(rows(20, seed=i)))
                backend.write_manifest(MANIFEST.with_plan({"i": i}), backend.read_manifest())
            assert backend.count() == 20
            assert len(newest_table(backend).list_versions()) <= 2 * upkeep._COMMITS
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

    def test_a_table_that_another_thread_forgets_is_looked_up_again(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As ``read_manifest`` of another thread does, here after every single look at it."""
        known: list[Any] = []

        def look(_: LanceDBBackend) -> Any:
            return known.pop() if known else None

        monkeypatch.setattr(
            LanceDBBackend, "_current", property(look, lambda _, found: known.append(found)), raising=False
        )
        for i in range(3):
            memory.upsert(batch(rows(5 + i)))
            assert memory.count() == 5 + i == sum(len(part) for part in memory.scan())

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
