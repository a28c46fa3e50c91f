"""The contract of an encoder, the card that identifies it, and ``as_encoder`` for foreign objects.

An encoder turns texts into *full* embeddings. Truncation is never its business. To write one, subclass
:class:`Encoder`, set ``dim`` and ``identity``, write ``encode_document``, and run
:class:`mrl_retrieval.testing.EncoderConformance` on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from .errors import EncoderError, InvalidInput, ManifestError, MRLError
from .matryoshka import FloatArray, as_vectors, normalize

__all__ = ["CANARY_TEXTS", "Encoder", "EncoderCard", "Span", "as_encoder", "encode_checked"]

Span = tuple[int, int]
"""Start and end of a piece of text, in characters."""

CANARY_TEXTS = (
    "The cat sat on the mat.",
    "How do I undo the last commit in git?",
    "Revenue grew by 12.5 % in the third quarter of 2019, to $1,204 million.",
    "def area(r): return math.pi * r ** 2",
    "La démocratie meurt dans l'obscurité — 民主主義 — Демократия.",
    "Mitochondrial DNA copy number correlates with statin-induced myopathy in adults over 65.",
    "no",
    "A long sentence that goes on and on, so that models which pool differently, cut earlier, or lower-case their "
    "input differ from one another by more than rounding, is the last of these eight canaries; it says nothing else.",
)
"""Texts whose vectors a collection keeps, to notice a changed encoder. Part of the format: never edited."""


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What tells one encoder from another. Fields that are None are unknown and not compared."""

    dim: int
    name: str | None = None
    """The registry's name for it, such as ``"wordllama"``; None where the object has to be given again."""
    model: str | None = None
    revision: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts put in front of queries (``"query"``) and documents (``"document"``)."""
    pooling: str | None = None
    normalization: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` is its inverse."""
        return asdict(self) | {"prompts": dict(self.prompts)}

    @classmethod
    def from_json(cls, value: Any) -> EncoderCard:
        """Read :meth:`to_json`'s form.

        Raises:
            ManifestError: a field is missing or of a wrong type.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or not isinstance(value.get("dim"), int):
            raise ManifestError(f"an encoder card is an object with a whole number 'dim', got {value!r}")
        texts = {k: v for k, v in value.items() if k in known and k not in ("dim", "prompts")}
        prompts = value.get("prompts", {})
        if not isinstance(prompts, dict) or not all(v is None or isinstance(v, str) for v in texts.values()):
            raise ManifestError(f"an encoder card holds strings, got {value!r}")
        return cls(dim=value["dim"], prompts=prompts, **texts)

    def differences(self, other: EncoderCard) -> list[tuple[str, Any, Any]]:
        """The fields in which both cards say something, and not the same: ``(field, mine, other's)``.

        ``name`` is left out: the same model may be reached under two names.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name != "name"]
        return [(name, a, b) for name, a, b in pairs if a is not None and b is not None and a != b]


