"""``/v1/embeddings`` as OpenAI documents it, with our hashing encoder as the model: its prefixes are real prefixes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.matryoshka import prefix

from .http_server import Request, Server

MODEL = HashingEncoder(256)
CONTEXT = 500  # words; OpenAI's error beyond it
MOST_TEXTS = 2048


def openai_server(cuts: str = "renormalised", key: str | None = None, most_texts: int = MOST_TEXTS) -> Server:
    """Args:
    cuts: what ``dimensions`` does: ``renormalised``, ``plain`` (not renormalised), ``ignored``, ``nonsense``, ``zeros``.
    key: the only one that is let in.
    most_texts: in one request.
    """

    def usual(server: Server, request: Request) -> tuple[int, Any]:
        if request.path != "/v1/embeddings":
            return 404, error("unknown route")
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            return 401, error(f"Incorrect API key provided: {request.headers.get('authorization')}")
        body = request.body
        if body["model"] == "missing":
            return 404, error("The model `missing` does not exist or you do not have access to it.")
        if not body["input"] or "" in body["input"]:
            return 400, error("'$.input' is invalid.")
        if len(body["input"]) > most_texts:
            return 413, error(f"batch size {len(body['input'])} > maximum allowed batch size {most_texts}")
        if any(len(text.split()) > CONTEXT for text in body["input"]):
            return 400, error(f"This model's maximum context length is {CONTEXT} tokens.")
        return 200, answer(embed(body["input"], body.get("dimensions"), cuts), body.get("encoding_format"))

    return Server(usual)


def embed(texts: list[str], dimensions: int | None, cuts: str) -> np.ndarray[Any, Any]:
    whole = MODEL.encode_document(texts)
    if dimensions is None or cuts == "ignored":
        return whole
    if cuts == "plain":
        return whole[:, :dimensions]
    if cuts == "nonsense":
        return whole[:, -dimensions:]
    return prefix(whole, dimensions)


def answer(vectors: Any, encoding_format: str | None = "float") -> dict[str, Any]:
    data = []
    for i, vector in enumerate(vectors):
        as_base64 = encoding_format == "base64"
        value = (
            base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode() if as_base64 else [float(x) for x in vector]
        )
        data.append({"object": "embedding", "index": i, "embedding": value})
    return {"object": "list", "data": data, "model": "hashing", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
