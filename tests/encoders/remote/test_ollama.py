"""The ollama encoder, by the real client, against a server that speaks Ollama's API."""

import logging
import socket
import traceback

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.ollama import OllamaEncoder, from_spec
from mrl_retrieval.errors import EncoderError, EncoderUnavailable, InvalidInput, ModelMismatchError, TextTooLongError
from tests.encoders.checks import MadeTwice

from .http_server import answering, cut, hung_up, late
from .ollama_server import ollama_server

TEXTS = ["a cat on a mat", "quarterly revenue", "the last commit"]
EXPECTED = HashingEncoder(256).encode_document(TEXTS)


class TestConformance(MadeTwice):
    @pytest.fixture(scope="class", params=[{}, {"dimensions": 64, "prompts": {"query": "q: "}}], ids=["whole", "64"])
    def make(self, request):
        pytest.importorskip("ollama", reason="ollama is not installed: pip install 'mrl-retrieval[ollama]'")
        with ollama_server().running() as server:
            yield lambda: OllamaEncoder("hashing", host=server.url, truncate=True, **request.param)


@pytest.fixture
def server(ollama):
    return ollama()


@pytest.fixture
def encoder(server):
    made = OllamaEncoder("hashing", host=server.url)
    server.requests.clear()
    return made


def check(encoder):
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)


def test_what_is_asked(server):
    encoder = OllamaEncoder(
        "hashing:latest", host=server.url, options={"num_ctx": 300}, keep_alive="10m", prompts={"document": "d: "}
    )
    encoder.encode_document(["one", "two"], options={"seed": 1})
    assert [request.path for request in server.requests] == ["/api/show", "/api/embed", "/api/embed"]
    assert server.requests[-1].body == {
        "model": "hashing:latest",
        "input": ["d: one", "d: two"],
        "truncate": False,
        "options": {"num_ctx": 300, "seed": 1},
        "keep_alive": "10m",
    }
    assert encoder.max_tokens == 299 and encoder.dim == 256  # the prompt takes about 1 of the 300 tokens
    with pytest.raises(EncoderError, match="keep_alive and options.*user"):
        encoder.encode_document(["one"], user="me")


def test_the_card(server, ollama, monkeypatch):
    card = OllamaEncoder("hashing", host=server.url).identity
    assert card.model == "hashing" and card.revision == "sha256:970aa74c0a90ef74" and card.name is None
    assert OllamaEncoder("hashing:latest", host=server.url).identity == card
    other = OllamaEncoder("hashing", host=ollama(blob="0" * 64).url).identity
    assert [field for field, _, _ in card.differences(other)] == ["revision"]
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    named = from_spec("hashing?dimensions=64")
    assert (named.identity.name, named.dim) == ("ollama:hashing?dimensions=64", 64)
    assert from_spec("hashing").identity.name == "ollama:hashing"
    assert from_spec("hashing", options={"num_ctx": 10}).identity.name is None
    assert isinstance(named, CachedEncoder) and isinstance(from_spec("hashing", cache=False), OllamaEncoder)


def test_short_vectors(server, caplog):
    encoder = OllamaEncoder("hashing", host=server.url, dimensions=64)
    assert [request.path for request in server.requests] == ["/api/show"]
    assert np.allclose(encoder.encode_document(TEXTS), HashingEncoder(64).encode_document(TEXTS), atol=1e-6)
    encoder.encode_query(TEXTS)
    assert [request.body.get("dimensions") for request in server.asked("/api/embed")] == [64, None, 64]
    assert not [record for record in caplog.records if record.name.startswith("mrl_retrieval")]
    with pytest.raises(EncoderError, match="asked for 300 components and sent 256"):
        OllamaEncoder("hashing", host=server.url, dimensions=300).encode_document(TEXTS)


def test_a_text_beyond_the_context(server, encoder):
    texts = ["a cat", "word " * 501, "characters" * 300]
    with pytest.raises(
        TextTooLongError, match=r"texts\[1\] has about 835 tokens.* is 500 .*exceeds the context.*truncate"
    ):
        encoder.encode_document(texts)
    cutting = OllamaEncoder("hashing", host=server.url, truncate=True)
    assert np.allclose(cutting.encode_document(texts)[1], HashingEncoder(256).encode_document(["word " * 500])[0])


