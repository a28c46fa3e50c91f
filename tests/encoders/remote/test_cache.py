"""The embedding cache: what is there is not asked for again, by anybody, and what is there is right."""

from base64 import b64decode, b64encode

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder
from mrl_retrieval.encoder import CANARY_TEXTS, EncoderCard
from mrl_retrieval.encoders.embedding_cache import CachedEncoder, cached, default_path
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.openai import from_spec
from mrl_retrieval.errors import EncoderError, EncoderUnavailable, InvalidInput, TextTooLongError
from mrl_retrieval.testing import EncoderConformance

from .http_server import answering
from .openai_server import error

TEXTS = [f"text number {i} about {'cats' if i % 2 else 'dogs'}" for i in range(100)]


class Counting(HashingEncoder):
    """The hashing encoder; remembers what it was asked."""

    def __init__(self, dim=64):
        super().__init__(dim)
        self.asked = []

    def encode_document(self, texts, **kwargs):
        self.asked.append(list(texts))
        return super().encode_document(texts)

    def encode_query(self, texts, **kwargs):
        self.asked.append(list(texts))
        return -super().encode_document(texts)


class TestConformance(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, tmp_path_factory):
        return CachedEncoder(HashingEncoder(64), tmp_path_factory.mktemp("cache") / "c.sqlite")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "c.sqlite"


def test_only_misses_are_asked_for_once_each(file):
    inner = Counting()
    encoder = CachedEncoder(inner, file)
    expected = HashingEncoder(64).encode_document(TEXTS)
    assert (encoder.encode_document(TEXTS[:3]) == expected[:3]).all()
    order = [5, 1, 5, 7, 0, 5, 1]
    assert (encoder.encode_document([TEXTS[i] for i in order]) == expected[order]).all()
    assert inner.asked == [TEXTS[:3], [TEXTS[5], TEXTS[7]]]
    again = Counting()
    assert (CachedEncoder(again, file).encode_document([TEXTS[i] for i in order]) == expected[order]).all()
    assert not again.asked


def test_role_parameters_and_card_tell_entries_apart(file):
    inner = Counting()
    encoder = CachedEncoder(inner, file)
    assert (encoder.encode_document(["a"]) == -encoder.encode_query(["a"])).all()
    encoder.encode_document(["a"], user="me")
    encoder.encode_document(["a"], user="me")
    encoder.encode_document(["a"], how=object())  # cannot be told in JSON, so it is not kept
    encoder.encode_document(["a"], how=object())
    assert len(inner.asked) == 5
    other = Counting(65)
    assert CachedEncoder(other, file).encode_document(["a"]).shape == (1, 65)
    assert len(other.asked) == 1
    # The name is not a difference, the scope is.
    renamed = Counting()
    renamed.identity = EncoderCard(**{**renamed.identity.to_json(), "name": None})
    CachedEncoder(renamed, file).encode_document(["a"])
    assert not renamed.asked
    renamed.cache_scope = "another server"
    CachedEncoder(renamed, file).encode_document(["a"])
    assert len(renamed.asked) == 1


def test_an_encoder_that_cannot_be_told_from_others_is_refused(file):
    unnamed = as_encoder(lambda texts: [[len(text), 1.0] for text in texts])
    with pytest.raises(InvalidInput, match="name"):
        CachedEncoder(unnamed, file)
    named = as_encoder(lambda texts: [[len(text), 1.0] for text in texts], name="lengths-v1")
    assert CachedEncoder(named, file).encode_document(["abc"]).shape == (1, 2)
    with pytest.raises(InvalidInput, match="max_bytes"):
        CachedEncoder(named, file, max_bytes=0)


