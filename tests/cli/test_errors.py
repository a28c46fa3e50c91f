"""Every way to fail is one line on stderr and a status, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrl_retrieval import __version__
from mrl_retrieval.errors import MissingExtra
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.retriever import MatryoshkaRetriever


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text")
    return path


def failed(done, status, *parts):
    assert done.status == status, (done.out, done.err)
    assert done.err.startswith("mrl: ")
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
    return done


def test_version_and_help(mrl):
    assert (mrl("--version").status, mrl("--version").out) == (0, f"mrl {__version__}\n")
    for arguments in (["--help"], *([name, "--help"] for name in ("index", "search", "info", "list", "drop", "demo"))):
        done = mrl(*arguments)
        assert done.status == 0
        assert done.out.startswith("usage: mrl")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["serach"], "invalid choice: 'serach'"),
        (["search", "memory:x"], "query"),
        (["search", "memory:x", "q", "--top-k", "0"], "expected a whole number of at least 1, got '0'"),
        (["search", "memory:x", "q", "--top-k", "ten"], "expected a whole number"),
        (["search", "memory:x", "q", "--filter", "{year: 1}"], "not JSON"),
        (["search", "memory:x", "q", "--filter", "[" * 100_000], "not JSON"),
        (["search", "memory:x", "q", "--filter", '["a"]'], "expected a JSON object"),
        (["search", "memory:x", "q", "--top", "3"], "unrecognized arguments"),
        (["index", "x"], "--to"),
        (["index", "--to", "memory:x"], "PATH"),
        (["index", "x", "--to", "memory:x", "--chunk-tokens", "5", "--no-chunk"], "not allowed with"),
        (["index", "x", "--to", "memory:x", "--id", "a", "--no-id"], "not allowed with"),
        (["index", "x", "--to", "memory:x", "--on-long", "panic"], "invalid choice"),
        (["demo", "--queries", "-1"], "expected a whole number"),
    ],
)
def test_usage(mrl, arguments, part):
    failed(mrl(*arguments), 2, part, "--help")


@pytest.mark.parametrize("command", [["search", "{}", "q"], ["info", "{}"], ["list", "{}"], ["drop", "{}", "--yes"]])
@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("nothing", "has no scheme"),
        ("mongo:./x", "unknown backend 'mongo'; known backends: "),
        ("memory:x?collection=..", "collection name"),
        ("memory:x?name=y", "unknown option 'name'"),
        ("qdrant+ftp://host", "transport 'ftp' is unknown"),
    ],
)
def test_bad_addresses(mrl, command, address, part):
    failed(mrl(*(word.format(address) for word in command)), 1, part)


@pytest.mark.parametrize("command", [["search", "{}", "q"], ["info", "{}"], ["drop", "{}", "--yes"]])
def test_collections_that_are_not_there(mrl, uri, command):
    failed(mrl(*(word.format(uri) for word in command)), 1, f"there is no collection at {uri}")


def test_index_of_paths_that_cannot_be_read(mrl, uri, tmp_path, text):
    failed(mrl("index", tmp_path / "nowhere", "--to", uri), 1, f"{tmp_path / 'nowhere'}: no such file or folder")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    failed(mrl("index", fifo, "--to", uri), 1, f"{fifo} is neither a file nor a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    failed(mrl("index", empty, "--to", uri), 1, "no files to index in", "--glob")
    failed(mrl("index", text, "--to", uri, "--relative-to", empty), 1, f"{text} is not below {empty}")
    binary = tmp_path / "b.bin"
    binary.write_bytes(b"a\0b")
    failed(mrl("index", binary, "--to", uri, "--encoder", "hashing"), 1, "is not a text file: it holds a zero byte")
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    failed(mrl("index", folder, "--to", uri), 1, "no files to index")
    assert mrl("info", uri).status == 1, "nothing was created"


def test_permission_denied_by_the_system(mrl, uri, text, monkeypatch):
    opened = Path.open

    def refuse(self, *arguments, **keywords):
        if self == text:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    failed(mrl("index", text, "--to", uri, "--encoder", "hashing"), 1, f"{text}: Permission denied")


def test_file_names_that_are_not_unicode(mrl, uri, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("x")
    failed(mrl("index", tmp_path, "--to", uri, "--encoder", "hashing"), 1, "is not valid UTF-8; rename the file")


def test_bad_options_of_index(mrl, uri, text):
    failed(mrl("index", text, "--to", uri, "--encoder", "word2vec"), 1, "unknown encoder 'word2vec'; known encoders: ")
    failed(mrl("index", text, "--to", uri, "--encoding", "klingon"), 1, "unknown encoding 'klingon'")
    failed(mrl("index", text, "--to", uri, "--encoding", "hex"), 1, "unknown encoding 'hex'")
    failed(mrl("index", text, "--to", uri, "--text", "a,,b"), 1, "--text 'a,,b' has an empty field name")
    failed(mrl("index", text, "--to", uri, "--metadata-fields", ""), 1, "empty name")
    failed(mrl("index", text, "--to", uri, "--metadata-fields", "a,a"), 1, "names 'a' twice")
    failed(mrl("index", text, "--to", uri, "--metadata-fields", "source"), 1, "original_source=source")


def test_another_encoder_or_other_dims_than_the_collection_has(mrl, uri, index, text):
    index(text)
    failed(mrl("index", text, "--to", uri, "--encoder", "hashing:128"), 1, "encoder")
    failed(mrl("search", uri, "q", "--encoder", "hashing:128"), 1, "encoder")
    failed(mrl("index", text, "--to", uri, "--coarse-dims", "32"), 1, "64", "32")


def test_text_too_long(mrl, uri, text, jsonl, rows, monkeypatch):
    monkeypatch.setattr("mrl_retrieval.encoders.hashing.HashingEncoder.max_tokens", 4, raising=False)
    records = jsonl("a.jsonl", {"id": "1", "text": "brief"}, {"id": "2", "text": "word " * 100})
    text.write_text("word " * 100)
    for path, line in ((records, 2), (text, 1)):
        done = mrl("index", path, "--to", uri, "--encoder", "hashing", "--no-chunk", "--on-long", "error")
        failed(done, 1, f"{path}:{line}: the text has 100 tokens, the encoder takes 4; leave out --no-chunk")
        assert rows() == {}
    for choice in (["--no-chunk"], ["--no-chunk", "--on-long", "chunk"], []):
        assert mrl("index", text, records, "--to", uri, "--encoder", "hashing", *choice).status == 0
    assert len(rows()) > 50


def test_a_collection_of_given_vectors_cannot_take_files(mrl, uri, text):
    with MatryoshkaRetriever(encoder=None, backend=uri) as retriever:
        retriever.index(["a"], vectors=[[1.0, 0.0]])
    failed(mrl("index", text, "--to", uri), 1, "--encoder")
    failed(mrl("search", uri, "q"), 1, "encoder")


def test_a_missing_extra_names_the_pip_line(mrl, monkeypatch):
    def missing(*_: object, **__: object) -> None:
        raise MissingExtra("the memory backend", "memory")

    monkeypatch.setattr(MemoryBackend, "from_address", missing)
    failed(mrl("info", "memory:x"), 1, "pip install 'mrl-retrieval[memory]'")


@pytest.mark.parametrize("part", ['{"n": {"$gth": 1}}', '{"n": {"$gt": "a"}}', '{"$and": []}', '{"": 1}'])
def test_filters_that_mean_nothing(mrl, uri, index, jsonl, part):
    index(jsonl("a.jsonl", {"text": "x", "n": 5}), "--metadata-fields", "n")
    failed(mrl("search", uri, "q", "--filter", part), 1)


def test_fewer_candidates_than_hits(mrl, uri, index, text):
    index(text)
    failed(mrl("search", uri, "q", "--top-k", "10", "--coarse-top-k", "5"), 1, "10", "5")


def test_interrupts_and_bugs(mrl, uri, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryBackend, "from_address", interrupt)
    assert failed(mrl("info", "memory:x"), 130).err == "mrl: interrupted\n"

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("line one\nline two")

    monkeypatch.setattr(MemoryBackend, "from_address", bug)
    failed(mrl("info", "memory:x"), 1, "unexpected ZeroDivisionError: line one line two", "MRL_DEBUG=1")


def test_debug_shows_the_traceback(mrl, monkeypatch):
    monkeypatch.setenv("MRL_DEBUG", "1")
    done = mrl("info", "mongo:x")
    assert done.status == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("mrl: unknown backend")


def test_warnings_of_the_library_look_like_messages(mrl, monkeypatch):
    import logging

    def warn(*_: object, **__: object) -> None:
        logging.getLogger("mrl_retrieval.memory").warning("about something")
        raise MissingExtra("x", "y")

    monkeypatch.setattr(MemoryBackend, "from_address", warn)
    assert mrl("info", "memory:x").err.splitlines()[0] == "mrl: warning: about something"
