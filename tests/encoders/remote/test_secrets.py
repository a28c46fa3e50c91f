"""Keys and passwords: in no message, no traceback and no log, whatever a server or a client library says."""

import logging
import traceback

import pytest

from mrl_retrieval.encoders.ollama import OllamaEncoder
from mrl_retrieval.encoders.openai import OpenAIEncoder
from mrl_retrieval.encoders.redaction import without_secret
from mrl_retrieval.errors import EncoderError, InvalidInput

from .http_server import answering

KEY = "sk-very-secret-0123456789"


def told(raised, caplog):
    """All that a user could see."""
    return "".join(traceback.format_exception(raised.value)) + caplog.text


@pytest.mark.parametrize("content", [{"headers": {"authorization": f"Bearer {KEY}"}}, f"Bearer {KEY}".encode()])
@pytest.mark.parametrize("padding", [0, 35, 60, 95])  # a part of the key says too much as well
def test_a_server_that_echoes_the_request(openai, caplog, content, padding):
    server = openai()
    encoder = OpenAIEncoder("m", base_url=f"{server.url}/v1", api_key=KEY)
    content = b" " * padding + content if isinstance(content, bytes) else {"x": "x" * padding, **content}
    server.first.append(answering(200, content))
    with pytest.raises(EncoderError, match="is base_url right") as raised:
        encoder.encode_document(["a"])
    assert "sk-" not in told(raised, caplog)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nX-Header: 1", f"{KEY}\x00", f"{KEY}…"])
def test_a_key_that_no_header_can_hold(openai, ollama, monkeypatch, caplog, key):
    """As read from a file with its line break: the HTTP client would write it into its error."""
    server = openai()
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidInput, match="api_key.*OPENAI_API_KEY") as raised:
        OpenAIEncoder("m", base_url=f"{server.url}/v1", api_key=key)
    assert KEY not in told(raised, caplog) and not server.requests
    if "\x00" in key:
        return  # the environment cannot hold it either
    monkeypatch.setenv("OLLAMA_API_KEY", key)
    server = ollama()
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidInput, match="OLLAMA_API_KEY") as raised:
        OllamaEncoder("hashing", host=server.url)
    assert KEY not in told(raised, caplog) and not server.requests


def test_an_error_with_the_key_below_it_is_not_chained():
    inner, middle, outer = ValueError(f"header {KEY}"), OSError("cut"), RuntimeError("Connection error.")
    assert without_secret(outer, KEY) is outer
    outer.__cause__, middle.__context__ = middle, inner
    assert without_secret(outer, KEY) is None
    assert without_secret(outer, "another key") is outer
    inner.__context__ = outer  # a circle ends, too
    assert without_secret(outer, "another key") is outer


@pytest.mark.parametrize("make", [OpenAIEncoder, OllamaEncoder])
def test_a_password_that_spoils_its_address(openai, ollama, caplog, make):
    """A slash in it: what stands before is read as a port."""
    option = "base_url" if make is OpenAIEncoder else "host"
    with pytest.raises(InvalidInput, match=option) as raised:
        make("m", **{option: f"http://me:{KEY}/x@127.0.0.1/v1"})
    assert KEY not in told(raised, caplog)
