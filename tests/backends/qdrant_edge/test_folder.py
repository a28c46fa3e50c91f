"""What lies in the folder of a qdrant-edge collection: ours, damaged, unfinished, or somebody else's."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge

from mrl_adapters._qdrant.filters import point_id
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    CollectionNotFound,
    ManifestError,
    NewerFormatError,
    NotACollection,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from tests.backends.common import COARSE, batch_of, manifest, queries
from tests.backends.nobody import reachable_folder, without_privileges
from tests.backends.qdrant.helpers import filled


def test_a_temporary_collection_is_gone_after_closing() -> None:
    with filled("qdrant-edge:", 3) as one, filled("qdrant-edge:", 5) as other:
        assert (one.count(), other.count()) == (3, 5)
        place = one._place
        assert place is not None and place.exists()
    assert not place.exists()
    with pytest.raises(BackendError, match="was closed"):
        one.count()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("{}", NotACollection),
        ("[1", NotACollection),
        ('{"format": "mrl-qdrant-edge", "version": 2}', NewerFormatError),
    ],
)
def test_a_marker_of_something_else_is_refused(tmp_path: Path, said: str, kind: type[Exception]) -> None:
    (tmp_path / "mrl-qdrant-edge.json").write_text(said)
    with pytest.raises(kind):
        open_backend(f"qdrant-edge:{tmp_path}")


def test_files_of_somebody_else_are_not_dropped(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3) as backend:
        (tmp_path / "kb" / "default" / "notes.txt").write_text("mine")
        with pytest.raises(NotACollection, match=r"notes\.txt"):
            backend.drop()
        assert backend.count() == 3
        (tmp_path / "kb" / "mine").mkdir()
        (tmp_path / "kb" / "mine" / "x").write_text("")
        assert backend.collections() == ["default"]
        with open_backend(f"qdrant-edge:{tmp_path}/kb?collection=mine") as other:
            for call in (other.read_manifest, lambda: other.write_manifest(manifest(), None), other.drop):
                with pytest.raises(NotACollection):
                    call()
    assert (tmp_path / "kb" / "mine" / "x").exists()


def test_what_an_interrupted_drop_left_is_no_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with filled(f"qdrant-edge:{tmp_path}/kb", 3) as backend, filled(f"qdrant-edge:{tmp_path}/kb?collection=b", 2) as b:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shutil, "rmtree", interrupted)
            backend.drop()
        (left,) = (tmp_path / "kb").glob(".dropped-*")
        assert (left / "collection.json").exists()
        assert backend.collections() == b.collections() == ["b"]
        assert backend.read_manifest() is None
        backend.write_manifest(manifest(), None)
        backend.drop()
        assert not left.exists() and b.count() == 2


def test_collections_of_somebody_else_are_not_listed() -> None:
    with reachable_folder() as reachable:
        place = reachable / "kb"
        with filled(f"qdrant-edge:{place}", 1) as backend, filled(f"qdrant-edge:{place}?collection=b", 1):
            (place / "b").chmod(0)
            with without_privileges():
                assert backend.collections() == ["default"]
            place.chmod(0o711)
            with without_privileges(), pytest.raises(BackendError, match=f"listing {place} is not allowed"):
                backend.collections()
            place.chmod(0o755)
            (place / "b").chmod(0o755)
            (place / "closed").mkdir(mode=0o711)
            with (
                open_backend(f"qdrant-edge:{place}?collection=closed") as closed,
                without_privileges(),
                pytest.raises(BackendError, match=r"closed is not allowed: no permission to read"),
            ):
                closed.read_manifest()


def test_no_temporary_folder_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with open_backend("qdrant-edge:") as backend, pytest.raises(BackendError, match="making a temporary folder"):
        backend.write_manifest(manifest(), None)


def test_how_it_lies_in_the_folder(tmp_path: Path) -> None:
    """The documented layout, read with Qdrant's own library."""
    meta = {"year": 2020, "by": {"name": "Ada"}}
    with filled(f"qdrant-edge:{tmp_path}/kb?collection=notes", index_fields={"year": "integer"}) as backend:
        backend.upsert(batch_of([Row("doc-1", "text", meta, queries(1)[0]), Row("doc-2", None, {}, None)]))
    place = tmp_path / "kb"
    assert {path.name for path in place.iterdir()} == {"mrl-qdrant-edge.json", "notes"}
    assert {path.name for path in (place / "notes").iterdir()} == {"collection.json", "lock", "shard"}
    shard = qdrant_edge.EdgeShard.load(str(place / "notes" / "shard"))
    try:
        one, two = shard.retrieve([point_id("doc-1"), point_id("doc-2")], with_payload=True, with_vector=True)
        assert one.payload["metadata"] == meta
        np.testing.assert_allclose(one.vector["coarse"], prefix(queries(1), COARSE)[0], atol=1e-6)
        assert set(one.vector) == {"coarse", "prefix_12", "full"}
        assert not two.vector
        assert set(shard.info().payload_schema) == {"_mrl_tags", "_mrl_id", "metadata.year"}
    finally:
        shard.close()


def test_an_interrupted_creation_is_begun_again(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    (tmp_path / "kb" / "default" / "collection.json").unlink()
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        with pytest.raises(CollectionNotFound):
            backend.count()
        backend.write_manifest(manifest(), None)
        assert backend.count() == 0


def test_a_damaged_collection_is_a_typed_error(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 50):
        pass
    folder = tmp_path / "kb" / "default"
    config = folder / "shard" / "edge_config.json"
    kept = config.read_bytes()
    config.write_bytes(kept[: len(kept) // 2])
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend, pytest.raises(BackendError, match="opening the shard"):
        backend.count()
    config.write_bytes(kept)
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        assert backend.count() == 50
    for said in (b"", b"{}", b'{"manifest": "x", "coarse_quantization": "none"}'):
        (folder / "collection.json").write_bytes(said)
        with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend, pytest.raises(ManifestError):
            backend.read_manifest()


def test_indexes_that_are_missing_are_made_by_repair(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 5):
        pass
    with filled(f"qdrant-edge:{tmp_path}/kb", index_fields={"n": "integer"}) as backend:
        schema = backend._run("", lambda shard: shard.info().payload_schema)
        assert "metadata.n" not in schema
        backend.repair()
        backend.repair()
        schema = backend._run("", lambda shard: shard.info().payload_schema)
        assert schema["metadata.n"].data_type == qdrant_edge.PayloadSchemaType.Float
        assert backend.count(parse_filter({"n": {"$gte": 3}})) == 2
