"""The registry of models: its rows, its names, and what a cut says."""

from __future__ import annotations

import json
import logging
import re

import pytest

from mrl_retrieval.encoders import models
from mrl_retrieval.encoders._models import about_api, about_plain, about_static, about_trained
from mrl_retrieval.encoders._models.row import FIELDS
from mrl_retrieval.encoders._models.table import PROMPTS, TABLE
from mrl_retrieval.encoders.models import MODELS, check_truncation, detect, find_model
from mrl_retrieval.errors import DimensionError, InvalidInput, TruncationError
from tests import model_table

each_model = pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
PARTS = (about_trained.ABOUT, about_static.ABOUT, about_plain.ABOUT, about_api.ABOUT)


@pytest.fixture(autouse=True)
def nothing_warned_yet(monkeypatch):
    monkeypatch.setattr(models, "_warned", set())


# The table


@each_model
def test_a_ladder_ascends_to_the_full_dim(row):
    assert list(row.ladder) == sorted(set(row.ladder))
    assert not row.ladder or (row.ladder[0] >= 1 and row.ladder[-1] == row.dim)
    if row.any_dim:
        assert not row.ladder and 1 <= row.any_dim[0] < row.any_dim[1] == row.dim


@each_model
def test_only_models_that_may_be_cut_have_a_ladder(row):
    if row.status in ("none", "unknown"):
        assert not row.ladder and not row.any_dim
    else:
        assert row.ladder or row.any_dim or "ladder" in row.unverified


@each_model
def test_every_value_has_a_source_or_is_marked(row):
    for claim in row.claims:
        assert claim.fields and set(claim.fields) <= set(FIELDS)
        if claim.kind == "unverified":
            assert claim.source == ""
        else:
            assert claim.kind in ("vendor", "copy", "secondary")
            assert re.fullmatch(r"https://[\w.-]+/\S*", claim.source), claim.source
    claimed = {field for claim in row.claims for field in claim.fields}
    stated = {"dim", "status", "context", "prompts"}
    stated |= {"ladder"} if row.ladder or row.any_dim else set()
    stated |= {
        field for field in ("pooling", "unit_length", "shortened_unit_length") if getattr(row, field) is not None
    }
    stated |= {"layer_norm_first"} if row.layer_norm_first else set()
    assert stated <= claimed
    # What is not known is marked; only an interface can hide its pooling and shorten by itself.
    hosted = row.name in about_api.ABOUT
    assert row.unit_length is not None or "unit_length" in row.unverified
    assert row.pooling is not None or hosted or "pooling" in row.unverified
    assert row.status != "api" or row.shortened_unit_length is not None or "shortened_unit_length" in row.unverified
    assert row.shortened_unit_length is None or hosted


def test_table_and_sources_name_the_same_models():
    assert {row.name for row in MODELS} == {name for part in PARTS for name in part}
    assert sum(map(len, PARTS)) == len(MODELS) == len({row.name.lower() for row in MODELS})


def test_every_prompt_of_the_list_is_used():
    cells = {line.split()[-1].rstrip("?") for line in TABLE.splitlines() if line and not line.startswith("[")}
    assert set(PROMPTS) | {"prompts", ""} == cells


def test_names_are_unique():
    names = [name.lower() for row in MODELS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    short = [row.short_name.lower() for row in MODELS]
    assert len(short) == len(set(short))


def test_the_tables_line_is_what_the_row_says():
    """One line of each kind, by hand."""
    nomic, gemini, qwen = (find_model(n) for n in ("nomic-embed-text", "gemini-embedding-001", "Qwen3-Embedding-0.6B"))
    assert (nomic.dim, nomic.status, nomic.context, nomic.pooling) == (768, "native", 8192, "mean")
    assert nomic.ladder == (64, 128, 256, 512, 768) and nomic.layer_norm_first and nomic.unit_length is False
    assert (nomic.query_prompt, nomic.document_prompt) == ("search_query: ", "search_document: ")
    assert nomic.unverified == {"unit_length"}
    assert (gemini.unit_length, gemini.shortened_unit_length, gemini.pooling) == (True, False, None)
    assert (gemini.query_task, gemini.document_task) == ("task_type=RETRIEVAL_QUERY", "task_type=RETRIEVAL_DOCUMENT")
    assert (qwen.ladder, qwen.any_dim) == ((), (32, 1024)) and qwen.query_prompt.endswith("\nQuery:")
    assert find_model("gte-Qwen2-1.5B-instruct").query_prompt.endswith("\nQuery: ")
    assert {find_model(name).status for name in ("CodeRankEmbed", "bge-m3", "e5-mistral-7b-instruct")} == {"unknown"}
    lam = find_model("lam")
    assert (lam.dim, lam.ladder, lam.status) == (384, (64, 128, 256, 384), "native") and "ladder" in lam.unverified
    assert find_model("wordllama").dim == 256 and find_model("l2_supercat").dim == 1024


def test_the_wordllama_encoder_is_its_row():
    wordllama = pytest.importorskip("mrl_retrieval.encoders.wordllama", reason="needs wordllama")
    pytest.importorskip("wordllama", reason="needs wordllama")
    encoder = wordllama.WordLlamaEncoder()
    row = detect(encoder)
    assert row is find_model("wordllama") and (encoder.dim, encoder.max_tokens) == (row.dim, row.context)
    assert encoder.identity.pooling == row.pooling


@each_model
def test_json_holds_the_row(row):
    value = json.loads(json.dumps(row.to_json()))
    assert value["name"] == row.name and tuple(value["ladder"]) == row.ladder
    assert set(value["unverified"]) == row.unverified and len(value["claims"]) == len(row.claims)


def test_the_page_is_made_from_the_table():
    text = model_table.PAGE.read_text(encoding="utf-8")
    assert model_table.in_page(text) == model_table.table(), "run `python -m tests.model_table`"
    assert model_table.in_page(model_table.in_page(text, "new\n")) == "new\n"
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "models.md", "exec"), {})


