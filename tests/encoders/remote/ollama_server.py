"""Ollama's ``/api/embed``, ``/api/show`` and ``/api/tags`` after its API documentation, with our hashing encoder.

Beyond ``dimensions`` it cuts and renormalises, a text beyond the context is an error unless ``truncate`` is true (the
default), and an unknown model is a 404: as server/routes.go does.
"""

from __future__ import annotations

from typing import Any

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.matryoshka import prefix

from .http_server import Request, Server

MODEL = HashingEncoder(256)
CONTEXT = 500
BLOB = "970aa74c0a90ef7482477cf803618e776e173c007bf957f635f1015bfcfef0e6"


def ollama_server(model: str = "hashing:latest", blob: str = BLOB) -> Server:
    def usual(server: Server, request: Request) -> tuple[int, Any]:
        body = request.body
        if request.path == "/api/tags":
            return 200, {"models": [{"name": model, "model": model, "digest": "f" * 64, "size": 1}]}
        name = body.get("model", "")
        if name not in (model, model.removesuffix(":latest")):
            return 404, {"error": f"model '{name}' not found"}
        if request.path == "/api/show":
            return 200, {
                "modelfile": f"# Modelfile\nFROM /root/.ollama/models/blobs/sha256-{blob}\nTEMPLATE {{{{ .Prompt }}}}\n",
                "parameters": "num_ctx                        8192",
                "template": "{{ .Prompt }}",
                "details": {"family": "hashing", "quantization_level": "F32"},
                "model_info": {
                    "general.architecture": "hashing",
                    "hashing.context_length": CONTEXT,
                    "hashing.embedding_length": MODEL.dim,
                },
                "capabilities": ["embedding"],
            }
        if request.path == "/api/embed":
            return _embed(body)
        return 404, {"error": "unknown route"}

    return Server(usual)


def _embed(body: dict[str, Any]) -> tuple[int, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else list(body["input"])
    for i, text in enumerate(texts):
        if len(text.split()) > CONTEXT:
            if body.get("truncate", True) is False:
                return 400, {"error": "the input length exceeds the context length"}
            texts[i] = " ".join(text.split()[:CONTEXT])
    vectors = MODEL.encode_document(texts)
    dimensions = body.get("dimensions") or 0
    if 0 < dimensions < vectors.shape[1]:
        vectors = prefix(vectors, dimensions)
    return 200, {"model": body["model"], "embeddings": vectors.tolist(), "total_duration": 1, "prompt_eval_count": 1}
