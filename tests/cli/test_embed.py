"""``mrl embed`` and ``mrl index --vectors``: the same rows and hits as ``mrl index``, and no text encoded twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import load_encoder, normalize, prefix
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import CollectionNotFound
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from mrl_retrieval.resolutions import load_resolution, load_rows, save_multi_resolution, verify_resolutions

from .test_errors import failed

TOPICS = ["git commits", "baking bread", "coffee beans", "the third quarter", "myopathy and statins", "cats on mats"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    for i in range(40):
        paragraphs = [
            f"Note {i} is about {TOPICS[(i + j) % 6]}, part {j} of {i % 5 + 1}. " * 6 for j in range(i % 5 + 1)
        ]
        (root / ("sub" if i % 2 else "") / f"{i:02}.md").write_text(f"# Note {i}\n\n" + "\n\n".join(paragraphs))
    return root


@pytest.fixture
def embed(mrl, tmp_path):
    def run(*arguments, out=tmp_path / "v"):
        done = mrl("embed", *arguments, "--out", out, "--model", "hashing")
        assert done.status == 0, done.err
        return done

    return run


def test_vectors_of_every_length(embed, folder, tmp_path):
    done = embed(folder, "--dims", "64,16", "--chunk-tokens", "40")
    rows = list(load_rows(tmp_path / "v"))
    assert len(rows) > 60
    first, last = done.out.splitlines()
    assert first.startswith(
        f"40 documents in 40 files: 40 new, 0 changed, 0 unchanged, 0 dropped. {len(rows)} rows written"
    )
    assert last.startswith(f"{tmp_path / 'v'} holds {len(rows)} rows (16: ")
    assert last.endswith("; 66% of the full vectors in float32).")
    full = HashingEncoder().encode_document([row.document for row in rows])
    for dim in (16, 64, 256):
        right = prefix(full, dim).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(load_resolution(tmp_path / "v", dim).array(), right)
    contents = verify_resolutions(tmp_path / "v")
    assert contents.encoder == HashingEncoder().identity
    assert contents.canaries is not None


@pytest.mark.parametrize("backend", ["memory", "faiss"])
def test_the_same_rows_and_hits_as_direct_indexing(mrl, embed, folder, uri, tmp_path, backend):
    if backend == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    direct = f"faiss:{tmp_path}/direct" if backend == "faiss" else uri
    through = f"faiss:{tmp_path}/through" if backend == "faiss" else f"{uri}-through"
    options = ("--chunk-tokens", "40", "--relative-to", tmp_path)
    assert mrl("index", folder, "--to", direct, "--encoder", "hashing", *options).status == 0
    embed(folder, "--dims", "64", *options)
    done = mrl("index", "--vectors", tmp_path / "v", "--to", through, "--batch-size", "7")
    assert done.status == 0, done.err
    assert "nothing was encoded." in done.out
    assert "note:" not in done.out

    def everything(address):
        with open_backend(address) as opened:
            manifest: Manifest = opened.manifest
            rows = {row.id: row for batch in opened.scan(vectors=True) for row in batch.rows()}
        return manifest, rows

    (made, right), (manifest, rows) = everything(direct), everything(through)
    assert {id: (row.document, row.metadata) for id, row in rows.items()} == {
        id: (row.document, row.metadata) for id, row in right.items()
    }
    cosines = [normalize(rows[id].vector[None]) @ normalize(right[id].vector[None]).T for id in right]
    assert min(cosines) > 1 - 1e-5
    assert (manifest.encoder, manifest.dim, manifest.coarse_dims) == (made.encoder, made.dim, made.coarse_dims)
    assert manifest.canaries.similarity(made.canaries) == pytest.approx((1, 1), abs=1e-3)
    for query in TOPICS:
        a, b = (json.loads(mrl("search", where, query, "--json").out)["hits"] for where in (direct, through))
        assert len(a) == 10
        np.testing.assert_allclose([hit["score"] for hit in a], [hit["score"] for hit in b], atol=1e-3)
        # Rows whose scores differ by no more than float16 rounds may change places.
        clear = [hit["id"] for hit in a if sum(abs(hit["score"] - other["score"]) < 2e-3 for other in a) == 1]
        assert set(clear[:-1]) <= {hit["id"] for hit in b}
        assert [id for id in (hit["id"] for hit in b) if id in clear] == [
            id for id in clear if id in {h["id"] for h in b}
        ]
    # To mrl index the rows are its own.
    again = mrl("index", folder, "--to", through, *options)
    assert "0 new, 0 changed, 40 unchanged, 0 dropped" in again.out


def test_running_it_again(mrl, embed, folder, tmp_path, monkeypatch):
    embed(folder)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").rglob("*") if path.name != "write.lock"}
    monkeypatch.setattr(
        HashingEncoder, "encode_document", none_but_canaries(HashingEncoder.encode_document, encoded := [])
    )
    done = mrl("embed", folder, "--out", tmp_path / "v")  # the folder knows its encoder and its dims
    assert "0 new, 0 changed, 40 unchanged, 0 dropped. 0 rows written" in done.out
    assert encoded == []
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "v").rglob("*") if path.name != "write.lock"
    }
    (folder / "00.md").write_text("# Something else")
    (folder / "02.md").unlink()
    (folder / "new.txt").write_text("New.")
    done = embed(folder)
    assert "1 new, 1 changed, 38 unchanged, 1 dropped. 2 rows written" in done.out
    assert sorted(encoded) == ["# Something else", "New."]
    rows = {row.id: row for row in load_rows(tmp_path / "v")}
    assert rows[str(folder / "00.md")].document == "# Something else"
    assert str(folder / "02.md") not in rows
    verify_resolutions(tmp_path / "v")
    full = load_resolution(tmp_path / "v").array()
    right = HashingEncoder().encode_document([row.document for row in load_rows(tmp_path / "v")])
    np.testing.assert_allclose(full, right, atol=5e-4)


def none_but_canaries(encode, encoded):
    """The encoder, which notes the texts it gets; the canaries are not counted."""

    def noted(self, texts, **kwargs):
        from mrl_retrieval.encoder import CANARY_TEXTS

        if list(texts) != list(CANARY_TEXTS):
            encoded.extend(texts)
        return encode(self, texts, **kwargs)

    return noted


# -- kill -9 ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from mrl_retrieval.cli import main
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders.hashing import HashingEncoder

encode, batches = HashingEncoder.encode_document, 0

def noted(self, texts, **kwargs):
    global batches
    if list(texts) != list(CANARY_TEXTS):
        batches += 1
        if batches == {last}:
            os.kill(os.getpid(), 9)
        with open({log!r}, "a") as file:
            file.writelines(repr(text) + "\\n" for text in texts)
    return encode(self, texts, **kwargs)

HashingEncoder.encode_document = noted
sys.exit(main(["embed", {folder!r}, "--out", {out!r}, "--model", "hashing", "--batch-size", "5", "--chunk-tokens", "40"]))
"""


