"""How long a text is for a model that runs elsewhere: counted by its tokenizer where one is at hand, else estimated.

An estimate is safe where a request is packed (it is rather too high), and is never taken as proof that a text is too
long unless the user named the limit.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from mrl_retrieval.encoder import Span
from mrl_retrieval.errors import InvalidInput

__all__ = ["Estimate", "TokenCounter", "counter_of", "tiktoken_counter", "uncut"]

logger = logging.getLogger(__name__)

_ASCII_PER_TOKEN = 3  # English has 4 to 5, source code 3 to 4, in OpenAI's vocabularies
_BYTES_PER_TOKEN = 2  # beyond ASCII, in UTF-8: a CJK character (3 bytes) is 1 to 1.5 tokens, an emoji (4) 2 to 3


class TokenCounter(ABC):
    """Counts a text's tokens, and cuts it after so many."""

    exact: bool

    @abstractmethod
    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""

    @abstractmethod
    def cut(self, text: str, tokens: int) -> str:
        """The beginning of the text, of at most that many tokens."""

    def spans(self, text: str) -> list[Span] | None:
        """Where each token lies, in characters; None where that cannot be said."""
        return None


class Estimate(TokenCounter):
    """A guess from the length in bytes.

    >>> Estimate().counts(["", "a", "twelve bytes", "漢字"])
    [0, 1, 4, 3]
    >>> Estimate().cut("twelve bytes and more", 4)
    'twelve bytes'
    """

    exact = False

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [_estimated(text) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        if text.isascii():
            return text[: tokens * _ASCII_PER_TOKEN]
        return _longest(text, tokens, _estimated)


class _Tiktoken(TokenCounter):
    """OpenAI's own tokenizer (a ``tiktoken.Encoding``)."""

    exact = True

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(self._encoding.encode_ordinary(text)) for text in texts]

    def cut(self, text: str, tokens: int) -> str:
        ids = self._encoding.encode_ordinary(text)
        keep = min(tokens, len(ids))
        # A beginning that ends within a word is not always tokenized as it was in the whole text.
        while True:
            beginning: str = self._encoding.decode_bytes(ids[:keep]).decode("utf-8", "ignore")
            if not text.startswith(beginning) or self.counts([beginning])[0] > tokens:
                keep -= 1
            else:
                return beginning

    def spans(self, text: str) -> list[Span] | None:
        ids = self._encoding.encode_ordinary(text)
        if not ids:
            return []
        _, starts = self._encoding.decode_with_offsets(ids)
        return list(zip(starts, [*starts[1:], len(text)], strict=True))


class _Tokenizers(TokenCounter):
    """A tokenizer of Hugging Face's ``tokenizers``."""

    exact = True

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = uncut(tokenizer)

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def cut(self, text: str, tokens: int) -> str:
        spans = self.spans(text)
        if len(spans) <= tokens:
            return text
        end = spans[tokens - 1][1] if tokens else 0
        return _longest(text[:end], tokens, lambda beginning: self.counts([beginning])[0])

    def spans(self, text: str) -> list[Span]:
        offsets: list[Span] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets


def uncut(tokenizer: Any) -> Any:
    """A copy of a ``tokenizers.Tokenizer`` that cuts and pads nothing; others may change the settings of theirs."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def counter_of(tokenizer: Any) -> TokenCounter:
    """A counter of a tokenizer object: ``tokenizers.Tokenizer``, a fast one of transformers, or ``tiktoken.Encoding``.

    Raises:
        InvalidInput: it is none of these.
    """
    if callable(getattr(tokenizer, "encode_ordinary", None)):
        return _Tiktoken(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if callable(getattr(backend, "to_str", None)) and callable(getattr(backend, "encode_batch", None)):
        return _Tokenizers(backend)
    raise InvalidInput(
        f"tokenizer= is a {type(tokenizer).__name__}; pass a tokenizers.Tokenizer, a fast tokenizer of transformers, "
        "or a tiktoken.Encoding"
    )


@lru_cache(maxsize=8)
def tiktoken_counter(model: str) -> TokenCounter | None:
    """OpenAI's tokenizer for a model of theirs; None where tiktoken is not installed or its vocabulary is not here.

    tiktoken downloads a vocabulary once, into ``TIKTOKEN_CACHE_DIR``; without network the estimate has to do.
    """
    try:
        encoding = importlib.import_module("tiktoken").encoding_for_model(model)
    except ImportError:
        logger.debug("tiktoken is not installed: tokens are estimated")
        return None
    except Exception as error:  # noqa: BLE001 - it raises what its HTTP client does
        logger.warning("tiktoken has no vocabulary for %s here (%s): tokens are estimated", model, error)
        return None
    return _Tiktoken(encoding)


def _estimated(text: str) -> int:
    if text.isascii():
        return -(-len(text) // _ASCII_PER_TOKEN)
    ascii_characters = len(text.encode("ascii", "ignore"))
    others = len(text.encode("utf-8", "surrogatepass")) - ascii_characters
    return -(-ascii_characters // _ASCII_PER_TOKEN) - (-others // _BYTES_PER_TOKEN)


def _longest(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """The longest beginning of at most that many tokens, by bisection."""
    if count(text) <= tokens:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count(text[:middle]) <= tokens:
            fits = middle
        else:
            too_long = middle
    return text[:fits]
