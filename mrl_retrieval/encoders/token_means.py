"""The mean of static token embeddings, in bounded memory: what WordLlama and Model2Vec models compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

__all__ = ["mean_of_tokens", "means_of_tokens", "text_parts"]

_TOKENS_AT_ONCE = 16_384  # rows gathered at a time: 16 MB at 256 dims
_CHARACTERS_AT_ONCE = 1_000_000  # handed to the tokenizer in one call
_TEXTS_AT_ONCE = 4096


def mean_of_tokens(
    embedding: npt.NDArray[Any], rows: Sequence[int] | npt.NDArray[Any], weights: npt.NDArray[Any] | None = None
) -> FloatArray:
    """The mean of T rows of an embedding matrix: ``(D,)`` float32, zeros where there are none.

    Args:
        embedding: ``(V, D)``, of any real dtype.
        rows: T row numbers.
        weights: a factor for each of them, ``(T,)``; None: 1.
    """
    dim = int(embedding.shape[1])
    if not len(rows):
        return np.zeros(dim, dtype=np.float32)
    if len(rows) <= _TOKENS_AT_ONCE and weights is None and embedding.dtype == np.float32:
        mean: FloatArray = embedding[rows].sum(axis=0) / np.float32(len(rows))
        return mean
    total = np.zeros(dim)
    for start in range(0, len(rows), _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        block = embedding[rows[part]]
        total += block.sum(axis=0, dtype=np.float64) if weights is None else weights[part].astype(np.float64) @ block
    return (total / len(rows)).astype(np.float32)


def means_of_tokens(embedding: FloatArray, rows: Sequence[Sequence[int]]) -> FloatArray:
    """:func:`mean_of_tokens` of N texts, to the last bit: ``(N, D)`` float32, from ``(V, D)`` float32.

    Texts of as many tokens are added up together: at a dozen tokens a text, calling NumPy costs more than adding.
    """
    means = np.zeros((len(rows), embedding.shape[1]), dtype=np.float32)
    alike: dict[int, list[int]] = {}
    for i, of_text in enumerate(rows):
        alike.setdefault(len(of_text), []).append(i)
    for length, texts in alike.items():
        if not length or length > _TOKENS_AT_ONCE:
            for i in texts:
                means[i] = mean_of_tokens(embedding, rows[i])
            continue
        most = _TOKENS_AT_ONCE // length
        for start in range(0, len(texts), most):
            part = texts[start : start + most]
            tokens = np.array([rows[i] for i in part], dtype=np.int64)
            means[part] = embedding[tokens].sum(axis=1) / np.float32(length)
    return means


def text_parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in runs small enough for the tokenizer's answer to stay small; a long text is a run by itself."""
    part: list[str] = []
    characters = 0
    for text in texts:
        if part and (characters + len(text) > _CHARACTERS_AT_ONCE or len(part) == _TEXTS_AT_ONCE):
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part