def test_a_collection_over_it(ollama, tmp_path, monkeypatch):
    server = ollama()
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    with MatryoshkaRetriever(encoder=from_spec("hashing"), backend=f"faiss:{tmp_path / 'kb'}") as retriever:
        retriever.index(TEXTS)
        assert retriever.search("revenue", top_k=1)[0].document == TEXTS[1]
    monkeypatch.setenv("OLLAMA_HOST", ollama(blob="1" * 64).url)
    with pytest.raises(ModelMismatchError, match="revision"):
        MatryoshkaRetriever(encoder=from_spec("hashing"), backend=f"faiss:{tmp_path / 'kb'}")


@pytest.mark.parametrize(
    "trouble",
    [answering(500, {"error": "oops"}), answering(503, b"busy"), cut, hung_up],
    ids=["500", "503", "cut", "hung"],
)
def test_what_passes_is_tried_again(server, encoder, trouble):
    server.first.append(trouble)
    check(encoder)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "words"), [(answering(500, {"error": "oops"}), "500: oops"), (cut, "was cut"), (hung_up, "was cut")]
)
def test_what_does_not_pass_is_said(server, encoder, trouble, words):
    server.first.extend([trouble] * 4)
    with pytest.raises(EncoderUnavailable, match=words) as raised:
        encoder.encode_document(TEXTS)
    assert "was tried 4 times" in raised.value.__notes__[0]
    check(encoder)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"error": "invalid input type"}, "400: invalid input type"),
        (401, {"error": "unauthorized"}, "401"),
        (200, b"<html>", "is host right"),
        (200, {"hello": 1}, "is host right"),
        (200, {"embeddings": EXPECTED[:2].tolist()}, "2 vectors for 3 texts"),
        (200, {"embeddings": EXPECTED[:, :9].tolist()}, "9 components, they had 256"),
        (200, {"embeddings": [[1.0, 2.0], [1.0], [2.0, 3.0]]}, "rectangle"),
        (200, {"embeddings": [[float("nan")] * 256] * 3}, "component 0"),
    ],
)
def test_refusals(server, encoder, status, answer, words):
    server.first.append(answering(status, answer))
    with pytest.raises(EncoderError, match=words) as raised:
        encoder.encode_document(TEXTS)
    assert not isinstance(raised.value, EncoderUnavailable) and len(server.requests) == 1
    check(encoder)


def test_unknown_model(server):
    with pytest.raises(EncoderError, match="no model 'missing'.*`ollama pull missing`"):
        OllamaEncoder("missing", host=server.url)
    with pytest.raises(InvalidInput, match="nomic-embed-text"):
        from_spec("")


def test_options_that_no_request_can_hold(server):
    with pytest.raises(InvalidInput, match="options"):
        OllamaEncoder("hashing", host=server.url, options={"num_ctx": object()})


def test_no_server():
    pytest.importorskip("ollama", reason="ollama is not installed: pip install 'mrl-retrieval[ollama]'")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(EncoderUnavailable, match="`ollama serve`.*OLLAMA_HOST"):
            OllamaEncoder("hashing", host=f"127.0.0.1:{reserved.getsockname()[1]}")


def test_too_late(server):
    encoder = OllamaEncoder("hashing", host=server.url, timeout=0.3)
    server.first.extend([late(1)] * 4)
    with pytest.raises(EncoderUnavailable, match="in time.*timeout"):
        encoder.encode_document(TEXTS)


def test_no_key_in_messages(server, monkeypatch, caplog):
    monkeypatch.setenv("OLLAMA_API_KEY", "very-secret-0123")
    encoder = OllamaEncoder("hashing", host=server.url)
    server.first.append(answering(400, {"error": "the key very-secret-0123 is wrong"}))
    with caplog.at_level(logging.DEBUG, logger="mrl_retrieval"), pytest.raises(EncoderError, match=r"\*\*\*") as raised:
        encoder.encode_document(TEXTS)
    assert "very-secret" not in "".join(traceback.format_exception(raised.value)) + caplog.text + repr(encoder)
    assert server.requests[-1].headers["authorization"] == "Bearer very-secret-0123"
