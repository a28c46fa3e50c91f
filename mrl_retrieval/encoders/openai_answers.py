"""What an OpenAI-compatible server answers, read without trust; and its refusals, by what they mean.

The embeddings are taken from the raw JSON: the client library would make a Python float of every component.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import EncoderError, EncoderUnavailable

from .redaction import hidden
from .remote import TextBeyondContext, TooMuchAtOnce

__all__ = ["embeddings_of", "refusal", "said", "times"]

# As OpenAI, vLLM, text-embeddings-inference, llama.cpp, Ollama and infinity say it.
_TOO_LONG = re.compile(
    r"context[ _](?:length|size)|maximum input length|less than \d+ tokens|too large to process|input is too long"
    r"|at most \d+ characters",
    re.I,
)
_TOO_MUCH = re.compile(r"tokens per request|batch[ _]size|too many inputs|array (?:is )?too (?:long|large)", re.I)


def embeddings_of(content: bytes, called: str, secret: str = "") -> list[npt.NDArray[Any]] | list[Any]:
    """The vectors of an answer of ``/embeddings``, in the order of their ``index``.

    Each is an array if it was sent as base64, else what JSON made of it; the caller checks shape and values. What the
    server said instead is repeated in the error, without ``secret``.

    Raises:
        EncoderError: it is no such answer, or indexes are missing or twice there.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EncoderError(
            f"{called} answered with something that is no JSON ({hidden(content, secret)[:60]!r}): is base_url right? "
            "It mostly ends in /v1"
        ) from error
    items = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) and "embedding" in item for item in items):
        raise EncoderError(
            f"{called} answered without embeddings ({hidden(content, secret)[:120]!r}): is base_url right, and the "
            "model one for them?"
        )
    order = [item.get("index") for item in items]
    if any(index is not None for index in order):  # some servers leave the index out and keep the order
        if sorted(index for index in order if isinstance(index, int)) != list(range(len(items))):
            raise EncoderError(
                f"{called} sent {len(items)} vectors whose indexes are not 0 to {len(items) - 1}: {order[:20]}"
            )
        items = sorted(items, key=lambda item: int(item["index"]))
    return [_vector(item["embedding"], called) for item in items]


def refusal(status: int, words: str, called: str, tries: int, wait: str | None = None) -> Exception:
    """The error that a status means, with its remedy.

    Args:
        status: of HTTP.
        words: the server's.
        called: the model in messages.
        tries: how often it was asked.
        wait: its ``Retry-After``, if it sent one.
    """
    told = f"{called} answered {status}: {words}"
    asks = "" if wait is None else f"; it asks to wait {wait[:40]} (seconds, or until then)"
    if status in (400, 413, 422, 500) and _TOO_LONG.search(words):
        return TextBeyondContext(words)
    if status == 413 or (status in (400, 422) and _TOO_MUCH.search(words)):
        return TooMuchAtOnce(words)
    if status == 401:
        return EncoderError(f"{told}. Check api_key= or the environment variable OPENAI_API_KEY")
    if status == 403:
        return EncoderError(f"{told}. The key may not use this model: ask for access, or take another key")
    if status == 404:
        return EncoderError(f"{told}. Check the model's name, and base_url, which mostly ends in /v1")
    if status == 429:
        return EncoderUnavailable(
            f"{told} ({times(tries)}){asks}. Wait, lower concurrency or batch_size, raise max_retries, or check "
            "the account's quota"
        )
    if status in (408, 409) or status >= 500:
        return EncoderUnavailable(f"{told} ({times(tries)}){asks}. Try again later, or look at the server's log")
    return EncoderError(told)


def times(tries: int) -> str:
    """
    >>> times(1), times(3)
    ('tried 1 time', 'tried 3 times')
    """
    return f"tried {tries} time" + "s" * (tries != 1)


def said(body: Any, otherwise: str) -> str:
    """A server's words in the body of an error: OpenAI's ``message``, or FastAPI's ``detail``, which repeats the input.

    >>> said({"detail": [{"msg": "too long", "input": "…"}]}, "")
    'too long'
    """
    if isinstance(body, dict):
        words = body.get("message") or body.get("detail")
        if isinstance(words, list):
            words = "; ".join(str(item.get("msg", item) if isinstance(item, dict) else item) for item in words)
        if words:
            return str(words)
    return otherwise


def _vector(value: Any, called: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    except (binascii.Error, ValueError) as error:
        raise EncoderError(f"{called} sent an embedding that is no base64 of float32 numbers: {error}") from error
