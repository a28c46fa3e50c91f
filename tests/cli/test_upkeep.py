"""``mrl verify``, ``repair``, ``compact``, ``backup``, ``restore``."""

from __future__ import annotations

import pytest

from mrl_retrieval.retriever import MatryoshkaRetriever


@pytest.fixture
def place(mrl, tmp_path, jsonl):
    records = [{"id": str(i), "text": f"text number {i}"} for i in range(200)]
    address = f"faiss:{tmp_path}/kb"
    assert mrl("index", jsonl("a.jsonl", *records), "--to", address, "--encoder", "hashing").status == 0
    return address


def segment(tmp_path):
    (found,) = (tmp_path / "kb" / "default" / "segments").glob("*.seg")
    return found


def test_a_healthy_store(mrl, place):
    done = mrl("verify", place)
    assert (done.status, done.err) == (0, "") and "200 rows and 200 vectors" in done.out
    assert "nothing was the matter" in mrl("repair", place).out


def test_damage_is_found_and_repaired(mrl, place, tmp_path):
    data = bytearray(segment(tmp_path).read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment(tmp_path).write_bytes(data)
    found = mrl("verify", place)
    assert found.status == 1 and "1 problem" in found.out and "mrl repair" in found.out and found.err == ""
    repaired = mrl("repair", place)
    assert repaired.status == 1 and "lost their vector" in repaired.out and "200 rows now" in repaired.out
    assert mrl("verify", place).status == 0
    with MatryoshkaRetriever.open(place) as retriever:
        assert retriever.count() == 200


def test_compact(mrl, place):
    with MatryoshkaRetriever.open(place) as retriever:
        retriever.delete([str(i) for i in range(150)])
    done = mrl("compact", place)
    assert done.status == 0 and "before" in done.out and "now" in done.out
    with MatryoshkaRetriever.open(place) as retriever:
        assert retriever.count() == 50 and retriever.search("text number 170", 1).ids == ["170"]
    assert mrl("verify", place).status == 0


def test_backup_and_restore(mrl, place, tmp_path):
    file = tmp_path / "kb.mrl"
    assert "200 rows" in mrl("backup", place, file).out
    again = mrl("backup", place, file)
    assert again.status == 1 and again.err.count("\n") == 1
    assert mrl("backup", place, file, "--overwrite").status == 0
    restored = mrl("restore", file, f"faiss:{tmp_path}/other")
    assert restored.status == 0 and "200 rows" in restored.out
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/other") as retriever:
        assert retriever.search("text number 7", 1).ids == ["7"]
    refused = mrl("restore", file, place)
    assert refused.status == 1 and refused.err.count("\n") == 1
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    damaged = mrl("restore", file, f"faiss:{tmp_path}/third")
    assert damaged.status == 1 and damaged.err.count("\n") == 1 and not (tmp_path / "third" / "default").exists()


def test_a_backend_that_cannot(mrl, uri, index, jsonl):
    index(jsonl("b.jsonl", {"id": "1", "text": "x"}))
    for arguments in (["verify", uri], ["compact", uri], ["backup", uri, "x"], ["restore", "x", uri]):
        done = mrl(*arguments)
        assert done.status == 1 and "the memory backend cannot" in done.err and done.err.count("\n") == 1
    assert mrl("repair", uri).status == 0
