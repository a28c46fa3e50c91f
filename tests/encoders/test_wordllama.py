import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import load_encoder, normalize
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders import token_means
from mrl_retrieval.encoders import wordllama as module
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra
from mrl_retrieval.testing import EncoderConformance

pytest.importorskip("wordllama", reason="needs wordllama")


@pytest.fixture(scope="module")
def encoder():
    return module.WordLlamaEncoder()


@pytest.fixture(scope="module")
def library():
    """The package's own model, as its users load it."""
    import wordllama

    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


class TestWordLlama(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self):
        return load_encoder("wordllama")


def test_equals_the_librarys_own_pooling(encoder, library, scifact):
    texts = [*scifact[0][:500], *CANARY_TEXTS, "a", " ", "emoji 👩‍👩‍👧‍👦"]
    np.testing.assert_allclose(encoder.encode_document(texts), library.embed(texts, norm=True), atol=1e-6)


def test_a_long_text_is_the_exact_mean(encoder, library, monkeypatch):
    text = " ".join(f"{word} number {i}" for i, word in enumerate(["alpha", "beta", "gamma"] * 3000))
    assert encoder.count_tokens([text])[0] > token_means._TOKENS_AT_ONCE
    long = encoder.encode_document([text])
    ids = library.tokenizer.encode(text, add_special_tokens=False).ids
    exact = library.embedding[ids].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(long[0], exact / np.linalg.norm(exact), atol=1e-6)
    np.testing.assert_allclose(long, library.embed([text], norm=True), atol=1e-4)  # its float32 sums lose digits
    monkeypatch.setattr(token_means, "_TOKENS_AT_ONCE", 100)
    np.testing.assert_allclose(encoder.encode_document([text]), long, atol=1e-6)


def test_in_parts_or_at_once(encoder, monkeypatch):
    texts = [*CANARY_TEXTS, "", "x" * 5000, *CANARY_TEXTS]
    vectors, counts = encoder.encode_document(texts), encoder.count_tokens(texts)
    monkeypatch.setattr(token_means, "_CHARACTERS_AT_ONCE", 200)
    monkeypatch.setattr(token_means, "_TEXTS_AT_ONCE", 3)
    np.testing.assert_array_equal(encoder.encode_document(texts), vectors)
    assert encoder.count_tokens(texts) == counts


def test_unit_length_or_zero(encoder):
    vectors = encoder.encode_document([*CANARY_TEXTS, ""])
    np.testing.assert_allclose(np.linalg.norm(vectors[:-1], axis=1), 1, atol=1e-6)
    assert not vectors[-1].any()


def test_tokens_are_the_librarys(encoder, library):
    texts = [*CANARY_TEXTS, "", "bytes: 👩‍👩‍👧‍👦"]
    assert encoder.count_tokens(texts) == [sum(e.attention_mask) for e in library.tokenize(texts)]
    text = texts[-1]
    assert "".join(dict.fromkeys(text[a:b] for a, b in encoder.token_spans(text))).replace(" ", "").startswith("bytes:")


def test_threads_get_the_same_vectors(encoder, library):
    texts = [f"{text} {'and so on ' * (i % 40)}" for i in range(50) for text in CANARY_TEXTS]
    parts = [texts[i::8] for i in range(8)]
    expected = [encoder.encode_document(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for vectors, right in zip(pool.map(encoder.encode_document, parts), expected, strict=True):
                np.testing.assert_array_equal(vectors, right)
    # A model of the package's own that pads, used meanwhile, has a tokenizer of its own.
    library.embed(texts[:3])
    np.testing.assert_array_equal(encoder.encode_document(parts[0]), expected[0])


def test_instances_share_weights_that_nobody_can_change(encoder):
    assert module.WordLlamaEncoder()._embedding is encoder._embedding
    with pytest.raises(ValueError, match="read-only"):
        encoder._embedding[0] = 0


def test_identity(encoder):
    card = encoder.identity
    assert (card.name, card.model, card.dim) == ("wordllama", "wordllama/l2_supercat", 256)
    assert card.revision.startswith("sha256:")
    assert encoder.max_tokens is None


def test_options_are_refused(encoder):
    for argument, options in (("64", {}), ("", {"device": "cpu"})):
        with pytest.raises(InvalidInput, match="takes no options, got"):
            module.from_spec(argument, **options)
    with pytest.raises(EncoderError, match="batch_size"):
        encoder.encode_document(["a"], batch_size=3)


def test_missing_package(monkeypatch):
    module._load.cache_clear()
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mrl-retrieval\[wordllama\]'"):
        load_encoder("wordllama")


def test_damaged_weights(monkeypatch):
    import wordllama

    def load(**kwargs):
        raise FileNotFoundError("weights file not found")

    module._load.cache_clear()
    monkeypatch.setattr(wordllama.WordLlama, "load", load)
    with pytest.raises(EncoderError, match="install it again"):
        module.WordLlamaEncoder()


def test_the_package_does_not_take_over_logging(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    for name in [name for name in sys.modules if name.partition(".")[0] == "wordllama"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module.importlib, "import_module", lambda name: logging.basicConfig(level=logging.INFO))
    module._import()
    assert root.handlers == []
    assert root.level == level


def test_normalize_agrees(encoder):
    vectors = encoder.encode_document(list(CANARY_TEXTS))
    np.testing.assert_allclose(vectors, normalize(vectors), atol=1e-7)
