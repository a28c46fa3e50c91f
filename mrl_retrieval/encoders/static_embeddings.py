"""What encoders of static token embeddings share: a text's vector is a mean over its tokens, however long it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from mrl_retrieval.encoder import Encoder, Span
from mrl_retrieval.errors import EncoderError
from mrl_retrieval.matryoshka import FloatArray, normalize

from .token_means import text_parts

__all__ = ["StaticEncoder"]


class StaticEncoder(Encoder):
    """Texts are encoded whole, in bounded memory. Subclasses set ``family`` and ``_tokenizer``, write ``_means``."""

    family: ClassVar[str]
    """The encoder's name in messages."""
    _tokenizer: Any
    """A ``tokenizers.Tokenizer`` that cuts and pads nothing."""

    @abstractmethod
    def _means(self, ids: Sequence[Sequence[int]]) -> FloatArray:
        """The vectors ``(N, D)`` of N texts' token ids, of any length; zeros where a text has none."""

    def encode_document(self, texts: Sequence[str], **kwargs: Any) -> FloatArray:
        """``(N, D)`` float32 of unit length, zero where a text is empty.

        Raises:
            EncoderError: there are ``kwargs``; this encoder knows none.
        """
        if kwargs:
            raise EncoderError(f"the {self.family} encoder takes no options, got {', '.join(sorted(kwargs))}")
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        row = 0
        for part in self._tokenized(texts):
            vectors[row : row + len(part)] = self._means([tokens.ids for tokens in part])
            row += len(part)
        return normalize(vectors)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's own tokenizer, unknown ones too."""
        return [len(tokens) for part in self._tokenized(texts) for tokens in part]

    def token_spans(self, text: str) -> list[Span]:
        """Where each token lies, in characters; the bytes of one character share its span."""
        spans: list[Span] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return spans

    def _tokenized(self, texts: Sequence[str]) -> Iterator[list[Any]]:
        # The fast form, without offsets, is there since tokenizers 0.20; Model2Vec asks for that, WordLlama not.
        encode = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)
        for part in text_parts(texts):
            yield encode(part, add_special_tokens=False)
