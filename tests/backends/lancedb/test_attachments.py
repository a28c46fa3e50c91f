"""Attachments in a LanceDB table beside that of the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.registry import open_backend
from tests.backends.common import manifest


def opened(path: Path, **options: object) -> LanceDBBackend:
    backend = open_backend(f"lancedb:{path}/kb", **options)
    assert isinstance(backend, LanceDBBackend)
    return backend


def tables(backend: LanceDBBackend) -> list[str]:
    return [name for name in backend._database.table_names() if name != "mrl-collections"]


def test_its_table_comes_with_the_first_and_goes_with_the_collection(tmp_path: Path) -> None:
    with opened(tmp_path) as backend:
        backend.write_manifest(manifest(), None)
        assert len(tables(backend)) == 1
        backend.write_attachment("rotation", b"1")
        attachments, rows = tables(backend)
        assert attachments == rows.replace("mrl-rows.", "mrl-attachments.")
        kept = backend.read_manifest()
        assert kept is not None
        backend.write_manifest(kept.with_plan({"coarse_top_k": 5}), kept)
        backend._database.connection().create_table("mrl-attachments.0123456789ab.default", data=[{"name": "a"}])
        backend.repair()  # the table is of an interrupted drop
        assert tables(backend) == [attachments, rows] and backend.read_attachment("rotation") == b"1"
        backend.drop()
        assert tables(backend) == []


def test_old_contents_go(tmp_path: Path) -> None:
    with opened(tmp_path, keep_versions=0.001) as backend:
        backend.write_manifest(manifest(), None)
        for i in range(6):
            backend.write_attachment("rotation", bytes([i]) * 2_000_000)
        assert backend.read_attachment("rotation") == bytes([5]) * 2_000_000
        (folder,) = (tmp_path / "kb").glob("mrl-attachments.*")
        assert sum(file.stat().st_size for file in folder.rglob("*.lance")) < 5_000_000


def test_damage_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as backend:
        backend.write_manifest(manifest(), None)
        backend.write_attachment("rotation", b"0123456789")
        table = backend._database.open_table(tables(backend)[0])
        assert table is not None
        table.update(where="name = 'rotation'", values={"content": b"0" * 42})
        with pytest.raises(CorruptionError, match="'rotation'"):
            backend.read_attachment("rotation")