def test_what_came_before_a_failure_is_kept(file):
    class Failing(Counting):
        def encode_document(self, texts, **kwargs):
            if "bad" in texts:
                raise RuntimeError("no")
            return super().encode_document(texts)

    inner = Failing()
    texts = [f"t{i}" for i in range(600)]
    texts[590] = "bad"
    with pytest.raises(EncoderError, match="no"):
        CachedEncoder(inner, file).encode_document(texts)
    assert [len(part) for part in inner.asked] == [256, 256]
    texts[590] = "good"
    CachedEncoder(inner, file).encode_document(texts)
    assert [len(part) for part in inner.asked] == [256, 256, 88]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_index_that_died_asks_only_for_the_rest(openai, file, concurrency):
    server = openai()
    documents = [f"document {i} about {i % 7}" for i in range(1000)]

    def run():
        encoder = from_spec(
            "m", base_url=f"{server.url}/v1", batch_size=20, concurrency=concurrency, max_retries=0, cache=str(file)
        )
        retriever = MatryoshkaRetriever(encoder=encoder, backend="memory:")  # gone with the process that died
        return retriever.index(documents, batch_size=500)

    def asked():
        return [text for request in server.requests for text in request.body["input"]]

    def fails_at_900(handler, request):
        server.first.append(fails_at_900)
        late = any(text.startswith("document 9") and len(text.split()[1]) == 3 for text in request.body["input"])
        status, content = (500, error("oops")) if late else server.usual(server, request)
        answering(status, content)(handler, request)

    server.first.append(fails_at_900)
    with pytest.raises(EncoderUnavailable):
        run()
    before = asked()
    answered = {text for text in before if not (text.startswith("document 9") and len(text.split()[1]) == 3)}
    assert {f"document {i} about {i % 7}" for i in range(900)} <= answered
    server.first.clear()
    server.requests.clear()
    assert len(run()) == 1000
    assert sorted(asked()[1:]) == sorted(set(documents) - answered)  # the first learns the length
    server.requests.clear()
    run()
    assert asked() == [CANARY_TEXTS[0]]


def test_canaries_are_free_after_the_first_time(openai, file, tmp_path):
    server = openai()
    spec = {"base_url": f"{server.url}/v1", "cache": str(file)}
    with MatryoshkaRetriever(encoder=from_spec("m", **spec), backend=f"faiss:{tmp_path / 'kb'}") as retriever:
        retriever.index(["a document"])
    server.requests.clear()
    with MatryoshkaRetriever(encoder=from_spec("m", **spec), backend=f"faiss:{tmp_path / 'kb'}") as retriever:
        retriever.search("a query")
    assert [request.body["input"] for request in server.requests] == [[CANARY_TEXTS[0]], ["a query"]]


def test_a_model_exchanged_behind_the_same_name_is_noticed(openai, file, caplog):
    server = openai()
    spec = {"base_url": f"{server.url}/v1", "cache": str(file)}
    first = from_spec("m", **spec).encode_document(["a cat", "a dog"])
    usual = server.usual

    def other_model(state, request):
        status, content = usual(state, request)
        for item in content["data"]:  # the parts of the vector in another order: another model
            item["embedding"] = b64encode(np.frombuffer(b64decode(item["embedding"]), "<f4")[::-1].tobytes()).decode()
        return status, content

    server.usual = other_model
    second = from_spec("m", **spec).encode_document(["a cat", "a dog"])
    assert np.allclose(second, first[:, ::-1]) and "other vectors" in caplog.text


def test_the_option(openai, file, monkeypatch, tmp_path):
    server = openai()
    from_spec("m", base_url=f"{server.url}/v1").encode_document(["a"])
    assert (tmp_path / "embeddings.sqlite").exists()  # where MRL_EMBEDDING_CACHE says
    monkeypatch.setenv("MRL_EMBEDDING_CACHE", "off")
    assert not isinstance(from_spec("m", base_url=f"{server.url}/v1"), CachedEncoder)
    inner = Counting()
    CachedEncoder(inner).encode_document(["a"])
    CachedEncoder(inner).encode_document(["a"])
    assert len(inner.asked) == 2
    monkeypatch.delenv("MRL_EMBEDDING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_path() == tmp_path / "xdg" / "mrl_retrieval" / "embeddings.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_path() == tmp_path / "home" / ".cache" / "mrl_retrieval" / "embeddings.sqlite"
    assert cached(inner, False) is inner


def test_the_file_is_for_its_owner_alone(file):
    CachedEncoder(Counting(), file).encode_document(["a"])
    assert file.stat().st_mode & 0o077 == 0


def test_cutting_asks_again_only_for_what_is_cut(openai, file):
    server = openai()
    texts = ["short", "dog " * 90, "another"]

    def make(**settings):
        return from_spec("m", base_url=f"{server.url}/v1", cache=str(file), **settings)

    whole = make().encode_document(texts)
    strict = make(max_tokens=100)
    with pytest.raises(TextTooLongError, match=r"texts\[1\]"):  # though its vector is there
        strict.encode_document(texts)
    server.requests.clear()
    cut = make(max_tokens=100, truncate=True)
    assert (cut.encode_document(texts)[[0, 2]] == whole[[0, 2]]).all()
    cut.encode_document(texts)
    assert [len(request.body["input"]) for request in server.requests] == [1, 1]  # the length, the text that is cut
