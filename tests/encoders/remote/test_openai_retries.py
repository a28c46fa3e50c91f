"""What the openai encoder tries again where a server is away or busy, when, and what it says where that does not help."""

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mrl_retrieval.encoders.openai import OpenAIEncoder
from mrl_retrieval.errors import EncoderUnavailable

from .http_server import answering, cut, hung_up, late
from .openai_server import error
from .test_openai_failures import TEXTS, check, encoder_of


@pytest.fixture
def server(openai):
    return openai()


@pytest.fixture
def encoder(server):
    return encoder_of(server)


def in_four_seconds():  # a date has whole seconds, so it is three at least
    return format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)


@pytest.mark.parametrize("when", [lambda: "2", in_four_seconds], ids=["seconds", "date"])
def test_retry_after_is_honoured(server, encoder, when):
    server.first.append(lambda *asked: answering(429, error("Rate limit"), {"Retry-After": when()})(*asked))
    check(encoder)
    first, second = server.requests
    assert second.at - first.at >= 2  # the client's own pause is half a second


@pytest.mark.parametrize(
    ("headers", "words"),
    [({"Retry-After": "3600"}, "asks to wait 3600"), ({"x-should-retry": "false"}, "429")],
    ids=["an hour", "told not to"],
)
def test_what_the_client_does_not_try_again_is_said_so(server, encoder, headers, words):
    server.first.append(answering(429, error("quota"), headers))
    with pytest.raises(EncoderUnavailable, match=f"{words}.*") as raised:
        encoder.encode_document(TEXTS)
    assert "tried 1 time)" in str(raised.value) and len(server.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [answering(500, error("oops")), answering(503, b"<html>busy</html>"), cut, hung_up],
    ids=["500", "503", "cut", "hung up"],
)
def test_what_passes_is_tried_again(server, encoder, trouble):
    server.first.append(trouble)
    check(encoder)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (answering(429, error("Rate limit reached"), {"retry-after-ms": "10"}), "429: Rate limit.*concurrency"),
        (answering(500, error("oops"), {"retry-after-ms": "10"}), "500: oops.*Try again later"),
        (cut, "cut"),
        (hung_up, "cut"),
    ],
    ids=["429", "500", "cut", "hung up"],
)
def test_what_does_not_pass_is_said(server, encoder, trouble, words):
    server.first.extend([trouble] * 3)
    with pytest.raises(EncoderUnavailable, match=words) as raised:
        encoder.encode_document(TEXTS)
    assert "tried 3 times" in str(raised.value)
    assert len(server.requests) == 3
    check(encoder)  # and the encoder is none the worse for it


def test_nobody_there(openai):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: refused for as long as this lasts
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        with pytest.raises(EncoderUnavailable, match="cannot be reached.*base_url"):
            OpenAIEncoder("m", base_url=url, max_retries=0)


def test_too_late(server):
    encoder = OpenAIEncoder("m", base_url=f"{server.url}/v1", max_retries=0, timeout=0.3)
    server.first.append(late(1))
    with pytest.raises(EncoderUnavailable, match="in time.*timeout"):
        encoder.encode_document(TEXTS)
