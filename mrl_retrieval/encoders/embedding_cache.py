"""``CachedEncoder``: an encoder that is asked for no text twice, on this machine, whatever process asks.

On by default for encoders that cost money or time over a network. What was encoded before an indexing run died is
there when it runs again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval.encoder import Encoder, Span, encode_checked
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.settings import check_positive

from .embedding_store import EmbeddingStore
from .texts import check_texts

__all__ = ["DEFAULT_BYTES", "CachedEncoder", "cached", "default_path"]

logger = logging.getLogger(__name__)

DEFAULT_BYTES = 4 * 2**30
"""Size of the cache at most: 650,000 vectors of 1536 components."""
_VARIABLE = "MRL_EMBEDDING_CACHE"
_PIECE = 256  # texts that an encoder without pieces of its own is given at a time
_SAME = 0.999  # cosine of a vector in the cache and the same one as the server gives it now


class CachedEncoder(Encoder):
    """An encoder with a cache of its embeddings on disk.

    A vector is found again by the encoder's card, the role (query or document), the ``kwargs`` and the text. Only
    texts that are not there are encoded, each once, and what comes is kept piece by piece: a remote encoder's requests,
    else 256 texts at a time. So a run that failed asks for the rest only when it is repeated. Canary texts, by which a
    collection recognises its encoder, are then encoded once per card and machine. Threads or processes that meet the
    same new text at the same moment each ask for it.

    The card has to name the model: without ``identity.model`` one encoder's vectors would be taken for another's. What
    changes vectors and is not on the card, such as the place where a text is cut, an encoder says by ``cache_scope``. A
    card cannot see that a model was exchanged under the same name and revision; a remote encoder's ``sample``, where
    it has one, is compared with the cache, and all of its vectors are dropped if they disagree.

    The file is shared by threads and processes. A damaged one is begun anew; on a full or read-only disk the encoder
    works without, and says so once in the log.

    Args:
        encoder: what encodes.
        path: the cache's file; None: where the environment variable ``MRL_EMBEDDING_CACHE`` says (``off``: no cache),
            else ``mrl_retrieval/embeddings.sqlite`` under ``XDG_CACHE_HOME`` or ``~/.cache``.
        max_bytes: size of the file at most; what was not used for longest goes first.

    Raises:
        InvalidInput: the encoder's card names no model, ``path`` can be none, or ``max_bytes`` is less than 1.
    """

    def __init__(self, encoder: Encoder, path: str | Path | None = None, max_bytes: int = DEFAULT_BYTES) -> None:
        card = encoder.identity
        if card.model is None:
            raise InvalidInput(
                "the encoder's card names no model, so its vectors cannot be told from another's: give it a name "
                "(as_encoder(obj, name=…)), or use it without a cache"
            )
        self.encoder = encoder
        self.dim, self.identity, self.max_tokens = encoder.dim, card, encoder.max_tokens
        where = default_path() if path is None else _path(path, "cache=")
        self._store = None if where is None else _store(where.absolute(), check_positive(max_bytes, "max_bytes"))
        # The name is left out: one model may be reached under two names.
        told = {**card.to_json(), "name": None, "scope": getattr(encoder, "cache_scope", "")}
        self._card = _digest(_canonical(told))
        self._check_sample()

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """As the encoder does, ``(N, dim)`` at unit length; texts that are in the cache are not asked for."""
        return self._encode(texts, False, kwargs)

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """As the encoder does, ``(Q, dim)`` at unit length; texts that are in the cache are not asked for."""
        return self._encode(texts, True, kwargs)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.encoder.count_tokens(texts)

    def token_spans(self, text: str) -> list[Span] | None:
        return self.encoder.token_spans(text)

    def _encode(self, texts: Sequence[str], queries: bool, kwargs: Mapping[str, Any]) -> FloatArray:
        check_texts(texts)
        prefix = self._prefix(queries, kwargs)
        if self._store is None or prefix is None or not texts:
            return encode_checked(self.encoder, texts, queries=queries, kwargs=kwargs)
        within = getattr(self.encoder, "within_limits", None)
        if callable(within):  # a text that was cut is another text than the same one in full
            texts = within(texts)
        keys = [_key(prefix, text) for text in texts]
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        rows: dict[bytes, list[int]] = {}
        for i, key in enumerate(keys):
            rows.setdefault(key, []).append(i)
        found = self._store.get(list(rows), self.dim)
        for key, vector in found.items():
            vectors[rows[key]] = vector
        missing = [key for key in rows if key not in found]
        numbers = [rows[key][0] for key in missing]
        for positions, part in self._pieces([texts[i] for i in numbers], numbers, queries, kwargs):
            for position, vector in zip(positions, part, strict=True):
                vectors[rows[missing[position]]] = vector
            self._store.put(self._card, {missing[i]: vector for i, vector in zip(positions, part, strict=True)})
        return vectors

    def _pieces(
        self, texts: list[str], numbers: list[int], queries: bool, kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[Sequence[int], FloatArray]]:
        in_pieces = getattr(self.encoder, "encode_in_pieces", None)
        if callable(in_pieces):
            yield from in_pieces(texts, queries=queries, numbers=numbers, **kwargs)
            return
        for start in range(0, len(texts), _PIECE):
            part = texts[start : start + _PIECE]
            yield (
                range(start, start + len(part)),
                encode_checked(self.encoder, part, queries=queries, kwargs=kwargs),
            )

    def _prefix(self, queries: bool, kwargs: Mapping[str, Any]) -> bytes | None:
        """What all keys of a call begin with; None where the call cannot be told in JSON, and so not be kept."""
        try:
            return _digest(self._card + _canonical(["query" if queries else "document", dict(kwargs)]))
        except (TypeError, ValueError):
            return None

    def _check_sample(self) -> None:
        sample = getattr(self.encoder, "sample", None)
        prefix = self._prefix(False, {})
        if sample is None or self._store is None or prefix is None:
            return
        text, now = sample
        key = _key(prefix, text)
        kept = self._store.get([key], self.dim).get(key)
        if kept is not None and float(normalize(kept[None])[0] @ normalize(now[None])[0]) < _SAME:
            logger.warning(
                "the server gives other vectors for %r than it did: those of before are dropped from the cache %s",
                self.identity.model,
                self._store.path,
            )
            self._store.forget(self._card)
            kept = None
        if kept is None:
            self._store.put(self._card, {key: now})


def cached(encoder: Encoder, cache: bool | str | Path) -> Encoder:
    """The encoder behind the cache that an option ``cache=`` asks for: True, False, or the cache's file."""
    if cache is False or (cache is True and default_path() is None):
        return encoder
    return CachedEncoder(encoder, None if cache is True else cache)


def default_path() -> Path | None:
    """Where embeddings are kept unless a path is given; None where ``MRL_EMBEDDING_CACHE`` is ``off``."""
    said = os.environ.get(_VARIABLE, "")
    if said.lower() == "off":
        return None
    if said:
        return _path(said, f"the embedding cache, {_VARIABLE}")
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody's home: a container without the user in its list
        return None
    return base / "mrl_retrieval" / "embeddings.sqlite"


def _path(said: str | Path, where: str) -> Path:
    try:
        path = Path(said).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"{where} is {str(said)!r}: there is no such home folder; write the path out") from error
    if "\0" in str(path):
        raise InvalidInput(f"{where} is {str(said)!r}: no file's name holds a null character")
    return path


@lru_cache(maxsize=16)
def _store(path: Path, max_bytes: int) -> EmbeddingStore:
    """One store a file, so that encoders of one process share a connection."""
    return EmbeddingStore(path, max_bytes)


def _key(prefix: bytes, text: str) -> bytes:
    return _digest(prefix + text.encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
