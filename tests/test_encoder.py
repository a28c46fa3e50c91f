import numpy as np
import pytest

from mrl_retrieval.encoder import Encoder, EncoderCard, as_encoder, encode_checked
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import EncoderError, InvalidInput


class Duck:
    def encode_document(self, texts):
        return [[len(t), 1.0] for t in texts]

    def encode_query(self, texts):
        return [[len(t), 2.0] for t in texts]


class LangChainLike:
    def embed_documents(self, texts):
        return [[1.0, float(len(t))] for t in texts]

    def embed_query(self, text):
        assert isinstance(text, str)
        return [2.0, float(len(text))]


class Plain:
    def encode(self, texts):
        return np.ones((len(texts), 5))


def test_what_becomes_an_encoder() -> None:
    own = HashingEncoder(16)
    assert as_encoder(own) is own
    assert as_encoder("hashing:32").dim == 32
    duck, chain = as_encoder(Duck()), as_encoder(LangChainLike(), name="mine")
    assert (
        duck.dim == 2
        and duck.encode_query(["abc"]).tolist() == [[3, 2]]
        and duck.encode_document(["a"]).tolist() == [[1, 1]]
    )
    assert chain.encode_query(["abc"]).tolist() == [[2, 3]] and chain.identity == EncoderCard(dim=2, model="mine")
    assert as_encoder(Plain()).dim == 5
    assert as_encoder(lambda texts: np.zeros((len(texts), 3))).identity.name is None


@pytest.mark.parametrize("value", [5, None, object(), ["a"], int])
def test_what_does_not(value: object) -> None:
    with pytest.raises(InvalidInput, match="is no encoder"):
        as_encoder(value)


def _raise(texts):
    raise RuntimeError("the model's own words")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_raise, "the model's own words"),
        (lambda texts: None, "shape"),
        (lambda texts: np.ones((1, 4)), "1 vectors for 2 texts"),
        (lambda texts: np.full((len(texts), 4), np.nan), "nan"),
        (lambda texts: np.ones((len(texts), 4, 2)), r"\(2, 4, 2\)"),
    ],
)
def test_an_encoder_that_fails_its_first_try(function: object, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        as_encoder(function)


class Moody(Encoder):
    dim, identity = 3, EncoderCard(dim=3, model="moody")

    def __init__(self, answer):
        self.answer = answer

    def encode_document(self, texts, **kwargs):
        return self.answer(texts, **kwargs)


@pytest.mark.parametrize(
    "answer",
    [
        _raise,
        lambda texts: np.ones((len(texts), 4)),
        lambda texts: np.ones((len(texts) + 1, 3)),
        lambda texts: np.full((len(texts), 3), np.inf),
        lambda texts: "nonsense",
        lambda texts: [[1, 2], [3]],
    ],
)
def test_an_encoder_is_held_to_its_contract(answer: object) -> None:
    for queries in (False, True):
        with pytest.raises(EncoderError, match="moody"):
            encode_checked(Moody(answer), ["a", "b"], queries=queries)


def test_vectors_come_out_with_unit_length() -> None:
    encoder = Moody(lambda texts, scale=2.0: np.array([[scale, 0, 0], [0, 0, 0]])[: len(texts)])
    assert encode_checked(encoder, ["a", "b"], queries=False).tolist() == [[1, 0, 0], [0, 0, 0]]
    assert encode_checked(encoder, ["a"], queries=True, kwargs={"scale": -1}).tolist() == [[-1, 0, 0]]
    assert encode_checked(encoder, [], queries=True).shape == (0, 3)
    with pytest.raises(EncoderError, match="unexpected"):
        encode_checked(encoder, ["a"], queries=True, kwargs={"unexpected": 1})
