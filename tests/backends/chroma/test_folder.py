"""A folder: opened, shared within the process, closed; and what is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

import chromadb
from chromadb.config import Settings
from chromadb.errors import InternalError

from mrl_retrieval.errors import (
    BackendError,
    NotACollection,
)
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from tests.backends.chroma.helpers import MANIFEST, Failing, made, rows, vectors
from tests.backends.common import COARSE, batch_of


def test_opening_creates_nothing(tmp_path: Path) -> None:
    with open_backend(f"chroma:{tmp_path / 'kb'}") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        backend.drop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_place_that_is_not_chroma_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    place = tmp_path / "notes.txt" if what == "file" else tmp_path
    with pytest.raises(NotACollection, match="choose another"):
        open_backend(f"chroma:{place}")


def test_a_damaged_database_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"this is no database" * 100)
    with open_backend(f"chroma:{tmp_path}") as backend, pytest.raises(BackendError, match="connecting"):
        backend.read_manifest()


def test_a_failed_opening_leaves_nothing_behind(tmp_path: Path) -> None:
    """Chroma remembers what it could not start, and would say of it that it has no bindings."""
    place = tmp_path / "kb"
    database = place / "chroma.sqlite3"
    for _ in range(3):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        database.write_bytes(b"this is no database" * 100)
        with open_backend(f"chroma:{place}") as backend:
            for _ in range(2):
                with pytest.raises(BackendError, match="not a database"):
                    backend.read_manifest()
            database.unlink()
            backend.write_manifest(MANIFEST, None)
            backend.upsert(batch_of(rows(3)))
        with open_backend(f"chroma:{place}") as backend:
            assert backend.count() == 3


def test_a_failed_opening_of_the_users_own_is_not_joined(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(InternalError):
        chromadb.PersistentClient(tmp_path / ".." / tmp_path.name)
    with open_backend(f"chroma:{tmp_path}") as backend:
        with pytest.raises(BackendError, match="not a database"):
            backend.read_manifest()
        (tmp_path / "chroma.sqlite3").unlink()
        backend.write_manifest(MANIFEST, None)
        assert backend.count() == 0


@pytest.mark.parametrize(
    "words",
    [
        "Permission denied (os error 13)",
        "error returned from database: (code: 1544) attempt to write a readonly database",
        "error returned from database: (code: 14) unable to open database file",
        "Read-only file system (os error 30)",
    ],
)
def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """In Chroma's own words, since for root there is no such folder."""

    def refuse(*_: object, **__: object) -> None:
        raise InternalError(words)

    monkeypatch.setattr(chromadb, "PersistentClient", refuse)
    with open_backend(f"chroma:{tmp_path / 'kb'}") as backend:
        with pytest.raises(BackendError, match=f"{tmp_path / 'kb'} .*check the permissions") as caught:
            backend.write_manifest(MANIFEST, None)
        assert words in str(caught.value)


def test_a_folder_that_cannot_even_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    backend = open_backend(f"chroma:{tmp_path}")
    monkeypatch.setattr(Path, "is_file", refuse)
    for attempt in (backend.read_manifest, lambda: open_backend(f"chroma:{tmp_path}")):
        with pytest.raises(BackendError, match=f"{tmp_path} .*check the permissions"):
            attempt()


def test_close_releases_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with made(f"chroma:{tmp_path / 'kb'}") as backend:
            backend.upsert(batch_of(rows(10)))
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.count()
        with open_backend(f"chroma:{tmp_path / 'kb'}") as again:
            assert again.count() == 10
            assert again.capabilities.persistent
        shutil.rmtree(tmp_path / "kb")


def test_two_backends_and_a_client_of_the_user_see_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = chromadb.PersistentClient("kb", settings=Settings(allow_reset=True))
    try:
        with made("chroma:./kb") as a, open_backend(f"chroma:{tmp_path}/kb/../kb") as b:
            a.upsert(batch_of(rows(20)))
            b.upsert(batch_of([replace(row, id=f"b{row.id}") for row in rows(20, seed=5)]))
            query = prefix(vectors(1, seed=2), COARSE)
            assert len(a.coarse_search(query, 100, None)[0].ids) == 40
            assert a.coarse_search(query, 100, None)[0].ids == b.coarse_search(query, 100, None)[0].ids
            assert len(theirs.list_collections()) == 2
    finally:
        theirs.close()


def test_every_address_is_a_world_of_its_own() -> None:
    theirs = chromadb.EphemeralClient(settings=Settings(allow_reset=True))
    try:
        with made("chroma:") as a, made("chroma::memory:") as b:
            a.upsert(batch_of(rows(3)))
            assert (a.count(), b.count(), theirs.list_collections()) == (3, 0, [])
            assert not a.capabilities.persistent
        with open_backend("chroma:") as c:
            assert c.read_manifest() is None
    finally:
        theirs.close()


def test_a_panic_is_our_error_and_an_interruption_is_none(tmp_path: Path) -> None:
    """Those of Chroma's Rust are of this name, and of no class that could be imported."""
    panic = type("PanicException", (BaseException,), {})
    with made(f"chroma:{tmp_path}") as backend:
        whole = backend._pair()
        backend._collections._pair = replace(whole, coarse=Failing(whole.coarse, "count", panic("index out of range")))
        with pytest.raises(BackendError, match="PanicException: index out of range"):
            backend.count()
        backend._collections._pair = replace(whole, coarse=Failing(whole.coarse, "count", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            backend.count()
        assert backend.count() == 0


def test_files_that_vanish_have_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(f"chroma:{tmp_path}") as backend:
        before = backend.stats().details["folder_bytes"]
        (tmp_path / "chroma.sqlite3-journal").symlink_to("gone")
        monkeypatch.setattr(Path, "is_file", lambda _: True)  # it was, a moment ago
        assert backend.stats().details["folder_bytes"] == before > 0
