"""How texts become requests: within the limits, few at a time, and nothing lost where one fails."""

import threading
from itertools import count

import numpy as np
import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.openai import OpenAIEncoder
from mrl_retrieval.encoders.packing import packed
from mrl_retrieval.encoders.token_counts import Estimate
from mrl_retrieval.errors import EncoderError, EncoderUnavailable

from .http_server import answering
from .openai_server import error

TEXTS = [f"text number {i} about {'cats' if i % 2 else 'dogs'}" for i in range(100)]
EXPECTED = HashingEncoder(256).encode_document(TEXTS)


def encoder_of(server, **settings):
    made = OpenAIEncoder("m", base_url=f"{server.url}/v1", max_retries=0, **settings)
    server.requests.clear()
    return made


def sizes(server):
    return [len(request.body["input"]) for request in server.requests]


def test_by_count(openai):
    server = openai()
    encoder = encoder_of(server, batch_size=30, concurrency=1)
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)
    assert sizes(server) == [30, 30, 30, 10]
    assert OpenAIEncoder("m", base_url=f"{server.url}/v1", batch_size=9999)._batch_size == 2048


def test_by_tokens(openai):
    server = openai()
    encoder = encoder_of(server, batch_tokens=400, concurrency=1)
    texts = ["x" * 300, "y" * 300, "z" * 1200, "", "w" * 150, "v" * 150]  # 100, 100, 400, 0, 50 and 50 estimated
    assert encoder.encode_document(texts).shape == (6, 256)
    assert [[text[0] for text in request.body["input"]] for request in server.requests] == [
        ["x", "y"],
        ["z"],
        ["w", "v"],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_requests_hold_every_text_once_within_both_limits(seed):
    random = np.random.default_rng(seed)
    texts = ["é" * int(n) if n % 2 else "e" * int(n) for n in random.integers(0, 400, 200)]
    most_texts, most_tokens = int(random.integers(1, 40)), int(random.integers(10, 2000))
    requests = packed(texts, 9, Estimate(), most_texts, most_tokens)
    assert [i for request in requests for i in request] == [i for i in range(10, 200) if texts[i]]
    for request in requests:
        assert len(request) <= most_texts
        assert (
            len(request) == 1
            or sum(Estimate().counts([texts[i] for i in request])) <= most_tokens / 2
            or sum(len(texts[i].encode()) for i in request) <= most_tokens * 2
        )


def test_a_server_that_takes_less_at_once(openai):
    server = openai(most_texts=16)
    encoder = encoder_of(server)
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)
    refused = len(server.requests)
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)
    assert all(size <= 16 for size in sizes(server)[refused:])  # it is remembered


def test_a_request_too_large_in_bytes_says_nothing_of_many_short_texts(openai):
    server = openai()
    usual = server.usual

    def by_bytes(state, request):
        taken = sum(len(text) for text in request.body["input"]) <= 50_000
        return usual(state, request) if taken else (413, error("Request Entity Too Large"))

    server.usual = by_bytes
    encoder = encoder_of(server)
    encoder.encode_document([f"{i}" + "w" * 45_000 for i in range(8)])
    server.requests.clear()
    assert np.allclose(encoder.encode_document(TEXTS), EXPECTED, atol=1e-6)
    assert sizes(server) == [100]
    server.requests.clear()
    encoder.encode_document([f"{i}" + "w" * 45_000 for i in range(8)])
    assert sizes(server) == [1] * 8  # what was refused is not tried again


def test_a_text_that_is_too_much_by_itself(openai):
    server = openai(most_texts=1)
    encoder = encoder_of(server)
    server.first.append(answering(413, error("payload too large")))
    with pytest.raises(EncoderError, match=r"refuses texts\[0\] by itself"):
        encoder.encode_document(["one"])


def test_concurrency_is_bounded_over_all_threads(openai):
    server = openai()
    encoder = encoder_of(server, batch_size=5, concurrency=3)
    encoder.encode_document(["first"])
    results = {}
    # The first three requests are answered when all of them are there, so they have to be under way together.
    usual, meeting, number = server.usual, threading.Barrier(3, timeout=60), count()

    def answered_together(state, request):
        if next(number) < 3:
            meeting.wait()
        return usual(state, request)

    server.usual = answered_together

    def work(name):
        results[name] = encoder.encode_document(TEXTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(vectors, EXPECTED, atol=1e-6) for vectors in results.values()) and len(results) == 4
    assert server.most_at_a_time == 3


def test_a_first_call_that_fails_costs_one_request(openai):
    server = openai()
    encoder = encoder_of(server, batch_size=10)
    encoder._answered_once = False  # as it is for OpenAI's own models, whose length is known
    server.first.append(answering(401, error("wrong key")))
    with pytest.raises(EncoderError, match="401"):
        encoder.encode_document(TEXTS)
    assert len(server.requests) == 1


def test_what_comes_beside_an_error_is_given(openai):
    server = openai()
    encoder = encoder_of(server, batch_size=10, concurrency=4)
    server.first.append(answering(500, error("oops")))
    came = []
    with pytest.raises(EncoderUnavailable):
        for rows, vectors in encoder.encode_in_pieces(TEXTS, queries=False):
            came += rows
            assert np.allclose(vectors, EXPECTED[rows], atol=1e-6)
    # Of those under way one failed; the others' answers were not thrown away, and what was not begun was not asked.
    assert len(came) == 10 * (len(server.requests) - 1)
