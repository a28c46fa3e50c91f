import numpy as np
import pytest

from mrl_retrieval import normalize
from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import EncoderError, InvalidInput, TextTooLongError
from mrl_retrieval.long_texts import encode_long


class Short(HashingEncoder):
    """Sees the first four words only, and says so."""

    max_tokens = 4

    def __init__(self):
        super().__init__(32)
        self.counted = []
        self.encoded = []

    def encode_document(self, texts, **kwargs):
        self.encoded += texts
        return super().encode_document([" ".join(text.split()[:4]) for text in texts], **kwargs)

    def encode_query(self, texts, **kwargs):
        return -self.encode_document(texts, **kwargs)

    def count_tokens(self, texts):
        self.counted += texts
        return super().count_tokens(texts)


TEXTS = ["one two", "one two three four five six seven", "", "one two three four", "a b c d e"]


@pytest.fixture
def encoder():
    return Short()


def test_truncate_leaves_it_to_the_model_and_counts(encoder):
    vectors, long = encode_long(encoder, TEXTS, "truncate")
    assert long == 2
    assert encoder.encoded == TEXTS
    np.testing.assert_array_equal(vectors, encode_checked(encoder, TEXTS, queries=False))
    np.testing.assert_array_equal(vectors[1], vectors[3])


def test_error_names_position_tokens_and_context_and_encodes_nothing(encoder):
    with pytest.raises(TextTooLongError, match=r"documents\[1\] has 7 tokens.*context is 4.*on_long='chunk'"):
        encode_long(encoder, TEXTS, "error")
    with pytest.raises(TextTooLongError, match=r"queries\[101\]"):
        encode_long(encoder, TEXTS, "error", queries=True, first_row=100)
    assert encoder.encoded == []
    assert encode_long(encoder, [TEXTS[0], TEXTS[3]], "error")[1] == 0


@pytest.mark.parametrize("queries", [False, True])
def test_chunk_is_the_mean_of_the_pieces_weighted_by_tokens(encoder, queries):
    vectors, long = encode_long(encoder, TEXTS, "chunk", queries=queries)
    assert long == 2
    assert vectors.shape == (5, 32)
    assert vectors.dtype == np.float32
    parts = {1: (["one two three four", "five six seven"], [4, 3]), 4: (["a b c d", "e"], [4, 1])}
    for i, text in enumerate(TEXTS):
        pieces, weights = parts.get(i, ([text], [1]))
        own = encode_checked(encoder, pieces, queries=queries).astype(np.float64)
        np.testing.assert_allclose(vectors[i], normalize((np.array(weights) @ own)[None])[0], atol=1e-6)
    # All of it counts, not only the beginning.
    other, _ = encode_long(encoder, ["one two three four FIVE OTHER WORDS"], "chunk", queries=queries)
    assert not np.allclose(other[0], vectors[1], atol=1e-3)


def test_several_long_texts_in_any_order(encoder):
    texts = [TEXTS[i] for i in (1, 1, 4, 0, 4, 1)]
    together, _ = encode_long(encoder, texts, "chunk")
    alone = np.concatenate([encode_long(encoder, [text], "chunk")[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_nothing_is_counted_where_it_cannot_matter(encoder):
    encode_long(encoder, ["a b", "abc", "é"], "error")
    assert encoder.counted == ["é"]  # beyond ASCII a character may be many tokens
    encoder.counted.clear()
    encoder.max_tokens = None
    assert encode_long(encoder, TEXTS, "error")[1] == 0
    assert encoder.counted == []


class Marks(Short):
    """Every character is a token, white space too."""

    def count_tokens(self, texts):
        return [len(text) for text in texts]

    def token_spans(self, text):
        return [(i, i + 1) for i in range(len(text))]


def test_a_long_text_without_a_visible_character():
    vectors, long = encode_long(Marks(), ["a", "\n" * 100], "chunk")
    assert long == 1
    assert vectors[0].any()
    assert not vectors[1].any()


def test_no_texts(encoder):
    vectors, long = encode_long(encoder, [], "chunk")
    assert (vectors.shape, long) == ((0, 32), 0)


def test_kwargs_reach_the_encoder(encoder):
    for on_long in ("truncate", "chunk"):
        with pytest.raises(EncoderError, match="prompt"):
            encode_long(encoder, TEXTS, on_long, kwargs={"prompt": "x"})


def test_unknown_way(encoder):
    with pytest.raises(InvalidInput, match="'truncate', 'error', 'chunk', got 'split'"):
        encode_long(encoder, TEXTS, "split")