def run_logged(folder, tmp_path, last=0):
    code = KILLED.format(last=last, log=str(tmp_path / "log"), folder=str(folder), out=str(tmp_path / "v"))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_midst_and_run_again(embed, folder, tmp_path):
    embed(folder, "--chunk-tokens", "40", out=tmp_path / "whole")
    for last in (1, 4, 4):  # nothing; three batches of five rows; three more
        process = run_logged(folder, tmp_path, last)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(CollectionNotFound):
            load_resolution(tmp_path / "v")
    assert 25 <= len((tmp_path / "log").read_text().splitlines()) <= 30
    process = run_logged(folder, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    rows = list(load_rows(tmp_path / "v"))
    # No text was encoded twice, and none left out, not even the pieces of a document that a kill parted.
    encoded = (tmp_path / "log").read_text().splitlines()
    assert sorted(encoded) == sorted(repr(row.document) for row in rows)
    assert " unchanged, 0 dropped" in out
    assert [(row.id, row.document, row.metadata) for row in sorted(rows, key=lambda row: row.id)] == [
        (row.id, row.document, row.metadata) for row in sorted(load_rows(tmp_path / "whole"), key=lambda row: row.id)
    ]
    verify_resolutions(tmp_path / "v")
    order = {row.id: i for i, row in enumerate(load_rows(tmp_path / "whole"))}
    for dim in (64, 256):
        whole = load_resolution(tmp_path / "whole", dim)
        np.testing.assert_array_equal(
            load_resolution(tmp_path / "v", dim).array(), whole[[order[row.id] for row in rows]]
        )


@pytest.mark.slow
def test_killed_at_any_moment(embed, folder, tmp_path):
    for i in range(300):
        (folder / f"more{i:03}.txt").write_text(f"Another text, number {i}, about {TOPICS[i % 6]}. " * 5)
    generator = np.random.default_rng(0)
    for _ in range(100):
        process = run_logged(folder, tmp_path)
        time.sleep(0.2 + generator.uniform(0, 0.8))
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
    else:
        pytest.fail("it never came to an end")
    verify_resolutions(tmp_path / "v")
    embed(folder, "--chunk-tokens", "40", out=tmp_path / "whole")
    assert {row.id: row.document for row in load_rows(tmp_path / "v")} == {
        row.id: row.document for row in load_rows(tmp_path / "whole")
    }


def test_the_old_is_there_until_the_new_is_finished(embed, folder, tmp_path):
    embed(folder, "--chunk-tokens", "40")
    old = {row.id: row.document for row in load_rows(tmp_path / "v")}
    for path in folder.rglob("*.md"):
        path.write_text(path.read_text().replace("Note", "Letter"))
    process = run_logged(folder, tmp_path, last=5)
    process.communicate(timeout=60)
    assert {row.id: row.document for row in load_rows(tmp_path / "v")} == old
    verify_resolutions(tmp_path / "v")
    embed(folder, "--chunk-tokens", "40")
    assert all("Letter" in row.document for row in load_rows(tmp_path / "v"))
    verify_resolutions(tmp_path / "v")


def test_progress(embed, folder):
    assert "indexing [" in embed(folder, "--progress").err
    assert "indexing" not in embed(folder, "--no-progress").err


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["embed", "x"], "--out"),
        (["embed", "--out", "v"], "PATH"),
        (["embed", "x", "--out", "v", "--dims", "64,x"], "whole number of at least 1, got 'x'"),
        (["embed", "x", "--out", "v", "--dims", "0"], "whole number of at least 1"),
        (["index", "--to", "memory:x"], "PATH"),
        (["index", "x", "--vectors", "v", "--to", "memory:x"], "not allowed with"),
    ],
)
def test_usage(mrl, arguments, part):
    failed(mrl(*arguments), 2, part, "--help")


