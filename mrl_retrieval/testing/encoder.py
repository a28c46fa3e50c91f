"""``EncoderConformance``: what every encoder must do. Subclass it and give one fixture, ``encoder``.

::

    class TestMyEncoder(EncoderConformance):
        @pytest.fixture(scope="class")
        def encoder(self):
            return MyEncoder("./weights")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mrl_retrieval.encoder import CANARY_TEXTS, Encoder, EncoderCard, encode_checked
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.registry import load_encoder

__all__ = ["EncoderConformance"]

TEXTS = (
    *CANARY_TEXTS,
    "a",
    "  white space around  ",
    "line one\r\nline two\n\n\tline three",
    "emoji 👩‍👩‍👧‍👦 and 𝒎𝒂𝒕𝒉 and a nul \x00 and e\u0301",
    "ﷺ ｆｕｌｌ ｗｉｄｔｈ ½",
    "مرحبا بالعالم",
    "?!…",
)
"""Texts that tokenizers treat in many ways, of very different lengths."""


class EncoderConformance:
    """Subclass it, and give a fixture ``encoder``: an :class:`~mrl_retrieval.encoder.Encoder`.

    A second fixture, ``another_encoder``, is a second instance made in the same way. Unless it is overridden it comes
    from the registry by ``identity.name``, and its tests are skipped for an encoder without a name.

    Vectors are compared by cosine, at ``tolerance``: an encoder may round differently in another batch.
    """

    tolerance = 1e-5
    """How far the cosine of two encodings of one text may be below 1."""

    @pytest.fixture(scope="class")
    def encoder(self) -> Encoder:
        """The encoder to test; every subclass gives its own."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture 'encoder'")

    @pytest.fixture(scope="class")
    def another_encoder(self, encoder: Encoder) -> Encoder:
        """A second instance, made in the same way."""
        if encoder.identity.name is None:
            pytest.skip("the encoder has no name to be loaded by, and no fixture 'another_encoder' is given")
        return load_encoder(encoder.identity.name)

    @pytest.fixture(params=["document", "query"])
    def encode(self, request: pytest.FixtureRequest, encoder: Encoder) -> Callable[[Sequence[str]], FloatArray]:
        """Each of the two methods in turn."""
        method: Callable[[Sequence[str]], FloatArray] = getattr(encoder, f"encode_{request.param}")
        return method

    def same(self, a: FloatArray, b: FloatArray) -> None:
        """Both hold the same vectors, row by row, up to length and ``tolerance``; zero rows equal zero rows."""
        assert a.shape == b.shape
        a, b = normalize(a), normalize(b)
        zero = ~a.any(axis=1)
        assert (zero == ~b.any(axis=1)).all()
        cosines = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
        assert (cosines[~zero] >= 1 - self.tolerance).all(), f"smallest cosine {cosines[~zero].min()}"

    # -- vectors -----------------------------------------------------------------------------------------------------

    def test_shape_and_dtype(self, encoder: Encoder, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """One float32 row of ``dim`` components per text."""
        vectors = encode(list(TEXTS))
        assert isinstance(vectors, np.ndarray)
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert vectors.dtype == np.float32

    def test_finite_for_any_text(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """No NaN and no infinity, whatever the text."""
        assert np.isfinite(encode([*TEXTS, "", " ", "\n\r\n"])).all()

    def test_different_texts_differ(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """Sentences about different things do not get one and the same vector."""
        vectors = normalize(encode(list(CANARY_TEXTS[:6])))
        cosines = vectors @ vectors.T - np.eye(6, dtype=np.float32)
        assert cosines.max() < 0.999

    def test_empty_text(self, encoder: Encoder, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """An empty text is a row like any other, alone and among others."""
        assert encode([""]).shape == (1, encoder.dim)
        mixed = encode([CANARY_TEXTS[0], "", CANARY_TEXTS[1]])
        self.same(mixed[[0, 2]], encode(list(CANARY_TEXTS[:2])))
        self.same(mixed[[1]], encode([""]))

    def test_no_texts(self, encoder: Encoder) -> None:
        """An empty list is ``(0, dim)`` to callers, who come through ``encode_checked``."""
        for queries in (False, True):
            assert encode_checked(encoder, [], queries=queries).shape == (0, encoder.dim)

    def test_deterministic(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """The same call gives the same vectors."""
        self.same(encode(list(TEXTS)), encode(list(TEXTS)))

    def test_independent_of_the_batch(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """A text's vector does not depend on its neighbours: one by one, and beside a long text."""
        together = encode(list(TEXTS))
        self.same(together, np.concatenate([encode([text]) for text in TEXTS]))
        self.same(together, encode([*TEXTS, "many words " * 2000])[:-1])

    def test_order_kept(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """Row i belongs to text i, however the encoder sorts inside; equal texts get equal rows."""
        order = np.random.default_rng(0).permutation(len(TEXTS) * 3) % len(TEXTS)
        self.same(encode([TEXTS[i] for i in order]), encode(list(TEXTS))[order])

    def test_very_long_text(self, encoder: Encoder, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """A text far beyond any context is encoded, in whole or from its beginning, not refused."""
        vectors = encode(["The cat sat on the mat. " * 20_000])
        assert vectors.shape == (1, encoder.dim)
        assert np.isfinite(vectors).all()
        assert vectors.any()

    def test_input_not_changed(self, encoder: Encoder, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """The list of texts is left as it was, and a tuple will do."""
        texts = list(reversed(TEXTS))
        before = list(texts)
        encode(texts)
        encoder.count_tokens(texts)
        assert texts == before
        self.same(encode(tuple(texts)), encode(texts))

    def test_result_is_the_callers(self, encode: Callable[[Sequence[str]], FloatArray]) -> None:
        """What was returned may be changed without spoiling the next answer."""
        first = encode(list(CANARY_TEXTS[:2]))
        kept = first.copy()
        if first.flags.writeable:
            first[:] = 7
        self.same(encode(list(CANARY_TEXTS[:2])), kept)

    # -- identity ----------------------------------------------------------------------------------------------------

    def test_identity(self, encoder: Encoder) -> None:
        """The card agrees with the encoder and survives JSON."""
        card = encoder.identity
        assert isinstance(card, EncoderCard)
        assert isinstance(encoder.dim, int)
        assert encoder.dim >= 1
        assert card.dim == encoder.dim
        assert EncoderCard.from_json(json.loads(json.dumps(card.to_json()))) == card

    def test_identity_is_stable(self, encoder: Encoder, another_encoder: Encoder) -> None:
        """A second instance is the same encoder: same card, same vectors."""
        assert another_encoder is not encoder
        assert another_encoder.identity == encoder.identity
        assert another_encoder.max_tokens == encoder.max_tokens
        for method in ("encode_document", "encode_query"):
            self.same(getattr(encoder, method)(list(TEXTS)), getattr(another_encoder, method)(list(TEXTS)))

    # -- tokens ------------------------------------------------------------------------------------------------------

    def test_count_tokens(self, encoder: Encoder) -> None:
        """One whole number per text, none for no texts, more for a text that was made longer."""
        counts = encoder.count_tokens([*TEXTS, ""])
        assert len(counts) == len(TEXTS) + 1
        assert all(isinstance(n, (int, np.integer)) and n >= 0 for n in counts)
        assert encoder.count_tokens([]) == []
        short, long = encoder.count_tokens(["the cat sat on the mat ", "the cat sat on the mat " * 50])
        assert 0 < short < long

    def test_count_tokens_is_not_cut(self, encoder: Encoder) -> None:
        """A text is counted to its end, also beyond the context: otherwise nothing is ever too long."""
        words = 4 * (encoder.max_tokens or 1000) + 1000
        assert encoder.count_tokens(["cat " * words])[0] >= words

    def test_max_tokens(self, encoder: Encoder) -> None:
        """The context is a whole number, or None for none."""
        assert encoder.max_tokens is None or (isinstance(encoder.max_tokens, int) and encoder.max_tokens >= 1)

    @pytest.mark.parametrize("text", [*TEXTS, ""], ids=lambda text: ascii(text[:12]))
    def test_token_spans(self, encoder: Encoder, text: str) -> None:
        """Spans lie within the text, in order, one per token that was counted; or there are none to be had."""
        spans: Any = encoder.token_spans(text)
        if spans is None:
            return
        assert len(spans) == encoder.count_tokens([text])[0]
        assert all(0 <= start <= end <= len(text) for start, end in spans)
        starts = [start for start, _ in spans]
        ends = [end for _, end in spans]
        assert starts == sorted(starts)
        assert ends == sorted(ends)
