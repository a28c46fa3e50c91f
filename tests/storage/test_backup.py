"""A collection in one file, and back."""

import io
import json
import tarfile
import threading

import numpy as np
import pytest

from mrl_retrieval.errors import ConflictError, CorruptionError, MRLError, NewerFormatError, NotACollection
from mrl_retrieval.storage import Store, collection_names


@pytest.fixture
def filled(open_store, manifest, batch):
    store = open_store(segment_bytes=10 * 32)
    store.write_manifest(manifest, None)
    store.upsert(batch(*[f"a{i}" for i in range(25)], bare=("a3",)))
    store.upsert(batch("a1", "a2"))
    store.delete(["a0"])
    return store


def rows_of(store):
    with store.snapshot() as snapshot:
        pages = snapshot.batches(None, vectors=True, documents=True, batch_size=10)
        return {
            row.id: (row.document, row.metadata, None if row.vector is None else row.vector.tolist())
            for page in pages
            for row in page.rows()
        }


def test_there_and_back(filled, open_store, batch, tmp_path, manifest):
    expected = rows_of(filled)
    report = filled.backup(tmp_path / "kb.tar")
    assert (report.rows, report.vectors, report.bytes) == (24, 23, (tmp_path / "kb.tar").stat().st_size)
    assert report.path == tmp_path / "kb.tar"
    filled.upsert(batch("later"))
    restored = Store.restore(tmp_path / "kb.tar", tmp_path / "new" / "place", "other")
    assert (restored.rows, restored.vectors) == (24, 23) and restored.path == tmp_path / "new" / "place" / "other"
    assert collection_names(tmp_path / "new" / "place") == ["other"]
    assert [p.name for p in (tmp_path / "new" / "place").iterdir() if p.name.startswith(".")] == []
    store = open_store(path=tmp_path / "new" / "place", collection="other")
    assert store.read_manifest() == manifest
    assert rows_of(store) == expected and store.verify().ok
    store.upsert(batch("later", "a5"))
    store.compact()
    assert rows_of(store).keys() == expected.keys() | {"later"} and store.verify().ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kb", "kb.tar", "new"]


def test_it_is_an_ordinary_tar(filled, tmp_path):
    filled.backup(tmp_path / "kb.tar")
    with tarfile.open(tmp_path / "kb.tar", "r:") as archive:
        names = archive.getnames()
        about = json.load(archive.extractfile("mrl-backup.json"))
    assert names == [
        "store.sqlite",
        "segments/000001.seg",
        "segments/000002.seg",
        "segments/000003.seg",
        "mrl-backup.json",
    ]
    assert about["format"] == "mrl-backup" and about["files"].keys() == set(names[:-1])


def test_nothing_is_overwritten_unasked(filled, tmp_path):
    (tmp_path / "kb.tar").write_text("mine")
    with pytest.raises(ConflictError, match="overwrite"):
        filled.backup(tmp_path / "kb.tar")
    assert (tmp_path / "kb.tar").read_text() == "mine"
    filled.backup(tmp_path / "kb.tar", overwrite=True)
    for place in (filled.files.store, tmp_path / "two"):
        if place == tmp_path / "two":
            Store.restore(tmp_path / "kb.tar", place, "default")
        before = sorted((p.name, p.stat().st_mtime_ns) for p in (place / "default").iterdir())
        with pytest.raises(ConflictError, match="expected none"):
            Store.restore(tmp_path / "kb.tar", place, "default")
        assert sorted((p.name, p.stat().st_mtime_ns) for p in (place / "default").iterdir()) == before


def test_a_stranger_is_not_restored_into(filled, tmp_path):
    filled.backup(tmp_path / "kb.tar")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection):
        Store.restore(tmp_path / "kb.tar", tmp_path / "home", "default")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_damaged_collection_gives_no_backup(filled, tmp_path):
    path = filled.files.segments / "000002.seg"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptionError, match="vector 1"):
        filled.backup(tmp_path / "kb.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kb"]


