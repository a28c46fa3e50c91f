"""``mrl models``."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.cli.output import text_width
from mrl_retrieval.encoders.models import MODELS, find_model


def test_the_list_has_every_model(mrl):
    done = mrl("models")
    assert (done.status, done.err) == (0, "")
    head, *rows, legend = done.out.splitlines()
    assert head.split() == ["model", "dims", "status", "may", "be", "cut", "to", "context"] and "not verified" in legend
    assert [row.split()[0] for row in rows] == [row.short_name for row in MODELS]
    lines = {row.split()[0]: " ".join(row.split()[1:]) for row in rows}
    assert lines["nomic-embed-text-v1.5"] == "768 native 64 128 256 512 768 8,192"
    assert lines["nomic-embed-text-v2-moe"] == "768 native 256 768 ? 512"
    assert lines["Qwen3-Embedding-0.6B"] == "1024 native any of 32 to 1024 32,768"
    assert lines["all-MiniLM-L6-v2"] == "384 none - 256"
    assert lines["wordllama"] == "256 native 64 128 256 no limit"
    assert lines["mxbai-embed-xsmall-v1"] == "384 native ? 4,096"


@pytest.mark.parametrize("columns", ["80", "100", "120"])
def test_the_list_fits_the_terminal(mrl, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(text_width, mrl("models").out.splitlines())) <= int(columns)


def test_the_list_as_json(mrl):
    value = json.loads(mrl("models", "--json").out)
    assert value == [json.loads(json.dumps(row.to_json())) for row in MODELS]


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_one_model(mrl, row):
    done = mrl("models", row.short_name)
    assert (done.status, done.err) == (0, "")
    head, *lines = done.out.splitlines()
    assert head == row.name
    text = " ".join(done.out.split())
    assert all(claim.source in text for claim in row.claims)
    assert all(" ".join(note.split()) in text for note in row.notes)
    assert all(alias in text for alias in row.aliases)
    assert ("not verified: " in text) == bool(row.unverified)
    for prompt in filter(None, (row.query_prompt, row.document_prompt)):
        assert " ".join(repr(prompt).split()) in text
    assert all(len(line) <= 100 or line.strip().startswith("https://") for line in lines)
    assert ("before a cut" in text) == row.layer_norm_first
    assert ("if shortened" in text) == (row.status == "api")
    assert json.loads(mrl("models", row.name, "--json").out) == json.loads(json.dumps(row.to_json()))


def test_values_in_words(mrl):
    lines = {line[2:19].strip(): line[19:] for line in mrl("models", "qwen3-embedding:4b").out.splitlines()}
    assert lines["shorter"] == "native: trained for it" and lines["context"] == "32,768 tokens"
    assert lines["may be cut to"] == "any of 32 to 2560 ?" and lines["document prompt"] == "none?"
    lines = {line[2:19].strip(): line[19:] for line in mrl("models", "gemini-embedding-001").out.splitlines()}
    assert (lines["length 1"], lines["if shortened"], lines["pooling"]) == ("yes", "no", "-")
    assert lines["query prompt"] == "task_type=RETRIEVAL_QUERY"


def test_a_folder_is_detected(mrl, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 64, "matryoshka_dimensions": [16, 32]}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in (folder, "./model", "model"):
        done = mrl("models", name)
        assert (done.status, done.err) == (0, "")
        assert "native: trained for it" in done.out and "16 32 64" in done.out
        assert "matryoshka_dimensions" in done.out and "config.json" in done.out and "(a file here)" in done.out
    assert json.loads(mrl("models", "./model", "--json").out)["ladder"] == [16, 32, 64]
    # A model's name is the model, also where a folder is called so.
    (tmp_path / "wordllama").mkdir()
    assert json.loads(mrl("models", "wordllama", "--json").out)["dim"] == find_model("wordllama").dim


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nomic-embed-txt", "did you mean nomic-embed-text-v1.5"),
        ("mxbai", "mxbai-embed-large-v1"),
        ("jina-v3", "jina-embeddings-v3"),
        ("zzzzzz", "'mrl models' lists"),
        ("a b/c:d", "no model 'a b/c:d' is known"),
        ("./nowhere", "there is no model folder 'nowhere'"),
        ("", "needs a name"),
        ("x\ny\x1b[1m", "no model"),
    ],
)
def test_a_name_that_leads_nowhere(mrl, name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ((), ("--json",)):
        done = mrl("models", name, *arguments)
        assert (done.status, done.out) == (1, "")
        assert words in done.err and done.err.startswith("mrl: ") and len(done.err.splitlines()) == 1


def test_a_folder_without_a_model_and_a_damaged_one(mrl, tmp_path):
    assert "holds no model" in mrl("models", tmp_path).err
    (tmp_path / "modules.json").write_text("{", encoding="utf-8")
    done = mrl("models", tmp_path)
    assert done.status == 1 and "is not JSON" in done.err and len(done.err.splitlines()) == 1
