"""Embedding models of an Ollama server, asked through the official ``ollama`` package."""

from __future__ import annotations

import importlib
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from mrl_retrieval.encoder import Encoder, EncoderCard
from mrl_retrieval.errors import EncoderError, EncoderUnavailable, InvalidInput, MissingExtra
from mrl_retrieval.retrying import repeated

from .embedding_cache import cached
from .redaction import hidden, sendable_key, without_secret
from .remote import RemoteEncoder, TextBeyondContext
from .specs import as_json, model_and_options

__all__ = ["OllamaEncoder", "from_spec"]

_PAUSES = (0.1, 0.4, 1.6)  # seconds between attempts
_TOO_LONG = re.compile(r"(?:input|maximum context) length|context (?:length|size)|too large to process", re.I)
_PER_CALL = frozenset({"options", "keep_alive"})
_BLOB = re.compile(r"^(FROM|ADAPTER)\s.*sha256[-:]([0-9a-f]{64})\s*$", re.M)
_BATCH_TOKENS = 300_000  # Ollama knows no limit of a request; this keeps one from being hundreds of megabytes


class OllamaEncoder(RemoteEncoder):
    """A model behind Ollama's ``/api/embed``.

    Vectors are checked (number, length, finite) and brought to unit length. An empty text is a zero vector and is not
    sent. Making the encoder asks the server about the model (``/api/show``) and, unless ``dimensions`` is given, for
    one vector. Thread-safe.

    ``identity.revision`` is the digest of the model's weights, so that another quantisation under the same name is
    noticed. ``max_tokens`` is the model's context, or ``num_ctx`` if that is less. A collection can be opened by its
    address alone if neither ``host``, ``prompts`` nor ``options`` was given; ``OLLAMA_HOST`` says where the server is.

    Args:
        model: as ``ollama list`` names it, such as ``"nomic-embed-text"`` or ``"embeddinggemma:300m"``.
        host: of the server; None: the environment's ``OLLAMA_HOST``, else ``http://127.0.0.1:11434``.
        dimensions: ask for vectors of this length; Ollama renormalises them. The first call checks that.
        prompts: ``{"query": …, "document": …}``, put in front of the texts. Ollama adds none by itself, and many
            models want them, such as ``{"query": "search_query: ", "document": "search_document: "}`` for nomic's.
        options: of the runtime, such as ``{"num_ctx": 8192}``.
        keep_alive: how long the model stays loaded, as ``"10m"`` or in seconds; None: the server's default.
        max_tokens: the context, in tokens of a text with its prompt; held to by an estimate if there is no tokenizer.
        truncate: let the server cut what is longer, instead of raising ``TextTooLongError``.
        tokenizer: counts tokens: a ``tokenizers.Tokenizer``, a fast tokenizer of transformers, a ``tiktoken.Encoding``.
        batch_size: texts in one request.
        concurrency: requests under way at a time, over all threads; one request keeps a local server busy.
        timeout: seconds for one attempt; the first one loads the model.

    Raises:
        MissingExtra: the package ``ollama`` is not installed.
        InvalidInput: an argument cannot be used.
        EncoderUnavailable: the server does not run or cannot be reached.
        EncoderError: it has no such model, or the model makes no embeddings.
    """

    def __init__(
        self,
        model: str,
        *,
        host: str | None = None,
        dimensions: int | None = None,
        prompts: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        max_tokens: int | None = None,
        truncate: bool = False,
        tokenizer: Any = None,
        batch_size: int = 256,
        concurrency: int = 1,
        timeout: float = 300.0,
    ) -> None:
        self._package, self._http = _import()
        if not model or not isinstance(model, str):
            raise InvalidInput(f"the ollama encoder needs a model such as 'nomic-embed-text', got {model!r}")
        self._model = model
        self._options, self._keep_alive = dict(options or {}), keep_alive
        as_json(self._options, "options")
        self._key = sendable_key(os.environ.get("OLLAMA_API_KEY", ""), "the environment variable OLLAMA_API_KEY")
        try:
            client = self._package.Client(host=host, timeout=timeout)
        except Exception:  # noqa: BLE001 - of several kinds; their words repeat a part of the address: a password
            raise InvalidInput("host (or OLLAMA_HOST) is no address; write it like '127.0.0.1:11434'") from None
        self._client = client
        self._host = _shown(host or os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434")
        self.close = weakref.finalize(self, client.close)
        told = self._asked_server(lambda: client.show(model))
        super().__init__(
            called=f"the Ollama model {model!r} at {self._host}",
            dimensions=dimensions,
            prompts=prompts,
            max_tokens=max_tokens,
            known_max_tokens=_context(told, self._options),
            truncate=truncate,
            server_cuts=True,
            tokenizer=tokenizer,
            batch_size=batch_size,
            batch_tokens=_BATCH_TOKENS,
            concurrency=concurrency,
        )
        revision = _weights(told)
        self.cache_scope = as_json([None if revision else self._host, self._options], "options")
        if truncate and not self._holds_limit:  # what the server cuts is another text than the same one in full
            self.cache_scope += f" cut at {self.max_tokens}"
        self.dim = dimensions or self._probe()
        nameless = host or self._prompts or self._options
        self.identity = EncoderCard(
            dim=self.dim,
            name=None if nameless else f"ollama:{model}" + (f"?dimensions={dimensions}" if dimensions else ""),
            model=model.removesuffix(":latest"),
            revision=revision,
            prompts={task: text for task, text in self._prompts.items() if text},
            normalization="l2",
        )

    def _request(
        self, texts: Sequence[str], *, queries: bool, dimensions: int | None, kwargs: Mapping[str, Any]
    ) -> list[Any]:
        if unknown := sorted(kwargs.keys() - _PER_CALL):
            raise EncoderError(
                f"the ollama encoder takes {' and '.join(sorted(_PER_CALL))} for a call, got {', '.join(unknown)}"
            )
        body = {
            "model": self._model,
            "input": list(texts),
            "truncate": self._truncate,
            "dimensions": dimensions,
            "options": {**self._options, **(kwargs.get("options") or {})} or None,
            "keep_alive": kwargs.get("keep_alive", self._keep_alive),
        }
        answer = self._asked_server(lambda: self._client.embed(**body))
        return list(answer.embeddings)

    def _asked_server(self, call: Any) -> Any:
        """What a call of the client gives, tried again while the server is away or in trouble."""

        def once() -> Any:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - the client lets those of httpx and pydantic through
                raise self._meant(error) from without_secret(error, self._key)

        return repeated(once, f"asking Ollama at {self._host}", _PAUSES, passing=EncoderUnavailable)

    def _meant(self, error: Exception) -> Exception:
        """The client's exception in this library's terms."""
        where = f"the Ollama server at {self._host}"
        if isinstance(error, self._package.ResponseError):
            status, words = error.status_code, hidden(error.error, self._key)
            if status in (400, 500) and _TOO_LONG.search(words):
                return TextBeyondContext(words)
            if status == 404:
                return EncoderError(f"{where} has no model {self._model!r} ({words}): run `ollama pull {self._model}`")
            if status in (408, 429) or status >= 500:
                return EncoderUnavailable(f"{where} answered {status}: {words}. Look at its log, or try again later")
            return EncoderError(f"{where} answered {status}: {words}. Is {self._model!r} an embedding model?")
        if isinstance(error, ConnectionError):
            return EncoderUnavailable(
                f"{where} does not answer: start it with `ollama serve`, or say where it is by host= or OLLAMA_HOST"
            )
        if isinstance(error, self._http.TimeoutException):
            return EncoderUnavailable(f"{where} did not answer in time: raise timeout, or lower batch_size")
        if isinstance(error, self._http.TransportError):
            return EncoderUnavailable(
                f"the connection to {where} was cut ({hidden(error, self._key) or type(error).__name__})"
            )
        return EncoderError(
            f"{where} answered with what is not Ollama's API ({hidden(error, self._key)}): is host right?"
        )


def from_spec(argument: str = "", *, cache: bool | str = True, **options: Any) -> Encoder:
    """``"ollama:MODEL"`` or ``"ollama:MODEL?dimensions=256"``; options are those of :class:`OllamaEncoder`.

    Args:
        argument: what stands after the colon.
        cache: keep embeddings on this machine, so that none is computed twice (see
            :class:`~mrl_retrieval.encoders.embedding_cache.CachedEncoder`); False: do not; a string: the cache's file.
        options: such as ``host``.

    Raises:
        InvalidInput: no model, or an option that cannot be used.
        MissingExtra: the package ``ollama`` is not installed.
        EncoderError: the server does not run, or has no such model.
    """
    model, options = model_and_options("ollama", argument, "nomic-embed-text", options)
    return cached(OllamaEncoder(model, **options), cache)


def _import() -> tuple[Any, Any]:
    try:
        return importlib.import_module("ollama"), importlib.import_module("httpx")
    except ImportError as error:
        raise MissingExtra("the ollama encoder", "ollama") from error


def _context(told: Any, options: Mapping[str, Any]) -> int | None:
    """The least of the model's context and ``num_ctx``: the caller's, else the one in the model's file."""
    limits = [value for key, value in (told.modelinfo or {}).items() if key.endswith(".context_length")]
    written = re.search(r"^num_ctx\s+(\d+)", told.parameters or "", re.M)
    limits += [options.get("num_ctx") or (written and int(written[1]))]
    whole = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(whole, default=None)


def _weights(told: Any) -> str | None:
    """The digest of the file that holds the weights, and those of adapters upon them.

    It stays if only the template or the licence changes. None where the server does not say.
    """
    found = _BLOB.findall(told.modelfile or "")
    base = next((digest for kind, digest in found if kind == "FROM"), None)
    adapters = "".join(f"+{digest[:16]}" for kind, digest in found if kind == "ADAPTER")
    return f"sha256:{base[:16]}{adapters}" if base else None


def _shown(host: str) -> str:
    """The server's address without what may be secret in it."""
    return host.rpartition("@")[2]
