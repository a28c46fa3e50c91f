"""Embedding models behind OpenAI's API: OpenAI's own, and those of any server that speaks it, by ``base_url``."""

from __future__ import annotations

import importlib
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from mrl_retrieval.encoder import Encoder, EncoderCard
from mrl_retrieval.errors import EncoderError, EncoderUnavailable, InvalidInput, MissingExtra
from mrl_retrieval.matryoshka import check_dim
from mrl_retrieval.settings import check_positive

from .embedding_cache import cached
from .openai_answers import embeddings_of, refusal, said, times
from .prompts import TASKS
from .redaction import hidden, sendable_key, without_secret
from .remote import RemoteEncoder
from .specs import as_json, model_and_options
from .token_counts import tiktoken_counter

__all__ = ["OpenAIEncoder", "from_spec"]

# Components and context of OpenAI's own models (platform.openai.com/docs/guides/embeddings).
_MODELS = {
    "text-embedding-3-small": (1536, 8192),
    "text-embedding-3-large": (3072, 8192),
    "text-embedding-ada-002": (1536, 8192),
}
_MOST_TEXTS = 2048  # in one request, and the tokens of all of them (the API reference of /v1/embeddings)
_MOST_TOKENS = 300_000
_OURS = frozenset({"input", "model", "dimensions"})  # parameters that are not the caller's
_NO_KEY = "no-key-needed"