class Encoder(ABC):
    """Texts to full embeddings.

    Subclasses set ``dim`` (length of an embedding) and ``identity`` (an :class:`EncoderCard`), and may set
    ``max_tokens`` (the context; None: unlimited).
    """

    dim: int
    identity: EncoderCard
    max_tokens: int | None = None

    @abstractmethod
    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """Embeddings of documents: ``(N, D)`` float32, finite; any length, the caller normalises."""

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """Embeddings of queries: ``(Q, D)``. The same as for documents unless the model tells them apart."""
        return self.encode_document(texts, **kwargs)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for this encoder; here a guess from the words (3 words make 4 tokens)."""
        return [-(-len(text.split()) * 4 // 3) for text in texts]

    def token_spans(self, text: str) -> list[Span] | None:
        """Where each token lies in ``text``, in characters; None where the tokenizer cannot say."""
        return None


class _ForeignEncoder(Encoder):
    """A duck-typed object, or a plain callable, behind the contract."""

    def __init__(
        self,
        document: Callable[..., Any],
        query: Callable[..., Any],
        name: str | None,
        card: EncoderCard | None,
        max_tokens: int | None,
    ) -> None:
        self._document, self._query = document, query
        self.max_tokens = max_tokens
        if card is None:
            probe = self.encode_document(list(CANARY_TEXTS[:2]))
            if probe.shape[0] != 2:
                raise EncoderError(f"the encoder gave {probe.shape[0]} vectors for 2 texts")
            card = EncoderCard(dim=int(probe.shape[1]), name=None, model=name)
        self.dim, self.identity = card.dim, card

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        return as_vectors(self._document(list(texts), **kwargs), what="the encoder's vectors")

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        return as_vectors(self._query(list(texts), **kwargs), what="the encoder's vectors")


def as_encoder(obj: Any, name: str | None = None) -> Encoder:
    """Make an :class:`Encoder` of nearly anything.

    Taken as they are: an :class:`Encoder`. Wrapped: a sentence-transformers model, an object with
    ``encode_document`` (and ``encode_query``), one with ``embed_documents`` and ``embed_query`` (LangChain's
    form), one with ``encode``, and any callable ``texts -> (N, D)``. A string is looked up in the registry.

    Args:
        obj: the object.
        name: what to call its model in the collection's identity. An unnamed callable is identified by its
            vectors of a few fixed texts alone, an object of LangChain's form by the name that it gives its model too.

    Raises:
        InvalidInput: it is none of these.
        EncoderError: it failed on a first try, or gave no matrix.
    """
    if isinstance(obj, str):
        from .registry import load_encoder  # here, because the registry needs this module

        return load_encoder(obj)
    if isinstance(obj, Encoder):
        return obj
    if any(kind.__module__.split(".")[0] == "sentence_transformers" for kind in type(obj).__mro__):
        from .encoders.sentence_transformers import SentenceTransformerEncoder

        wrapped = SentenceTransformerEncoder(obj)
        if name is not None:
            wrapped.identity = replace(wrapped.identity, model=name)
        return wrapped
    max_tokens = getattr(obj, "max_tokens", None)
    if callable(getattr(obj, "encode_document", None)):
        card = getattr(obj, "identity", None)
        found = card if isinstance(card, EncoderCard) else None
        if found and name is not None:
            found = replace(found, model=name)
        return _wrap(obj.encode_document, getattr(obj, "encode_query", obj.encode_document), name, found, max_tokens)
    if callable(getattr(obj, "embed_documents", None)) and callable(getattr(obj, "embed_query", None)):
        from .encoders.langchain import LangChainEncoder

        known = isinstance(max_tokens, int) and max_tokens > 0
        return LangChainEncoder(obj, model=name, max_tokens=max_tokens if known else None)
    if callable(getattr(obj, "encode", None)):
        return _wrap(obj.encode, obj.encode, name, None, max_tokens)
    if callable(obj) and not isinstance(obj, type):
        return _wrap(obj, obj, name, None, max_tokens)
    raise InvalidInput(
        f"{type(obj).__name__} is no encoder: pass a name such as 'wordllama', a SentenceTransformer, an object "
        "with encode_document(texts), or a function texts -> (N, D) array"
    )


def _wrap(
    document: Callable[..., Any],
    query: Callable[..., Any],
    name: str | None,
    card: EncoderCard | None,
    max_tokens: int | None,
) -> Encoder:
    try:
        return _ForeignEncoder(document, query, name, card, max_tokens)
    except MRLError as error:
        raise EncoderError(f"the encoder does not give a matrix of embeddings: {error}") from error
    except Exception as error:
        raise EncoderError(f"the encoder failed on its first two texts: {error!r}") from error


def encode_checked(
    encoder: Encoder, texts: Sequence[str], *, queries: bool, kwargs: Mapping[str, Any] | None = None
) -> FloatArray:
    """Encode and hold the encoder to its contract: ``(N, dim)`` float32 rows of unit length.

    Raises:
        EncoderError: it raised, gave another number of rows or another length, or a value is not finite.
    """
    if not texts:
        return np.empty((0, encoder.dim), dtype=np.float32)
    call = encoder.encode_query if queries else encoder.encode_document
    try:
        raw = call(texts, **(kwargs or {}))
    except MRLError:
        raise
    except Exception as error:
        raise EncoderError(f"{_called(encoder)} failed on {len(texts)} texts: {error!r}") from error
    try:
        vectors = as_vectors(raw, dim=encoder.dim, what="the encoder's vectors")
    except InvalidInput as error:
        raise EncoderError(f"{_called(encoder)} gave vectors that cannot be used: {error}") from error
    if len(vectors) != len(texts):
        raise EncoderError(f"{_called(encoder)} gave {len(vectors)} vectors for {len(texts)} texts")
    return normalize(vectors)


def _called(encoder: Encoder) -> str:
    return f"the encoder {encoder.identity.name or encoder.identity.model or type(encoder).__name__!r}"
