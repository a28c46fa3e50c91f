"""What happens to a text that is longer than the encoder's context."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from .chunking import split_text
from .encoder import Encoder, encode_checked
from .errors import InvalidInput, TextTooLongError
from .matryoshka import FloatArray, normalize

__all__ = ["OnLong", "TextEncoding", "encode_long"]

logger = logging.getLogger(__name__)

OnLong = Literal["truncate", "error", "chunk"]
"""What to do with a text beyond the encoder's context.

``"truncate"``: leave it to the model, which sees the beginning only. ``"error"``: refuse the batch. ``"chunk"``: encode
it in pieces that fit and keep the mean of their vectors, weighted by tokens, as the one vector of the text.
"""


def encode_long(
    encoder: Encoder,
    texts: Sequence[str],
    on_long: OnLong = "truncate",
    *,
    queries: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    first_row: int = 0,
) -> tuple[FloatArray, int]:
    """Encode texts of any length: ``(vectors (N, D), how many were beyond the context)``.

    Vectors are float32 of unit length (or zero), one row per text whatever ``on_long`` says.

    Args:
        encoder: what encodes; its ``max_tokens`` is the context, None: there is no limit and nothing is counted.
        texts: N texts.
        on_long: see :data:`OnLong`.
        queries: encode as queries, else as documents.
        kwargs: passed on to the encoder.
        first_row: added to positions in messages, where ``texts`` is a part of something longer.

    Raises:
        InvalidInput: ``on_long`` is none of the three.
        TextTooLongError: a text is too long and ``on_long="error"``; nothing was encoded.
        EncoderError: the encoder failed.
    """
    if on_long not in get_args(OnLong):
        raise InvalidInput(f"on_long must be one of {', '.join(map(repr, get_args(OnLong)))}, got {on_long!r}")
    limit = encoder.max_tokens
    long = {} if limit is None else _too_long(encoder, texts, limit)
    if long and limit is not None:
        if on_long == "error":
            position, tokens = next(iter(long.items()))
            raise TextTooLongError(
                f"{'queries' if queries else 'documents'}[{first_row + position}] has {tokens} tokens, the encoder's "
                f"context is {limit}: split the text first, or pass on_long='chunk' (mean of its pieces) or 'truncate'"
            )
        if on_long == "chunk":
            return _in_pieces(encoder, texts, list(long), limit, queries, kwargs), len(long)
    return encode_checked(encoder, texts, queries=queries, kwargs=kwargs), len(long)


class TextEncoding:
    """:func:`encode_long` with one setting; it counts the texts beyond the context, and warns of the first."""

    def __init__(self, on_long: OnLong) -> None:
        if on_long not in get_args(OnLong):
            raise InvalidInput(f"on_long is {on_long!r}; use {', '.join(map(repr, get_args(OnLong)))}")
        self._on_long: OnLong = on_long
        self.long_texts = 0

    def __call__(
        self, encoder: Encoder, texts: Sequence[str], *, queries: bool, kwargs: Mapping[str, Any] | None = None
    ) -> FloatArray:
        """Vectors of N texts, ``(N, D)``."""
        vectors, long = encode_long(encoder, texts, self._on_long, queries=queries, kwargs=kwargs)
        if long and not self.long_texts:
            logger.warning(
                "a text is longer than the %s tokens of the encoder's context (on_long=%r); further ones are counted "
                "in retriever.long_texts and not mentioned again",
                encoder.max_tokens,
                self._on_long,
            )
        self.long_texts += long
        return vectors


def _too_long(encoder: Encoder, texts: Sequence[str], limit: int) -> dict[int, int]:
    """Position and tokens of every text beyond the context, in order."""
    # A token of an ASCII text covers at least one character, bar a marker that some tokenizers put in front. Beyond
    # ASCII one character may be many tokens (its bytes, or what it is normalised to), so those are always counted.
    doubtful = [i for i, text in enumerate(texts) if len(text) >= limit or not text.isascii()]
    if not doubtful:
        return {}
    counts = encoder.count_tokens([texts[i] for i in doubtful])
    return {i: tokens for i, tokens in zip(doubtful, counts, strict=True) if tokens > limit}


def _in_pieces(
    encoder: Encoder,
    texts: Sequence[str],
    long: Sequence[int],
    limit: int,
    queries: bool,
    kwargs: Mapping[str, Any] | None,
) -> FloatArray:
    pieces = {i: [chunk.text for chunk in split_text(texts[i], limit, encoder)] or [texts[i]] for i in long}
    flat: list[str] = []
    rows: list[int] = []
    for i, text in enumerate(texts):
        parts = pieces.get(i, [text])
        flat += parts
        rows += [i] * len(parts)
    vectors = encode_checked(encoder, flat, queries=queries, kwargs=kwargs)
    first = np.searchsorted(rows, np.arange(len(texts)))
    mean = vectors[first]
    for i in long:
        own = slice(int(first[i]), int(first[i]) + len(pieces[i]))
        weights = np.maximum(encoder.count_tokens(pieces[i]), 1).astype(np.float64)
        mean[i] = normalize((weights @ vectors[own] / weights.sum())[None, :])[0]
    return mean