def test_every_kind_of_damage_is_refused(filled, tmp_path):
    filled.backup(tmp_path / "kb.tar")
    raw = (tmp_path / "kb.tar").read_bytes()
    generator = np.random.default_rng(1)
    place = tmp_path / "bad.tar"
    outcomes = set()
    for i in range(60):
        damaged = bytearray(raw)
        if i < 40:
            at = int(generator.integers(len(raw)))
            damaged[at] ^= 1 << int(generator.integers(8))
        else:
            damaged = damaged[: int(generator.integers(len(raw)))]
        place.write_bytes(damaged)
        try:
            Store.restore(place, tmp_path / f"r{i}", "default")
        except MRLError as error:
            outcomes.add(type(error).__name__)
            assert not (tmp_path / f"r{i}" / "default").exists()
            continue
        # It fell where nothing is read: padding, dates, names of owners. Then what came out is right.
        restored = Store(tmp_path / f"r{i}", "default")
        assert rows_of(restored) == rows_of(filled)
        restored.close()
    assert outcomes >= {"CorruptionError", "NotACollection"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "/tmp/evil.txt",
        "segments/../../evil",
        "segments/x.seg",
        "store.sqlite/x",
        "other",
        "store.sqlite",
    ],
)
def test_names_in_an_archive_are_checked(filled, tmp_path, name):
    filled.backup(tmp_path / "kb.tar")
    with tarfile.open(tmp_path / "kb.tar", "r:") as good, tarfile.open(tmp_path / "bad.tar", "w") as bad:
        for member in good:
            if member.name == "mrl-backup.json":
                extra = tarfile.TarInfo(name)
                extra.size = 4
                bad.addfile(extra, io.BytesIO(b"evil"))
            bad.addfile(member, good.extractfile(member))
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(NotACollection, match="expected a backup"):
        Store.restore(tmp_path / "bad.tar", tmp_path / "new", "default")
    assert {p.name for p in set(tmp_path.rglob("*")) - set(before)} <= {"new", "mrl-store.json"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar", "w") as bad:
        info = tarfile.TarInfo("segments/000001.seg")
        info.type, info.linkname = kind, "/etc/passwd"
        bad.addfile(info)
    with pytest.raises(NotACollection):
        Store.restore(tmp_path / "bad.tar", tmp_path / "new", "default")


def test_what_is_no_backup(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(NotACollection):
        Store.restore(tmp_path / "a.txt", tmp_path / "new", "default")
    with pytest.raises(NotACollection, match="not there"):
        Store.restore(tmp_path / "none", tmp_path / "new", "default")


def test_a_newer_backup(filled, tmp_path):
    filled.backup(tmp_path / "kb.tar")
    with tarfile.open(tmp_path / "kb.tar", "r:") as good, tarfile.open(tmp_path / "new.tar", "w") as new:
        for member in good:
            content = good.extractfile(member).read()
            if member.name == "mrl-backup.json":
                content = content.replace(b'"version": 1', b'"version": 7')
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with pytest.raises(NewerFormatError, match="version 7.*up to 1"):
        Store.restore(tmp_path / "new.tar", tmp_path / "new", "default")


def test_a_full_disk_leaves_nothing_behind(filled, tmp_path, monkeypatch):
    from mrl_retrieval.errors import BackendError
    from mrl_retrieval.storage import backup

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "publish", full)
    with pytest.raises(BackendError, match="No space"):
        filled.backup(tmp_path / "kb.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kb"]


def test_a_backup_while_others_write_is_one_commit(filled, open_store, batch, tmp_path):
    """A writer overwrites ten rows in each batch; a backup has all of them from one batch."""
    stop, errors = threading.Event(), []
    writer = open_store(compact_at=0.3, compact_bytes=0)

    def write():
        round = 0
        try:
            while not stop.is_set():
                names = [f"w{i}" for i in range(10)]
                writer.upsert(batch(*names, metadatas=[{"round": round} for _ in names]))
                round += 1
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(6):
            filled.backup(tmp_path / f"{i}.tar")
            Store.restore(tmp_path / f"{i}.tar", tmp_path / f"r{i}", "default")
    finally:
        stop.set()
        thread.join()
    assert errors == []
    for i in range(6):
        store = open_store(path=tmp_path / f"r{i}")
        rounds = [metadata["round"] for id, (_, metadata, _) in rows_of(store).items() if id.startswith("w")]
        assert len(set(rounds)) <= 1 and len(rounds) in (0, 10)
        assert store.verify().ok
