"""What goes wrong between the openai encoder and a server: every way is a typed error with its remedy, and no key."""

import base64
import logging
import traceback

import numpy as np
import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.openai import OpenAIEncoder
from mrl_retrieval.errors import EncoderError, EncoderUnavailable, InvalidInput, TextTooLongError

from .http_server import answering
from .openai_server import answer, error

KEY = "sk-very-secret-0123456789"
TEXTS = ["a cat on a mat", "quarterly revenue", "the last commit"]
EXPECTED = HashingEncoder(256).encode_document(TEXTS)


@pytest.fixture
def server(openai):
    return openai()


def encoder_of(server):
    """With nothing asked yet."""
    made = OpenAIEncoder("m", base_url=f"{server.url}/v1", api_key=KEY, max_retries=2)
    server.requests.clear()
    return made


@pytest.fixture
def encoder(server):
    return encoder_of(server)


def check(encoder):
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)


# -- what is not tried again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, error("bad request"), "400: bad request"),
        (401, error(f"Incorrect API key provided: {KEY}"), "OPENAI_API_KEY"),
        (403, error("not allowed"), "may not use this model"),
        (404, error("unknown route"), "/v1"),
        (422, {"detail": [{"msg": "strange", "input": "a cat"}]}, "422: strange$"),
        (200, b"<html>Welcome</html>", "no JSON.*base_url"),
        (200, b'{"data": [', "no JSON"),
        (200, b"", "no JSON"),
        (200, {"hello": 1}, "without embeddings"),
        (200, [], "without embeddings"),
        (200, {"data": ["x"]}, "without embeddings"),
    ],
)
def test_refusals(server, encoder, status, answer, words):
    server.first.append(answering(status, answer))
    with pytest.raises(EncoderError, match=words) as raised:
        encoder.encode_document(TEXTS)
    assert not isinstance(raised.value, EncoderUnavailable)
    assert len(server.requests) == 1
    check(encoder)


def test_unknown_model(server):
    with pytest.raises(EncoderError, match="'missing'.*404.*does not exist.*Check the model's name"):
        OpenAIEncoder("missing", base_url=f"{server.url}/v1")


def rotated(vectors):
    """Right vectors in another order, each with its index."""
    data = answer(vectors, "base64")
    data["data"] = data["data"][1:] + data["data"][:1]
    return data


def with_indexes(indexes):
    data = answer(EXPECTED)
    for item, index in zip(data["data"], indexes, strict=True):
        item["index"] = index
    return data


def test_order_by_index(server, encoder):
    server.first.append(answering(200, rotated(EXPECTED)))
    check(encoder)


def test_servers_without_indexes_keep_the_order(server, encoder):
    data = answer(EXPECTED)
    for item in data["data"]:
        del item["index"]
    server.first.append(answering(200, data))
    check(encoder)


def broken(value):
    vectors = EXPECTED.astype(object)
    vectors[1, 7] = value
    return {"data": [{"index": i, "embedding": list(row)} for i, row in enumerate(vectors)]}