class OpenAIEncoder(RemoteEncoder):
    """A model behind ``/v1/embeddings``, asked through the official ``openai`` package.

    Vectors are checked (number, order by ``index``, length, finite) and brought to unit length. An empty text is a
    zero vector and is not sent: the API refuses it. Thread-safe.

    ``max_tokens`` is 8192 for OpenAI's own models. With ``tiktoken`` installed, or a ``tokenizer``, lengths are
    counted before anything is sent; else OpenAI judges, and its refusal is put in words. Of a compatible server the
    context is unknown unless it is given, and many cut texts silently. A given ``max_tokens`` is always held to, by
    an estimate if need be.

    A collection can be opened by its address alone if the model was given without ``base_url``, ``prompts`` and body
    parameters (``identity.name`` is None otherwise); environment variables hold the rest.

    Args:
        model: such as ``"text-embedding-3-small"``.
        base_url: of a compatible server, mostly ending in ``/v1``; None: the environment's ``OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: None: the environment's ``OPENAI_API_KEY``. A server given by ``base_url`` may need none.
        dimensions: ask the server for vectors of this length, to save bandwidth; the encoder's ``dim`` is then this.
            The first call checks that they are prefixes of the long ones, with one request more.
        prompts: ``{"query": …, "document": …}``, put in front of the texts.
        query_body: further parameters in the body of requests for queries, such as ``{"input_type": "query"}``.
        document_body: the same for documents.
        max_tokens: the context, in tokens of a text with its prompt.
        truncate: cut what is longer, and say so once in the log, instead of raising ``TextTooLongError``.
        tokenizer: counts tokens: a ``tokenizers.Tokenizer``, a fast tokenizer of transformers, a ``tiktoken.Encoding``.
        batch_size: texts in one request, at most 2048.
        batch_tokens: tokens in one request.
        concurrency: requests under way at a time, over all threads.
        max_retries: of a request, on 408, 409, 429, 5xx, cut connections and timeouts; ``Retry-After`` is honoured.
        timeout: seconds for one attempt.

    Raises:
        MissingExtra: the package ``openai`` is not installed.
        InvalidInput: an argument cannot be used.
        EncoderError: there is no API key; or the server refuses the one text by which an unknown model's length is
            learned.
        EncoderUnavailable: the server cannot be reached to learn it.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        prompts: Mapping[str, str] | None = None,
        query_body: Mapping[str, Any] | None = None,
        document_body: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        truncate: bool = False,
        tokenizer: Any = None,
        batch_size: int = 256,
        batch_tokens: int = _MOST_TOKENS,
        concurrency: int = 4,
        max_retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        self._package = _import()
        if not model or not isinstance(model, str):
            raise InvalidInput(f"the openai encoder needs a model such as 'text-embedding-3-small', got {model!r}")
        where = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = api_key or os.environ.get("OPENAI_API_KEY") or (_NO_KEY if where else "")
        self._key = sendable_key(key, "api_key=, or the environment variable OPENAI_API_KEY,")
        if not self._key:
            raise EncoderError(
                f"the OpenAI model {model!r} needs an API key: set the environment variable OPENAI_API_KEY or pass "
                "api_key=; for a server of your own that needs none, pass base_url="
            )
        self._model = model
        self._bodies = {task: _body(body) for task, body in zip(TASKS, (query_body, document_body), strict=True)}
        told = {f"{task}_body": as_json(body, f"{task}_body") for task, body in self._bodies.items() if body}
        dim, context = _MODELS.get(model, (None, None))
        if dim is not None and dimensions is not None:
            check_dim(dimensions, dim, what="dimensions")
        super().__init__(
            called=f"the model {model!r} at {_host(where)}",
            dimensions=dimensions,
            prompts=prompts,
            max_tokens=max_tokens,
            known_max_tokens=context,
            truncate=truncate,
            server_cuts=context is None,
            tokenizer=tokenizer,
            batch_size=min(check_positive(batch_size, "batch_size"), _MOST_TEXTS),
            batch_tokens=batch_tokens,
            concurrency=concurrency,
            counter=tiktoken_counter(model) if context is not None else None,
        )
        self._retries = max_retries
        try:
            self._client = self._package.OpenAI(
                api_key=self._key, base_url=where, max_retries=max_retries, timeout=timeout
            )
        except Exception as error:  # noqa: BLE001 - it raises several kinds for its settings
            refused = f"the openai client refuses its settings: {hidden(error, self._key)}"
            raise InvalidInput(refused) from without_secret(error, self._key)
        self.close = weakref.finalize(self, self._client.close)
        self.cache_scope = where or ""
        self.dim = dimensions or dim or self._probe()
        nameless = base_url or self._prompts or told
        self.identity = EncoderCard(
            dim=self.dim,
            name=None if nameless else f"openai:{model}" + (f"?dimensions={dimensions}" if dimensions else ""),
            model=model,
            prompts={**{task: text for task, text in self._prompts.items() if text}, **told},
            normalization="l2",
        )

    def _request(
        self, texts: Sequence[str], *, queries: bool, dimensions: int | None, kwargs: Mapping[str, Any]
    ) -> list[Any]:
        body = {**self._bodies["query" if queries else "document"], **_body(kwargs)}
        asked: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        try:
            answer = self._client.embeddings.with_raw_response.create(
                model=self._model, input=list(texts), encoding_format="base64", extra_body=body or None, **asked
            )
            content: bytes = answer.content
        except Exception as error:  # noqa: BLE001 - beside its own the client raises what its HTTP client does
            raise self._meant(error) from without_secret(error, self._key)
        return embeddings_of(content, self._called, self._key)

    def _meant(self, error: Exception) -> Exception:
        """The client's exception in this library's terms, without the key."""
        if isinstance(error, self._package.APIStatusError):
            words = hidden(said(error.body, error.message), self._key)
            # The client gives up at once where it is told to, or to wait for longer than it ever does (two minutes).
            tries = 1 + int(error.request.headers.get("x-stainless-retry-count", self._retries))
            wait = error.response.headers.get("retry-after")
            return refusal(
                error.status_code, words, self._called, tries, None if wait is None else hidden(wait, self._key)
            )
        if isinstance(error, self._package.APITimeoutError):
            return EncoderUnavailable(
                f"{self._called} did not answer in time ({times(self._retries + 1)}): raise timeout, or lower "
                "batch_size"
            )
        if isinstance(error, self._package.APIConnectionError):
            return EncoderUnavailable(
                f"{self._called} cannot be reached, or the connection was cut ({times(self._retries + 1)}): "
                f"{hidden(error.__cause__ or error, self._key)}. Check base_url and the network"
            )
        return EncoderError(f"{self._called} failed: {hidden(repr(error), self._key)}")


def from_spec(argument: str = "", *, cache: bool | str = True, **options: Any) -> Encoder:
    """``"openai:MODEL"`` or ``"openai:MODEL?dimensions=256"``; options are those of :class:`OpenAIEncoder`.

    Args:
        argument: what stands after the colon.
        cache: keep embeddings on this machine, so that none is paid for twice (see
            :class:`~mrl_retrieval.encoders.embedding_cache.CachedEncoder`); False: do not; a string: the cache's file.
        options: such as ``base_url``.

    Raises:
        InvalidInput: no model, or an option that cannot be used.
        MissingExtra: the package ``openai`` is not installed.
        EncoderError: there is no API key, or the server refuses.
    """
    model, options = model_and_options("openai", argument, "text-embedding-3-small", options)
    return cached(OpenAIEncoder(model, **options), cache)


def _import() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise MissingExtra("the openai encoder", "openai") from error


def _body(body: Mapping[str, Any] | None) -> dict[str, Any]:
    checked = dict(body or {})
    if reserved := sorted(_OURS & checked.keys()):
        raise InvalidInput(f"{', '.join(reserved)}: set by the encoder, not by body parameters; leave it out")
    return checked


def _host(url: str | None) -> str:
    """The server's address without what may be secret in it."""
    if url is None:
        return "api.openai.com"
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme, parts.hostname, parts.port
    except ValueError:  # its words repeat a part of the address, which may be a password
        scheme, name, port = "", None, None
    if scheme not in ("http", "https") or not name:
        raise InvalidInput(
            "base_url is no web address: it needs http:// or https://, a host, and a number if there is a port; write "
            "it like 'http://127.0.0.1:8000/v1'"
        )
    return f"{scheme}://{name}" + (f":{port}" if port else "")