def test_errors_of_embed(mrl, embed, folder, tmp_path):
    failed(mrl("embed", "/nowhere", "--out", tmp_path / "v"), 1, "no such file")
    (tmp_path / "empty").mkdir()
    failed(mrl("embed", tmp_path / "empty", "--out", tmp_path / "v"), 1, "no files to embed")
    failed(mrl("embed", folder, "--out", tmp_path / "v", "--model", "nope"), 1, "unknown encoder 'nope'")
    failed(mrl("embed", folder, "--out", folder, "--model", "hashing"), 1, "holds '00.md' and 20 more, expected")
    too_long = mrl("embed", folder, "--out", tmp_path / "v", "--model", "hashing", "--dims", "512")
    failed(too_long, 1, "a stored dim must be from 1 to 256, got 512")
    assert not (tmp_path / "v").exists()
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    failed(
        mrl("embed", tmp_path / "bad.jsonl", "--out", tmp_path / "v", "--model", "hashing"),
        1,
        "bad.jsonl:2: no field 'text'",
    )
    embed(folder)
    failed(
        mrl("embed", folder, "--out", tmp_path / "v", "--dims", "32"),
        1,
        "made with the dims 64, 256, given were 32, 256",
    )
    other = mrl("embed", folder, "--out", tmp_path / "v", "--model", "hashing:128")
    failed(other, 1, "made with", "128")
    verify_resolutions(tmp_path / "v")