def nan_in_base64():
    vectors = EXPECTED.copy()
    vectors[2, 3] = np.nan
    return answer(vectors, "base64")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (answer(EXPECTED[:2]), "2 vectors for 3 texts"),
        (answer(np.concatenate([EXPECTED, EXPECTED])), "6 vectors for 3 texts"),
        (answer([]), "0 vectors for 3 texts"),
        (answer(EXPECTED[:, :100]), "100 components, they had 256"),
        (answer(np.tile(EXPECTED, 2)), "512 components, they had 256"),
        (answer([EXPECTED[0], EXPECTED[1][:7], EXPECTED[2]]), "rectangle"),
        (answer([EXPECTED[0], EXPECTED[1][:7], EXPECTED[2]], "base64"), "rectangle"),
        (broken(float("nan")), "component 7"),
        (broken(float("inf")), "component 7"),
        (broken(1e300), "component 7"),
        (broken(None), "component 7|rectangle"),
        (broken("x"), "rectangle"),
        (nan_in_base64(), r"\[2\] has nan at component 3"),
        (with_indexes([0, 0, 1]), r"indexes.*\[0, 0, 1\]"),
        (with_indexes([1, 2, 3]), "indexes"),
        (with_indexes([0, None, 2]), "indexes"),
        ({"data": [{"index": i, "embedding": "%%%"} for i in range(3)]}, "base64"),
        ({"data": [{"index": i, "embedding": base64.b64encode(b"12345").decode()} for i in range(3)]}, "base64"),
        ({"data": [{"index": i, "embedding": 7} for i in range(3)]}, "rectangle|components|shape"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_vectors_that_cannot_be_used(server, encoder, bad, words):
    server.first.append(answering(200, bad))
    with pytest.raises(EncoderError, match=words):
        encoder.encode_document(TEXTS)
    check(encoder)


@pytest.mark.parametrize("texts", [256, 1])
def test_numbers_are_no_vectors(server, encoder, texts):
    """Also where there are as many texts as components: one row must not become that of every text."""
    server.first.append(answering(200, {"data": [{"index": i, "embedding": 0.5} for i in range(texts)]}))
    with pytest.raises(EncoderError, match="vector"):
        encoder.encode_document([f"text {i}" for i in range(texts)])
    server.first.append(answering(200, {"data": [{"index": 0, "embedding": 7}]}))
    with pytest.raises(EncoderError, match="vector"):
        OpenAIEncoder("m", base_url=f"{server.url}/v1")  # which learns the length by it


@pytest.mark.parametrize(("texts", "words"), [(["a", None], r"texts\[1\] is NoneType"), ("a cat", "list of texts")])
def test_what_is_no_list_of_texts_is_not_sent(server, encoder, texts, words):
    with pytest.raises(InvalidInput, match=words):
        encoder.encode_document(texts)
    assert not server.requests


def test_no_key_in_messages(openai, caplog):
    server = openai(key="another")
    with caplog.at_level(logging.DEBUG, logger="mrl_retrieval"), pytest.raises(EncoderError, match="401") as raised:
        OpenAIEncoder("m", base_url=f"{server.url}/v1", api_key=KEY)
    told = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert "Incorrect API key" in told and KEY not in told
    encoder = OpenAIEncoder("m", base_url=f"{openai().url}/v1", api_key=KEY)
    assert KEY not in f"{encoder!r} {encoder.identity!r} {encoder.cache_scope}"


def test_no_password_of_an_address_in_messages(server):
    url = server.url.replace("http://", "http://me:pass-word@")
    encoder = OpenAIEncoder("m", base_url=f"{url}/v1")
    server.first.append(answering(400, error("no")))
    with pytest.raises(EncoderError) as raised:
        encoder.encode_document(TEXTS)
    assert "pass-word" not in f"{raised.value} {encoder!r}"


# -- dimensions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuts", "words"), [("renormalised", None), ("plain", "does not renormalise"), ("ignored", "ignores dimensions=64")]
)
def test_short_vectors_are_prefixes_whatever_the_server_does(openai, caplog, cuts, words):
    server = openai(cuts=cuts)
    encoder = OpenAIEncoder("m", base_url=f"{server.url}/v1", dimensions=64)
    assert not server.requests
    short = encoder.encode_document(TEXTS)
    assert np.allclose(short, HashingEncoder(64).encode_document(TEXTS), atol=1e-6)
    encoder.encode_document(TEXTS)
    encoder.encode_query(TEXTS)
    assert [record.message for record in caplog.records if "mrl_retrieval" in record.name] == (
        [next(r.message for r in caplog.records if words in r.message)] if words else []
    )
    # One request more, for one text at full length; none where the length shows it already.
    extra = [request for request in server.requests if "dimensions" not in request.body]
    assert [len(request.body["input"]) for request in extra] == ([] if cuts == "ignored" else [1])
    assert len(server.requests) == 3 + len(extra)


def test_short_vectors_that_are_no_prefixes(openai):
    encoder = OpenAIEncoder("m", base_url=f"{openai(cuts='nonsense').url}/v1", dimensions=64)
    for _ in range(2):
        with pytest.raises(EncoderError, match="not the beginning.*leave dimensions out"):
            encoder.encode_document(TEXTS)


def test_more_dimensions_than_there_are(openai):
    encoder = OpenAIEncoder("m", base_url=f"{openai(cuts='ignored').url}/v1", dimensions=300)
    with pytest.raises(EncoderError, match="asked for 300 components and sent 256"):
        encoder.encode_document(TEXTS)


# -- texts ---------------------------------------------------------------------------------------------------------


def test_a_text_that_the_server_finds_too_long_is_named(server, encoder):
    texts = ["a cat", "word " * 501, "characters" * 400]
    with pytest.raises(TextTooLongError, match=r"texts\[1\].*maximum context length is 500.*truncate=True"):
        encoder.encode_document(texts)


def test_a_given_limit_is_held_to(server, caplog):
    texts = ["a cat", "dog " * 90, "漢字" * 100]
    strict = OpenAIEncoder("m", base_url=f"{server.url}/v1", max_tokens=100)
    server.requests.clear()
    with pytest.raises(TextTooLongError, match=r"texts\[1\] has about 120 tokens, .* is 100"):
        strict.encode_document(texts)
    assert not server.requests
    cutting = OpenAIEncoder("m", base_url=f"{server.url}/v1", max_tokens=100, truncate=True)
    cutting.encode_document(texts)
    cutting.encode_document(texts)
    short, first, second = server.requests[-1].body["input"]
    assert short == "a cat" and texts[1].startswith(first) and texts[2].startswith(second)
    assert cutting.count_tokens([first]) == [100] and cutting.count_tokens([second]) == [99]
    assert len([record for record in caplog.records if "is cut to the 100" in record.message]) == 1


def test_a_lone_surrogate_is_named(encoder):
    with pytest.raises(InvalidInput, match=r"texts\[1\]"):
        encoder.encode_document(["fine", "a \ud800 b"])
