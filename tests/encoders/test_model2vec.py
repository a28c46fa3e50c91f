"""A real Model2Vec model, made on the spot of WordLlama's token embeddings and tokenizer."""

import json
import shutil
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mrl_retrieval import normalize
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders import model2vec as module
from mrl_retrieval.encoders import token_means
from mrl_retrieval.encoders.model2vec import Model2VecEncoder
from mrl_retrieval.encoders.wordllama import WordLlamaEncoder
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra
from mrl_retrieval.testing import EncoderConformance
from tests.encoders.checks import finds_by_meaning

package = pytest.importorskip("model2vec", reason="needs model2vec")
pytest.importorskip("wordllama", reason="needs wordllama")


@pytest.fixture(scope="module")
def static():
    wordllama = WordLlamaEncoder()
    return package.StaticModel(wordllama._embedding.copy(), wordllama._tokenizer, normalize=True)


@pytest.fixture(scope="module")
def folder(static, tmp_path_factory):
    path = tmp_path_factory.mktemp("model2vec") / "model"
    static.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return module.from_spec(str(folder))


class TestFolder(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, encoder):
        return encoder

    @pytest.fixture(scope="class")
    def another_encoder(self, encoder):
        return module.from_spec(encoder.identity.name.partition(":")[2])


class TestLimited(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, static):
        return Model2VecEncoder(static, max_tokens=64)

    @pytest.fixture(scope="class")
    def another_encoder(self, static):
        return Model2VecEncoder(static, max_tokens=64)


class TestWordLevel(EncoderConformance):
    """Unknown words are left out of the mean; weights and a shared vocabulary; half precision."""

    @pytest.fixture(scope="class")
    def encoder(self):
        return Model2VecEncoder(_word_level())

    @pytest.fixture(scope="class")
    def another_encoder(self):
        return Model2VecEncoder(_word_level())

    def test_different_texts_differ(self, encoder):
        a, b, unknown = encoder.encode_document(["the cat", "the mat sat", "xylophone"])
        assert a @ b < 0.999
        assert not unknown.any()

    def test_very_long_text(self, encoder):
        assert encoder.encode_document(["the cat sat on the mat " * 20_000]).any()


def _word_level():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "the", "cat", "sat", "on", "mat", "no"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float16)
    return package.StaticModel(
        vectors,
        tokenizer,
        weights=np.linspace(0.5, 2, len(words)).astype(np.float32),
        token_mapping=np.array([0, 1, 2, 3, 1, 2, 0]),
    )


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_are_the_packages(encoder, static):
    texts = [*CANARY_TEXTS, "", "a b c", "word " * 400]
    theirs = static.encode(texts)
    np.testing.assert_allclose(encoder.encode_document(texts), normalize(theirs), atol=1e-6)


def test_weights_and_a_shared_vocabulary():
    model = _word_level()
    texts = ["the cat sat on the mat", "no", "mat unknownword cat", "nothing known here"]
    theirs = model.encode(texts).astype(np.float32)
    np.testing.assert_allclose(Model2VecEncoder(model).encode_document(texts), normalize(theirs), atol=1e-3)  # float16
    exact = (model.embedding[[2, 2]].astype(np.float64) * model.weights[[5, 2], None]).mean(axis=0)
    np.testing.assert_allclose(
        Model2VecEncoder(model).encode_document(texts)[2], exact / np.linalg.norm(exact), atol=1e-6
    )


def test_a_long_text_is_encoded_to_its_end(encoder, static):
    text = "the cat sat on the mat. " * 300 + "quarterly revenue grew. " * 3000
    assert encoder.max_tokens is None
    np.testing.assert_allclose(
        encoder.encode_document([text]), normalize(static.encode([text], max_length=None)), atol=1e-4
    )
    cut = normalize(static.encode([text]))  # the package's default: 512 tokens, none of them of revenue
    assert encoder.encode_document([text])[0] @ cut[0] < 0.9


def test_a_limit_is_what_it_says(encoder, static):
    limited = Model2VecEncoder(static, max_tokens=10)
    assert limited.max_tokens == 10
    words = "the cat sat on the mat and then some more of it"
    start = encoder.token_spans(words)[9][1]
    np.testing.assert_allclose(limited.encode_document([words]), encoder.encode_document([words[:start]]), atol=1e-6)
    # The package cuts characters first, by the median length of a token: short words reach the limit, long ones do not.
    np.testing.assert_allclose(
        limited.encode_document(["a " * 50]), normalize(static.encode(["a " * 50], max_length=10)), atol=1e-6
    )


def test_memory_is_bounded(encoder):
    long = "many words in one text " * 200_000
    tracemalloc.start()
    encoder.encode_document([long])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6  # its token embeddings at once would take 1,000 MB


