"""The same commands on every database that is installed: one argument differs, the answers do not."""

from __future__ import annotations

import importlib.util
import json

import pytest

PACKAGES = {"faiss": "faiss", "chroma": "chromadb", "qdrant": "qdrant_client"}


@pytest.mark.parametrize("scheme", PACKAGES)
def test_index_again_search_and_drop(mrl, jsonl, tmp_path, scheme):
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        pytest.skip(f"{PACKAGES[scheme]} is not installed")
    address = f"{scheme}:{tmp_path / 'kb'}?collection=notes"
    records = [{"_id": str(i), "text": f"note number {i} über Dinge", "n": i} for i in range(40)]
    path = jsonl("a.jsonl", *records)
    arguments = ("index", path, "--to", address, "--encoder", "hashing", "--metadata-fields", "n")
    done = mrl(*arguments)
    assert "40 new" in done.out, done.err
    records[3]["text"] = "something else: zebra"
    jsonl("a.jsonl", *records[:-1])
    assert "0 new, 1 changed, 38 unchanged, 1 dropped" in mrl(*arguments).out
    found = json.loads(mrl("search", address, "zebra", "--top-k", 3, "--filter", '{"n": {"$lt": 10}}', "--json").out)
    assert found["hits"][0]["id"] == "3"
    assert found["hits"][0]["metadata"] == {"n": 3, "source": str(path), "start": 0, "end": 21}
    assert len(found["hits"]) == 3
    assert json.loads(mrl("info", address, "--json").out)["rows"] == 39
    assert [one["collection"] for one in json.loads(mrl("list", address, "--json").out)] == ["notes"]
    assert mrl("drop", address, "--yes").status == 0
    assert mrl("info", address).status == 1
