"""A folder: what is ours in it, and what is left alone or refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

import lancedb
import pyarrow as pa

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    ConflictError,
    ManifestError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from tests.backends.lancedb.helpers import COARSE, MANIFEST, batch, made, rows, vectors
from tests.backends.nobody import reachable_folder, without_privileges


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
        if what == "file":
            with pytest.raises(NotACollection, match="is a file, or in one"):
                open_backend(f"lancedb:{place}/kb")

    def test_a_folder_without_permission(self) -> None:
        with reachable_folder() as reachable:
            closed = reachable / "closed"
            closed.mkdir(mode=0)
            with without_privileges():
                for path in (closed, closed / "kb"):
                    with pytest.raises(BackendError, match=f"{path}.*the right to read and write") as caught:
                        open_backend(f"lancedb:{path}")
                    assert isinstance(caught.value.__cause__, PermissionError)

    def test_a_path_that_no_system_takes(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        for path, words in ((tmp_path / ("x" * 300), "too long"), (tmp_path / "loop", "symbolic links")):
            with pytest.raises(BackendError, match=words):
                open_backend(f"lancedb:{path}")

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

    def test_the_manifest_is_compared_and_set_between_two(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            before = b.read_manifest()
            changed = MANIFEST.with_plan({"x": 1})
            a.write_manifest(changed, MANIFEST)
            with pytest.raises(ConflictError):
                b.write_manifest(MANIFEST.with_plan({"x": 2}), before)
            assert (b.read_manifest() or MANIFEST).checksum == changed.checksum


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
