"""``mrl index --rotation`` and ``mrl reindex --rotation``."""

import json

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, Rotation, fit_rotation
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.models import ModelRow
from mrl_retrieval.resolutions import save_multi_resolution

DIM = 16


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """An encoder whose name a manifest may hold, with vectors that need a rotation, and that no table knows."""
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0]
    encode = HashingEncoder.encode_document

    def turned(self, texts, **kwargs):
        vectors = encode(self, texts, **kwargs)
        return ((vectors * np.arange(1, DIM + 1) ** -1.2) @ basis.T).astype(np.float32) if self.dim == DIM else vectors

    monkeypatch.setattr(HashingEncoder, "encode_document", turned)
    monkeypatch.setattr(HashingEncoder, "encode_query", turned)
    row = ModelRow(name="hashing", dim=None, status="unknown")
    monkeypatch.setattr("mrl_retrieval.encoders.models.detect", lambda model: row)


def records(n, first=0):
    return [
        {"id": str(i), "text": " ".join(f"word{np.random.default_rng([i, j]).integers(50)}" for j in range(8))}
        for i in range(first, first + n)
    ]


def manifest(address):
    with MatryoshkaRetriever.open(address) as retriever:
        return retriever.manifest


@pytest.fixture(params=["memory", "faiss"])
def place(request, uri, tmp_path):
    return uri if request.param == "memory" else f"faiss:{tmp_path}/kb"


def options(place):
    return "--to", place, "--encoder", f"hashing:{DIM}", "--coarse-dims", "2", "--rotation", "auto"


def test_auto(mrl, jsonl, place):
    done = mrl("index", jsonl("a.jsonl", *records(100)), *options(place))
    assert done.status == 0 and "rotated" not in done.out, done.err
    assert manifest(place).rotation is None
    done = mrl("index", jsonl("a.jsonl", *records(400)), *options(place), "--batch-size", "50")
    assert done.status == 0, done.err
    assert "It was rotated: top 10 in 100 candidates" in done.out and done.err == ""
    assert "holds 400 rows" in done.out and "100 unchanged" in done.out
    assert manifest(place).rotation["fitted_on"] == 200
    again = mrl("index", jsonl("a.jsonl", *records(400)), *options(place))
    assert "400 unchanged" in again.out and "rotated" not in again.out
    hits = json.loads(mrl("search", place, records(400)[333]["text"], "--json", "--top-k", "1").out)["hits"]
    assert hits[0]["id"] == "333"


def test_a_collection_that_has_enough_already(mrl, jsonl, place):
    """Nothing is new, as after a run that was killed before it had rotated."""
    file = jsonl("a.jsonl", *records(400))
    assert mrl("index", file, *options(place)[:-2]).status == 0
    assert manifest(place).rotation is None
    done = mrl("index", file, *options(place))
    assert "400 unchanged" in done.out and "It was rotated" in done.out, done.err
    assert manifest(place).rotation["fitted_on"] == 400


def test_a_place_that_cannot_be_opened_twice(mrl, jsonl):
    done = mrl("index", jsonl("a.jsonl", *records(3)), *options("memory:"))
    assert done.status == 1 and "opened twice" in done.err and len(done.err.splitlines()) == 1


def test_a_file(mrl, jsonl, place, tmp_path):
    file = jsonl("a.jsonl", *records(30))
    fit_rotation(f"hashing:{DIM}", [record["text"] for record in records(300)]).save(tmp_path / "r")
    told = (*options(place)[:-1], tmp_path / "r")
    done = mrl("index", file, *told)
    assert done.status == 0 and done.err == ""
    assert manifest(place).rotation["fingerprint"] == Rotation.load(tmp_path / "r").fingerprint
    assert mrl("index", jsonl("b.jsonl", *records(5, 100)), *told).status == 0
    fit_rotation(None, np.eye(DIM)).save(tmp_path / "other")
    refused = mrl("index", jsonl("c.jsonl", *records(5, 200)), *told[:-1], tmp_path / "other")
    assert refused.status == 1 and "was made with the rotation" in refused.err
    missing = mrl("index", file, *told[:-1], tmp_path / "nothing")
    assert missing.status == 1 and "there is no file" in missing.err


def test_stored_vectors(mrl, place, tmp_path):
    texts = [record["text"] for record in records(300)]
    encoder = HashingEncoder(DIM)
    save_multi_resolution(encoder.encode_document(texts), [4], tmp_path / "v", texts=texts, identity=encoder.identity)
    done = mrl("index", "--vectors", tmp_path / "v", *options(place))
    assert done.status == 0 and "It was rotated" in done.out and "holds 300 rows" in done.out, done.err
    assert manifest(place).rotation is not None
    hits = json.loads(mrl("search", place, texts[7], "--json", "--top-k", "1").out)["hits"]
    assert hits[0]["id"] == "7"


def test_reindexing(mrl, jsonl, place, tmp_path):
    file = jsonl("a.jsonl", *records(300))
    assert mrl("index", file, "--to", place, "--encoder", "hashing:32", "--coarse-dims", "2").status == 0
    done = mrl("reindex", place, "--encoder", f"hashing:{DIM}", "--rotation", "auto")
    assert done.status == 0 and "The new vectors are rotated: top 10 in 100" in done.out, done.err
    fitted = manifest(place).rotation
    assert mrl("rotate", place, "--save", tmp_path / "r").status == 0
    assert mrl("reindex", place, "--encoder", f"hashing:{DIM}", "--rotation", "none", "--force").status == 0
    assert manifest(place).rotation is None
    assert mrl("reindex", place, "--encoder", f"hashing:{DIM}", "--rotation", tmp_path / "r", "--force").status == 0
    assert manifest(place).rotation == fitted
    refused = mrl("reindex", place, "--rollback", "--rotation", "none")
    assert refused.status == 1 and "--rotation cannot be changed" in refused.err
