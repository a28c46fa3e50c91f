"""A deterministic encoder without dependencies, for tests and documentation: words and character 4-grams, hashed."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.encoder import Encoder, EncoderCard, Span
from mrl_retrieval.errors import DimensionError, EncoderError, InvalidInput
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["HashingEncoder", "from_spec"]

_REVISION = "1"  # of the algorithm; another one makes other vectors
_MAX_DIM = 4096
_DIGEST_BITS = 256
_GRAM = 4
_WORD_WEIGHT = 2
_TEXTS_AT_ONCE = 256
_WORDS_AT_ONCE = 4096

# Cut at 32 characters, so that a file without spaces is not one word with a million 4-grams.
_WORD = re.compile(r"\w{1,32}")
_NO_WORD = re.compile(r"\S{1,32}")


class HashingEncoder(Encoder):
    """Feature hashing of lower-cased words and their character 4-grams onto ``dim`` signed components.

    Not a language model: it finds texts that share words or parts of words. It is here so that tests and examples
    run anywhere, at once, with the same numbers: the vectors are the same bytes in every process and on every
    platform (BLAKE2 for hashing, sums of whole numbers, and only operations that IEEE 754 rounds in one way).

    Component ``j`` is scaled by ``1 / sqrt(1 + j / 32)``, so that the first ones hold most of the vector, as in a
    Matryoshka model: over SciFact's 5,183 abstracts and 300 claims, 95 % of the true top 10 by all 256 components are
    among the first 200 by 64, and 88 % among the first 100 (nDCG@10: 0.32). The first d components of a longer
    vector are, up to length, those of ``HashingEncoder(d)``.

    Args:
        dim: components, 1 to 4096.

    Raises:
        DimensionError: ``dim`` is out of range.

    >>> encoder = HashingEncoder(dim=256)
    >>> a, b, c = encoder.encode_document(["a cat on a mat", "cats and mats", "quarterly revenue"])
    >>> bool(a @ b > a @ c)
    True
    """

    def __init__(self, dim: int = 256) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= _MAX_DIM:
            raise DimensionError(f"the hashing encoder makes 1 to {_MAX_DIM} components, got dim={dim!r}")
        self.dim = dim
        self.identity = EncoderCard(
            dim=dim,
            name=f"hashing:{dim}",
            model="hashing",
            revision=_REVISION,
            pooling="weighted sum",
            normalization="l2",
        )
        self._scale = np.rint(1024 / np.sqrt(1 + np.arange(dim) / 32))

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, dim)`` float32 of unit length; a text without a visible character is a zero vector.

        Raises:
            EncoderError: there are ``kwargs``; this encoder knows none.
        """
        if kwargs:
            raise EncoderError(f"the hashing encoder takes no options, got {', '.join(sorted(kwargs))}")
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = [Counter(word.lower() for word in _words(text)) for text in texts[start : start + _TEXTS_AT_ONCE]]
            for row, values in enumerate(self._sums(part) * self._scale, start=start):
                length = math.sqrt(math.fsum(values * values))
                if length:
                    vectors[row] = values / length
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many words each text has."""
        return [sum(1 for _ in _WORD.finditer(text)) or sum(1 for _ in _NO_WORD.finditer(text)) for text in texts]

    def token_spans(self, text: str) -> list[Span]:
        """Where each word lies."""
        return [m.span() for m in _WORD.finditer(text)] or [m.span() for m in _NO_WORD.finditer(text)]

    def _sums(self, texts: Sequence[Counter[str]]) -> npt.NDArray[np.float64]:
        """Weighted sums of the words' vectors, ``(N, dim)``: whole numbers, exact in any order of summation."""
        words = list(dict.fromkeys(word for counts in texts for word in counts))
        column = {word: i for i, word in enumerate(words)}
        sums = np.zeros((len(texts), self.dim))
        for start in range(0, len(words), _WORDS_AT_ONCE):
            block = words[start : start + _WORDS_AT_ONCE]
            weights = np.zeros((len(texts), len(block)))
            for row, counts in enumerate(texts):
                for word, count in counts.items():
                    if start <= column[word] < start + _WORDS_AT_ONCE:
                        weights[row, column[word] - start] = _weight(word, count)
            sums += weights @ np.stack([_word_vector(word, self.dim) for word in block]).astype(np.float64)
        return sums


def from_spec(argument: str = "", **options: Any) -> HashingEncoder:
    """``"hashing"`` (256 components) or ``"hashing:64"``. Takes no options.

    Raises:
        InvalidInput: the argument is no whole number, or there are options.
    """
    if options:
        raise InvalidInput(f"the hashing encoder takes no options, got {', '.join(sorted(options))}")
    if not argument:
        return HashingEncoder()
    if not re.fullmatch(r"[0-9]{1,9}", argument):
        raise InvalidInput(f"'hashing:{argument}': write 'hashing' or the number of components, as in 'hashing:64'")
    return HashingEncoder(int(argument))


def _words(text: str) -> list[str]:
    return _WORD.findall(text) or _NO_WORD.findall(text)


def _weight(word: str, count: int) -> int:
    """Long words say more, the shortest (articles, prepositions) nearly nothing; repetition counts by its root."""
    length = len(word) if word.isascii() else len(word) + 3  # a character of another script may be a word by itself
    return round(16 * math.sqrt(count)) * (4 * (min(length, 8) - 1) if length > 3 else 1)


@lru_cache(maxsize=32768)
def _word_vector(word: str, dim: int) -> npt.NDArray[np.int16]:
    """The sum of one sign per component for the word (counted twice) and one for each of its 4-grams."""
    marked = f"^{word}$"
    features = [(b"word", word)] * _WORD_WEIGHT
    if len(marked) > _GRAM:
        features += [(b"gram", marked[i : i + _GRAM]) for i in range(len(marked) - _GRAM + 1)]
    total = np.zeros(dim, dtype=np.int16)
    for block in range(-(-dim // _DIGEST_BITS)):
        own = total[block * _DIGEST_BITS : (block + 1) * _DIGEST_BITS]
        digests = b"".join(
            hashlib.blake2b(
                feature.encode("utf-8", "surrogatepass"),
                digest_size=_DIGEST_BITS // 8,
                salt=block.to_bytes(4, "little"),
                person=kind,
            ).digest()
            for kind, feature in features
        )
        bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(len(features), _DIGEST_BITS)
        own += (2 * bits.sum(axis=0, dtype=np.int16) - len(features))[: len(own)].astype(np.int16)
    total.setflags(write=False)
    return total