def test_means_of_many_are_those_of_each(encoder, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30_000, size).tolist() for size in (7, 0, 1, 7, 40, 41, 7, 13, 1)]
    each = np.array([token_means.mean_of_tokens(encoder._embedding, row) for row in rows])
    for at_once in (16_384, 14, 7):
        monkeypatch.setattr(token_means, "_TOKENS_AT_ONCE", at_once)
        means = token_means.means_of_tokens(encoder._embedding, rows)
        np.testing.assert_allclose(means, each, rtol=0, atol=1e-6)
        short = [i for i, row in enumerate(rows) if len(row) <= at_once]
        assert np.array_equal(means[short], each[short])


def test_in_parts_or_at_once(encoder, monkeypatch):
    texts = [*CANARY_TEXTS, "", "x" * 5000, *CANARY_TEXTS]
    vectors, counts = encoder.encode_document(texts), encoder.count_tokens(texts)
    monkeypatch.setattr(token_means, "_CHARACTERS_AT_ONCE", 200)
    monkeypatch.setattr(token_means, "_TEXTS_AT_ONCE", 2)
    monkeypatch.setattr(token_means, "_TOKENS_AT_ONCE", 7)
    np.testing.assert_allclose(encoder.encode_document(texts), vectors, atol=1e-6)
    assert encoder.count_tokens(texts) == counts


def test_threads_get_the_same_vectors(encoder, static):
    texts = [f"{text} {'and so on ' * (i % 40)}" for i in range(20) for text in CANARY_TEXTS]
    expected = encoder.encode_document(texts)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(encoder.encode_document, texts) for _ in range(8)]
        static.encode(texts, max_length=3)  # changes the tokenizer of the model, which is not the encoder's
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected)


def test_quantised_weights(folder, encoder):
    small = Model2VecEncoder(folder, quantize_to="int8")
    assert small.identity.name is None
    a, b = small.encode_document(CANARY_TEXTS), encoder.encode_document(CANARY_TEXTS)
    assert (np.einsum("nd,nd->n", a, b) > 0.99).all()


def test_retrieval(folder):
    assert finds_by_meaning(Model2VecEncoder(folder))


# -- identity ---------------------------------------------------------------------------------------------------------


def test_card(encoder, folder, static):
    card = encoder.identity
    assert card.name == f"model2vec:{folder.resolve()}"
    assert (card.model, card.dim, card.pooling, card.normalization) == (None, 256, "mean", "l2")
    assert card.revision.startswith("sha256:")
    assert Model2VecEncoder(static).identity.revision is None
    assert Model2VecEncoder(folder, max_tokens=9).identity.name is None


def test_the_revision_is_that_of_the_weights(encoder, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert Model2VecEncoder(copy).identity.revision == encoder.identity.revision
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 2 : len(weights) // 2 + len(weights) // 100] = bytes(len(weights) // 100)
    (copy / "model.safetensors").write_bytes(weights)
    assert Model2VecEncoder(copy).identity.revision != encoder.identity.revision


def test_hub_name_from_the_cache_without_network(folder, encoder, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("asked the network")

    repository = tmp_path / "models--someone--small"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "hub_error", no_network)
    found = module.from_spec("someone/small")
    assert (found.identity.name, found.identity.model) == ("model2vec:someone/small", "someone/small")
    assert found.identity.revision == encoder.identity.revision


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_hub_name_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "hub_error", lambda name, options: "Name or service not known")
    with pytest.raises(EncoderError, match=r"'some/model' is not in the local cache.*Name or service.*model2vec:\./f"):
        module.from_spec("some/model")


@pytest.mark.parametrize(
    "where", ["./nowhere", "/no/such", "~/nowhere", "name", "a/b/c", "~nobody-of-this-name/x", "./" + "x" * 300]
)
def test_missing_folder(where):
    with pytest.raises(EncoderError, match="no model folder"):
        module.from_spec(where)


def test_damaged_folder(folder, tmp_path):
    with pytest.raises(EncoderError, match="cannot be loaded"):
        module.from_spec(str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        module.from_spec(str(copy))
    (copy / "config.json").write_text(json.dumps({}))
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        module.from_spec(str(copy))


def test_arguments(folder, static):
    with pytest.raises(InvalidInput, match="potion-base-8M"):
        module.from_spec()
    with pytest.raises(InvalidInput, match=r"dimensionality=64.*coarse_dims"):
        Model2VecEncoder(folder, dimensionality=64)
    with pytest.raises(InvalidInput, match=r"max_length=64.*max_tokens"):
        Model2VecEncoder(folder, max_length=64)
    with pytest.raises(InvalidInput, match="max_tokens"):
        Model2VecEncoder(folder, max_tokens=0)
    with pytest.raises(InvalidInput, match="quantize_to: the model is loaded already"):
        Model2VecEncoder(static, quantize_to="int8")
    with pytest.raises(InvalidInput, match="int is no StaticModel"):
        Model2VecEncoder(3)
    with pytest.raises(EncoderError, match="takes no options, got prompt"):
        Model2VecEncoder(static).encode_query(["a"], prompt="x")
    with pytest.raises(EncoderError, match="nonsense"):
        Model2VecEncoder(folder, nonsense=1)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mrl-retrieval\[model2vec\]'"):
        module.from_spec("x/y")