# Names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1.5"),
        ("  NOMIC-Embed-Text-V1.5 ", "nomic-ai/nomic-embed-text-v1.5"),
        ("nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5"),
        ("nomic-embed-text:latest", "nomic-ai/nomic-embed-text-v1.5"),
        ("nomic-embed-text:v1.5", "nomic-ai/nomic-embed-text-v1.5"),
        ("qwen3-embedding:4b-q4_K_M", "Qwen/Qwen3-Embedding-4B"),
        ("qwen3-embedding:0.6b", "Qwen/Qwen3-Embedding-0.6B"),
        ("snowflake-arctic-embed:33m", "Snowflake/snowflake-arctic-embed-s"),
        ("snowflake/snowflake-arctic-embed-l", "Snowflake/snowflake-arctic-embed-l"),
        ("Xenova/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("azure/text-embedding-3-large", "text-embedding-3-large"),
        ("openrouter/openai/text-embedding-3-small", "text-embedding-3-small"),
        ("cohere.embed-v4:0", "embed-v4.0"),
        ("amazon.titan-embed-text-v2:0", "amazon.titan-embed-text-v2:0"),
        ("sentence-transformers:all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("wordllama/l2_supercat", "wordllama"),
        ("wordllama", "wordllama"),
    ],
)
def test_a_model_is_found_by_its_names(name, found):
    assert find_model(name).name == found


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "nomic", "nomic-embed-text:v2", "snowflake-arctic-embed:110m", "qwen3-embedding:14b", "someone/lam",
        "someone/wordllama", "./all-MiniLM-L6-v2", "/models/all-MiniLM-L6-v2", "~/all-MiniLM-L6-v2", "hashing:256", "/", ":",
        "a:b:c", "all-MiniLM-L6-v2-finetuned",
    ],
)  # fmt: skip
def test_other_names_are_no_models(name):
    assert find_model(name) is None


def test_an_organisation_is_ignored_only_where_one_model_is_meant(monkeypatch):
    rows = (models.ModelRow("one/small", 8, "none"), models.ModelRow("two/small", 16, "none"))
    models._names.cache_clear()
    monkeypatch.setattr(models, "MODELS", rows)
    try:
        assert find_model("small") is None and find_model("three/small") is None
        assert find_model("TWO/small").dim == 16
    finally:
        models._names.cache_clear()


# What a cut says


@pytest.fixture
def said(caplog):
    """The warnings so far."""
    caplog.set_level(logging.WARNING, logger=models.logger.name)
    return lambda: [record.getMessage() for record in caplog.records]


@each_model
def test_a_length_of_the_ladder_is_silent(row, said):
    for dims in (None, row.dim, row.dim + 1, *row.ladder, *(row.any_dim or ())):
        check_truncation(row, dims)
        check_truncation(row, dims, strict=True)
    assert not said()


@each_model
def test_every_other_length_is_a_warning_once_or_an_error(row, said):
    dims = row.any_dim[0] - 1 if row.any_dim else row.dim - 1
    if dims == 0:  # any length at all
        return
    for _ in range(3):
        check_truncation(row, dims)
    assert len(said()) == 1 and row.name in said()[0] and f"{dims} of {row.dim}" in said()[0]
    assert ("mrl diagnose" in said()[0]) == (row.status in ("none", "unknown") or not (row.ladder or row.any_dim))
    with pytest.raises(TruncationError, match=re.escape(said()[0])):
        check_truncation(row, dims, strict=True)
    check_truncation(row, dims)
    assert len(said()) == 1


def test_a_warning_names_the_lengths_nearby(said):
    nomic = find_model("nomic-embed-text")
    check_truncation(nomic, 100)
    check_truncation(nomic, 32)
    assert "take 64 or 128," in said()[0] and "take 64," in said()[1]
    check_truncation(find_model("Qwen3-Embedding-0.6B"), 16)
    assert "the shortest that it allows is 32" in said()[2]


def test_a_model_without_a_row(said):
    check_truncation(None, None, strict=True)
    check_truncation(None, 64)
    check_truncation(None, 64)
    check_truncation(None, 64, name="my-model")
    assert len(said()) == 2 and "not known" in said()[0] and said()[1].startswith("my-model cut to 64 dims")
    with pytest.raises(TruncationError, match="my-model"):
        check_truncation(None, 64, strict=True, name="my-model")
    assert issubclass(TruncationError, InvalidInput)


@pytest.mark.parametrize("dims", [0, -1, True, 64.0, "64"])
def test_dims_that_are_none(dims):
    with pytest.raises(DimensionError, match="whole number"):
        check_truncation(find_model("LAM"), dims)