def test_another_encoder_of_the_same_card(mrl, embed, folder, tmp_path, monkeypatch):
    embed(folder)
    encode = HashingEncoder.encode_document
    monkeypatch.setattr(HashingEncoder, "encode_document", lambda self, texts, **kw: encode(self, texts, **kw)[:, ::-1])
    (folder / "new.txt").write_text("New.")
    failed(mrl("embed", folder, "--out", tmp_path / "v"), 1, "canary")
    failed(mrl("index", "--vectors", tmp_path / "v", "--to", "memory:canary"), 1, "canary")


def test_errors_of_index(mrl, embed, folder, uri, tmp_path):
    failed(mrl("index", "--vectors", tmp_path / "v", "--to", uri), 1, "no stored vectors at")
    failed(mrl("index", "--vectors", folder, "--to", uri), 1, "holds no stored vectors")
    embed(folder)
    failed(
        mrl("index", "--vectors", tmp_path / "v", "--to", uri, "--no-chunk", "--id", "x"),
        1,
        "leave out --id, --no-chunk",
    )
    other = mrl("index", "--vectors", tmp_path / "v", "--to", uri, "--encoder", "hashing:64")
    failed(other, 1, "made with another encoder", "64")
    assert mrl("index", folder, "--to", uri, "--encoder", "hashing:128").status == 0
    failed(mrl("index", "--vectors", tmp_path / "v", "--to", uri), 1, "dim is 256, the collection's is 128")
    data = next(path for path in (tmp_path / "v").iterdir() if path.name.startswith("data-"))
    with (data / "dim-64.npy").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    failed(mrl("index", "--vectors", tmp_path / "v", "--to", f"{uri}-2"), 1, "dim-64.npy is damaged")
    failed(mrl("info", f"{uri}-2"), 1)  # nothing was made


def test_vectors_whose_encoder_is_not_here(mrl, uri, tmp_path):
    from mrl_retrieval import EncoderCard

    vectors = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    card = EncoderCard(dim=32, name="not-installed:x", model="x")
    for number, (identity, reason) in enumerate(
        [(card, "cannot be loaded (unknown encoder"), (None, "names no encoder")]
    ):
        folder, address = tmp_path / str(number), f"{uri}-{number}"
        save_multi_resolution(vectors, [8], folder, ids=range(20), identity=identity)
        done = mrl("index", "--vectors", folder, "--to", address)
        assert done.status == 0, done.err
        assert reason in done.out
        assert done.out.count("\n") == 3
        with open_backend(address) as backend:
            assert backend.manifest.encoder is None
            assert backend.count(None) == 20
    failed(
        mrl("index", "--vectors", tmp_path / "0", "--to", f"{uri}-x", "--encoder", "not-installed:x"),
        1,
        "unknown encoder",
    )


def test_an_encoder_named_for_given_vectors(mrl, uri, tmp_path):
    encoder = load_encoder("hashing:32")
    texts = ["git revert undoes a commit", "a cake needs flour"]
    save_multi_resolution(encoder.encode_document(texts), [8], tmp_path / "v", texts=texts)
    assert mrl("index", "--vectors", tmp_path / "v", "--to", uri, "--encoder", "hashing:32").status == 0
    hits = json.loads(mrl("search", uri, "flour for a cake", "--json").out)["hits"]
    assert hits[0]["document"] == texts[1]


def test_no_temporary_files_are_left(embed, folder, tmp_path):
    embed(folder)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "v").iterdir()) == [
        "data",
        "resolutions.json",
        "write.lock",
    ]
    assert os.listdir(tmp_path) == [name for name in os.listdir(tmp_path) if name in ("docs", "v")]  # noqa: PTH208
    assert Path(tmp_path / "v").is_dir()
