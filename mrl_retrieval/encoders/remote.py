"""What every encoder behind HTTP shares: texts are packed into requests, some are under way at a time, and what comes
back is checked before it is believed.

A subclass writes :meth:`RemoteEncoder._request`, one request and its errors. Retries are the client library's business
where it has them.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mrl_retrieval.encoder import CANARY_TEXTS, Encoder, Span
from mrl_retrieval.errors import EncoderError, InvalidInput, MRLError, TextTooLongError
from mrl_retrieval.matryoshka import FloatArray, as_vectors, normalize, number_of_axes
from mrl_retrieval.settings import check_positive

from .packing import as_they_come, halved, packed
from .prompts import checked_prompts
from .short_vectors import ShortVectors
from .texts import check_texts, check_unicode
from .token_counts import Estimate, TokenCounter, counter_of

__all__ = ["RemoteEncoder", "TextBeyondContext", "TooMuchAtOnce"]

logger = logging.getLogger(__name__)

_SUSPECTS = 4  # texts asked for one by one, longest first, to name the one that a server finds too long


class TextBeyondContext(Exception):
    """A server refused a request because of a text's length; it seldom says which text."""


class TooMuchAtOnce(Exception):
    """A server takes no request of this size, though each of its texts may be fine."""


class RemoteEncoder(Encoder):
    """The common part; see a subclass for the arguments as users see them.

    Args:
        called: the model in messages, such as ``"the OpenAI model 'm' at http://host"``.
        max_tokens: the context as the user gave it: held to, even if lengths are estimated.
        known_max_tokens: the context as it is known of the model: held to where lengths are counted exactly, else the
            server judges.
        server_cuts: whether the server cuts a text that is too long by itself, where ``truncate`` says so.
        counter: counts tokens where no ``tokenizer`` is given; None: they are estimated.
    """

    cache_scope: str = ""
    """What tells this encoder's vectors from others with the same card, for a cache that outlives the process."""
    sample: tuple[str, FloatArray] | None = None
    """A text and its vector ``(D,)`` as the server gave it when this object was made, if it was asked."""

    def __init__(
        self,
        *,
        called: str,
        dimensions: int | None,
        prompts: Mapping[str, str] | None,
        max_tokens: int | None,
        known_max_tokens: int | None,
        truncate: bool,
        server_cuts: bool,
        tokenizer: Any,
        batch_size: int,
        batch_tokens: int,
        concurrency: int,
        counter: TokenCounter | None = None,
    ) -> None:
        self._called = called
        self._prompts = checked_prompts(prompts)
        self._dimensions = None if dimensions is None else check_positive(dimensions, "dimensions")
        self._batch_size = check_positive(batch_size, "batch_size")
        self._batch_tokens = check_positive(batch_tokens, "batch_tokens")
        self._concurrency = check_positive(concurrency, "concurrency")
        self._truncate = truncate
        self._counter = (counter or Estimate()) if tokenizer is None else counter_of(tokenizer)
        named = None if max_tokens is None else check_positive(max_tokens, "max_tokens")
        limit = named or known_max_tokens
        if limit is not None and self._prompts:
            limit = max(1, limit - max(self._counter.counts(list(self._prompts.values()))))
        self.max_tokens = limit
        self._holds_limit = limit is not None and (
            named is not None or self._counter.exact or (truncate and not server_cuts)
        )
        self._slots = threading.BoundedSemaphore(self._concurrency)
        self._first = threading.Lock()
        self._answered_once = self._cut_once = False
        self._taken_before: tuple[int, int] | None = None
        self._short = None if self._dimensions is None else ShortVectors(self._dimensions, called)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._called}>"

    @abstractmethod
    def _request(
        self, texts: Sequence[str], *, queries: bool, dimensions: int | None, kwargs: Mapping[str, Any]
    ) -> Any:
        """One request for N texts, none of them empty: something like an ``(N, D)`` matrix, in the texts' order.

        Raises:
            EncoderError: it failed, and not in the ways below.
            TextBeyondContext: a text is too long for the model.
            TooMuchAtOnce: the server takes fewer texts in one request.
        """

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, D)`` float32 of unit length; an empty text is a zero vector and is not sent.

        Raises:
            EncoderUnavailable: the server cannot be reached, is busy, or answered too late, after all retries.
            EncoderError: it refused, or its answer cannot be used.
            TextTooLongError: a text is beyond the context, and ``truncate`` is off.
        """
        return self._encode(texts, False, kwargs)

    def encode_query(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(Q, D)``; like :meth:`encode_document`, with the prompt and the parameters for queries."""
        return self._encode(texts, True, kwargs)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without prompts and special tokens; estimated where no tokenizer is at hand."""
        return self._counter.counts(texts)

    def token_spans(self, text: str) -> list[Span] | None:
        """Where each token lies, in characters; None where tokens are estimated."""
        return self._counter.spans(text)

    def encode_in_pieces(
        self, texts: Sequence[str], *, queries: bool, numbers: Sequence[int] | None = None, **kwargs: Any
    ) -> Iterator[tuple[list[int], FloatArray]]:
        """Positions and their vectors, request by request, as the answers come; each position once.

        If a request fails, what the others bring is still given before the error is raised.

        Args:
            texts: N texts.
            queries: encode as queries, else as documents.
            numbers: what to call the texts in messages; None: their positions.
            kwargs: parameters of the request.
        """
        numbers = range(len(texts)) if numbers is None else numbers
        prompt = self._prompts.get("query" if queries else "document", "")
        prepared = [prompt + text for text in self.within_limits(texts, numbers)]
        if empty := [i for i, text in enumerate(prepared) if not text]:
            yield empty, np.zeros((len(empty), self.dim), dtype=np.float32)

        def ask(rows: list[int]) -> FloatArray:
            return self._answer([prepared[i] for i in rows], [numbers[i] for i in rows], queries, kwargs)

        batches = self._packed(prepared)
        if batches and not self._answered_once:
            # Alone, so that a wrong key or model costs one request, and the server's limits are known to the next.
            with self._first:
                first = batches[0]
                vectors = ask(first)
                self._answered_once = True
            yield first, vectors
            batches = self._packed(prepared, after=first[-1])
        if len(batches) == 1 or self._concurrency == 1:
            for rows in batches:
                yield rows, ask(rows)
        elif batches:
            with ThreadPoolExecutor(min(self._concurrency, len(batches))) as pool:
                yield from as_they_come({pool.submit(ask, rows): rows for rows in batches})

    def _encode(self, texts: Sequence[str], queries: bool, kwargs: Mapping[str, Any]) -> FloatArray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for rows, part in self.encode_in_pieces(texts, queries=queries, **kwargs):
            vectors[rows] = part
        return vectors

    def _probe(self) -> int:
        """Ask for one vector, to learn its length; keeps it as :attr:`sample`."""
        text = CANARY_TEXTS[0]
        try:
            rows = self._request([self._prompts.get("document", "") + text], queries=False, dimensions=None, kwargs={})
        except (TextBeyondContext, TooMuchAtOnce) as error:
            raise EncoderError(f"{self._called} refuses even one short text: {error}") from error
        vector = normalize(self._checked(rows, 1))[0]
        self.sample = (text, vector)
        self._answered_once = True
        return len(vector)

    def within_limits(self, texts: Sequence[str], numbers: Sequence[int] | None = None) -> list[str]:
        """The texts as far as the model sees them, without prompts: cut where they are too long, if ``truncate`` is on.

        A limit that only the server knows for sure is left to it.

        Raises:
            TextTooLongError: one is too long, and ``truncate`` is off.
            InvalidInput: one is no text, or no valid Unicode.
        """
        check_texts(texts, numbers)
        numbers = range(len(texts)) if numbers is None else numbers
        kept = list(texts)
        # Beyond ASCII one character may be many tokens.
        limit = self.max_tokens if self._holds_limit else None
        doubtful = [i for i, text in enumerate(texts) if not text.isascii() or (limit and len(text) > limit)]
        for i in doubtful:
            check_unicode(texts[i], numbers[i])
        if limit is None:
            return kept
        for i, tokens in zip(doubtful, self.count_tokens([texts[i] for i in doubtful]), strict=True):
            if tokens > limit:
                if not self._truncate:
                    raise self._too_long(numbers[i], texts[i])
                kept[i] = self._counter.cut(texts[i], limit)
                if not self._cut_once:
                    self._cut_once = True
                    logger.warning(
                        "texts[%d] has %s tokens and is cut to the %d that %s takes; further ones are cut without "
                        "being mentioned",
                        numbers[i],
                        tokens if self._counter.exact else f"about {tokens}",
                        limit,
                        self._called,
                    )
        return kept

    def _packed(self, texts: Sequence[str], after: int = -1) -> list[list[int]]:
        return packed(texts, after, self._counter, self._batch_size, self._batch_tokens, self._taken_before)

    def _answer(self, texts: list[str], numbers: list[int], queries: bool, kwargs: Mapping[str, Any]) -> FloatArray:
        """Unit vectors ``(N, dim)`` of texts that fit one request, unless the server thinks otherwise."""
        try:
            rows = self._asked(texts, queries, self._dimensions, kwargs)
        except TextBeyondContext as error:
            raise self._blamed(texts, numbers, queries, kwargs, error) from error
        except TooMuchAtOnce as error:
            if len(texts) == 1:
                raise EncoderError(f"{self._called} refuses texts[{numbers[0]}] by itself: {error}") from error
            half = len(texts) // 2
            self._taken_before = halved(texts, self._counter, self._taken_before)
            logger.info("%s refuses %d texts in one request (%s): fewer are sent", self._called, len(texts), error)
            parts = (slice(None, half), slice(half, None))
            return np.concatenate([self._answer(texts[part], numbers[part], queries, kwargs) for part in parts])
        if self._short is not None:
            return self._short.fit(rows, lambda row: self._asked([texts[row]], queries, None, kwargs))
        if rows.shape[1] != self.dim:
            raise EncoderError(
                f"{self._called} sent vectors of {rows.shape[1]} components, they had {self.dim}: does the server hold "
                "another model now? Make the encoder again"
            )
        return normalize(rows)

    def _asked(self, texts: list[str], queries: bool, dimensions: int | None, kwargs: Mapping[str, Any]) -> FloatArray:
        with self._slots:
            raw = self._request(texts, queries=queries, dimensions=dimensions, kwargs=kwargs)
        return self._checked(raw, len(texts))

    def _checked(self, raw: Any, n: int) -> FloatArray:
        if len(raw) != n:
            raise EncoderError(f"{self._called} sent {len(raw)} vectors for {n} texts")
        try:
            if number_of_axes(raw[0], "a vector") != 1:  # N numbers would be taken for one vector of all texts
                raise InvalidInput(f"its vectors must have shape (N, D), got {type(raw[0]).__name__} for a vector")
            return as_vectors(raw, what="its vectors")
        except InvalidInput as error:
            raise EncoderError(f"{self._called} sent what cannot be used: {error}") from error

    def _blamed(
        self, texts: list[str], numbers: list[int], queries: bool, kwargs: Mapping[str, Any], refused: Exception
    ) -> MRLError:
        """The error that names the text that the server found too long."""
        suspects = sorted(range(len(texts)), key=lambda i: len(texts[i].encode()), reverse=True)
        for i in suspects[:_SUSPECTS] if len(texts) > 1 else suspects:
            if len(texts) > 1:
                try:
                    self._asked([texts[i]], queries, self._dimensions, kwargs)
                except TextBeyondContext:
                    pass
                else:
                    continue
            return self._too_long(numbers[i], texts[i], refused)
        return EncoderError(
            f"{self._called} finds one of {len(texts)} texts too long and does not say which: {refused}"
        )

    def _too_long(self, number: int, text: str, refused: Exception | None = None) -> TextTooLongError:
        tokens = self._counter.counts([text])[0]
        limit = "its limit" if self.max_tokens is None else str(self.max_tokens)
        words = f" (it says: {refused})" if refused else ""
        remedy = "or make the encoder with truncate=True"
        if refused and self._truncate:
            remedy = "or give the encoder a max_tokens, so that it is cut before it is sent"
        return TextTooLongError(
            f"texts[{number}] has {'' if self._counter.exact else 'about '}{tokens} tokens, the context of "
            f"{self._called} is {limit}{words}: split the text first, pass on_long='chunk' to the retriever, {remedy}"
        )
