"""LangChain's embedding models, or anything else with ``embed_documents`` and ``embed_query``. Imports no LangChain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mrl_retrieval.encoder import Encoder, EncoderCard
from mrl_retrieval.errors import EncoderError, InvalidInput, MRLError
from mrl_retrieval.matryoshka import FloatArray, as_vectors
from mrl_retrieval.settings import check_positive

from .model_files import local_path

__all__ = ["LangChainEncoder", "model_name"]

_NAMES = ("model", "model_name", "model_id")
"""Under which the integrations keep the model's name: OpenAI, Ollama and Cohere; Hugging Face; Bedrock."""


class LangChainEncoder(Encoder):
    """An object with LangChain's two methods behind the contract.

    Documents go through ``embed_documents``, in batches; queries, one at a time, through ``embed_query``. Prompts,
    retries and caches are the object's own business. Thread-safe if the object is.

    It is recognised by the name of its model, as far as it tells one, and by its vectors. A collection cannot be opened
    by its address alone: the object has to be given again (``identity.name`` is None).

    Args:
        embeddings: ``embed_documents(list of N texts)`` gives N vectors, ``embed_query(text)`` one.
        model: what to call the model in the collection's card; None: what the object says (see :func:`model_name`).
        dim: length of its vectors; None: one query is embedded to find out, which a paid service charges for.
        batch_size: texts in one call of ``embed_documents``.
        max_tokens: the model's context; None: not known, or none.

    Raises:
        InvalidInput: the object lacks one of the methods, or a number is below 1.
        EncoderError: it failed on the first query, or gave no vector.
    """

    def __init__(
        self,
        embeddings: Any,
        *,
        model: str | None = None,
        dim: int | None = None,
        batch_size: int = 256,
        max_tokens: int | None = None,
    ) -> None:
        for method in ("embed_documents", "embed_query"):
            if not callable(getattr(embeddings, method, None)):
                raise InvalidInput(f"{type(embeddings).__name__} has no method {method}; pass a LangChain Embeddings")
        self._embeddings = embeddings
        self._batch_size = check_positive(batch_size, "batch_size")
        self.max_tokens = None if max_tokens is None else check_positive(max_tokens, "max_tokens")
        self._said = None if dim is None else check_positive(dim, "dim")
        self.dim = self._said or int(self.encode_query(["How long are its vectors?"]).shape[1])
        self.identity = EncoderCard(dim=self.dim, model=model if model is not None else model_name(embeddings))

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, D)`` float32; ``kwargs`` go to ``embed_documents``.

        Raises:
            EncoderError: the object failed, or did not give one vector of length D for each text.
        """
        parts = [list(texts[i : i + self._batch_size]) for i in range(0, len(texts), self._batch_size)]
        vectors = [self._vectors(self._embeddings.embed_documents, part, len(part), kwargs) for part in parts]
        return np.concatenate(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(Q, D)`` float32; ``kwargs`` go to ``embed_query``.

        Raises:
            EncoderError: as :meth:`encode_document`.
        """
        vectors = [self._vectors(self._embeddings.embed_query, text, 1, kwargs) for text in texts]
        return np.concatenate(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)

    def _vectors(self, embed: Callable[..., Any], given: Any, count: int, kwargs: dict[str, Any]) -> FloatArray:
        called = f"{type(self._embeddings).__name__}.{getattr(embed, '__name__', 'embed')}"
        try:
            raw = embed(given, **kwargs)
        except MRLError:
            raise
        except Exception as error:  # every service's client has kinds of its own
            raise EncoderError(f"{called} failed on {count} texts: {error!r}") from error
        try:
            vectors = as_vectors(raw, dim=getattr(self, "dim", self._said), what="its vectors")
        except InvalidInput as error:
            raise EncoderError(f"{called} gave vectors that cannot be used: {error}") from error
        if len(vectors) != count:
            raise EncoderError(f"{called} gave {len(vectors)} vectors for {count} texts")
        return vectors


def model_name(embeddings: Any) -> str | None:
    """The name that an embedding model gives its model: its ``model``, ``model_name`` or ``model_id``, if it is a text.

    None where it has none, and for a folder, which may be moved: such a model is recognised by its vectors.
    """
    found = next((name for key in _NAMES if isinstance(name := getattr(embeddings, key, None), str) and name), None)
    if found is None or found[0] == "\\" or local_path(found) is not None:
        return None
    return found
