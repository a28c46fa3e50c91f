import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import load_encoder, prefix
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders.hashing import HashingEncoder, from_spec
from mrl_retrieval.errors import DimensionError, EncoderError, InvalidInput
from mrl_retrieval.testing import EncoderConformance


class TestHashing(EncoderConformance):
    @pytest.fixture(scope="class", params=["hashing", "hashing:64", "hashing:600"])
    def encoder(self, request):
        return load_encoder(request.param)


def _digest():
    vectors = HashingEncoder(300).encode_document([*CANARY_TEXTS, "", "?!", "ß İ ǅ 漢字", "x" * 1000])
    return hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


# Part of the format: collections made with this encoder name its revision. Other bytes need another revision.
_KNOWN = "2707ad67577712d5f7559980df02f4e60ac4925553d4ecc5c2dff73e9f0ecadf"


def test_the_same_bytes_everywhere():
    assert HashingEncoder().identity.revision == "1"
    assert _digest() == _KNOWN


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_same_bytes_in_another_process(seed):
    code = (
        "import hashlib\n"
        "from mrl_retrieval.encoders.hashing import HashingEncoder\n"
        "from mrl_retrieval.encoder import CANARY_TEXTS\n"
        "print(hashlib.sha256(HashingEncoder().encode_document(CANARY_TEXTS).tobytes()).hexdigest())"
    )
    here = hashlib.sha256(HashingEncoder().encode_document(CANARY_TEXTS).tobytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


def test_prefixes_are_the_shorter_encoders():
    texts = list(CANARY_TEXTS)
    long = HashingEncoder(700).encode_document(texts)
    for dim in (1, 64, 256, 257, 512):
        np.testing.assert_allclose(HashingEncoder(dim).encode_document(texts), prefix(long, dim), atol=1e-6)


def test_zero_only_without_visible_characters():
    vectors = HashingEncoder().encode_document(["", " \n\t", "!", "a", "字"])
    assert (vectors.any(axis=1) == [False, False, True, True, True]).all()
    lengths = np.linalg.norm(vectors[2:], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_shared_words_and_parts_of_words_bring_texts_together():
    encoder = HashingEncoder()
    vectors = encoder.encode_document(["undo the last commit", "Undoing commits", "quarterly revenue grew"])
    assert vectors[0] @ vectors[1] > 0.3 > abs(vectors[0] @ vectors[2])


def test_more_words_than_a_block():
    encoder = HashingEncoder(16)
    words = [f"word{i}" for i in range(10_000)]
    whole = encoder.encode_document([" ".join(words)])
    np.testing.assert_array_equal(whole, encoder.encode_document([" ".join(reversed(words))]))


def test_prefix_of_64_finds_the_neighbours_of_256(scifact):
    documents, queries = scifact
    encoder = HashingEncoder()
    d, q = encoder.encode_document(documents), encoder.encode_query(queries)
    true = np.argsort(-(q @ d.T), axis=1, kind="stable")[:, :10]
    coarse = np.argpartition(-(prefix(q, 64) @ prefix(d, 64).T), 200, axis=1)[:, :200]
    coverage = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true, coarse, strict=True)])
    assert coverage > 0.93  # the docstring says 0.95, over all 300 queries


@pytest.mark.parametrize("dim", [0, -1, 4097, 2.0, True, "64"])
def test_bad_dim(dim):
    with pytest.raises(DimensionError, match="1 to 4096"):
        HashingEncoder(dim)


@pytest.mark.parametrize("argument", ["x", "-1", "6 4", "64:1", "٣"])
def test_bad_spec(argument):
    with pytest.raises(InvalidInput, match="hashing:64"):
        from_spec(argument)


def test_options_are_refused():
    with pytest.raises(InvalidInput, match="device"):
        load_encoder("hashing", device="cpu")
    with pytest.raises(EncoderError, match="prompt"):
        HashingEncoder().encode_query(["a"], prompt="x")
