"""Attachments as files beside the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("qdrant_edge", reason="qdrant-edge is not installed: pip install 'mrl-retrieval[qdrant-edge]'")

from mrl_retrieval.errors import BackendError, CorruptionError
from mrl_retrieval.registry import open_backend
from tests.backends.common import manifest


def test_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "kb" / "default"
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        backend.write_manifest(manifest(), None)
        assert not (folder / "attachments").exists()
        backend.write_attachment("Rotation-2", b"12")
        backend.write_attachment("rotation-2", b"3")
        assert sorted(p.name for p in (folder / "attachments").iterdir()) == ["_rotation-2.bin", "rotation-2.bin"]
        left = folder / "attachments" / ".tmp-rotation-2.bin-1-abc"
        left.write_bytes(b"1")  # as a killed writer would
        assert backend.read_attachment("Rotation-2") == b"12"
        backend.repair()
        assert not left.exists() and backend.read_attachment("rotation-2") == b"3"
        backend.drop()
        assert not folder.exists()


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "kb" / "default" / "attachments" / "rotation.bin"
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        backend.write_manifest(manifest(), None)
        backend.write_attachment("rotation", b"0123456789")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptionError, match="'rotation'"):
            backend.read_attachment("rotation")
        path.unlink()
        path.mkdir()
        with pytest.raises(BackendError):
            backend.read_attachment("rotation")


def test_what_is_left_of_a_collection_without_a_manifest_is_not_taken_up(tmp_path: Path) -> None:
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        backend.write_manifest(manifest(), None)
        backend.write_attachment("rotation", b"old")
    (tmp_path / "kb" / "default" / "collection.json").unlink()
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        assert backend.read_attachment("rotation") is None
        backend.write_manifest(manifest(), None)
        assert backend.read_attachment("rotation") is None
