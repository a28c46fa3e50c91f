import json
from dataclasses import replace

import numpy as np
import pytest

from mrl_retrieval.encoder import CANARY_TEXTS, EncoderCard
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import ManifestError, NewerFormatError
from mrl_retrieval.identity import make_canaries
from mrl_retrieval.manifest import Canaries, Manifest


@pytest.fixture
def manifest() -> Manifest:
    encoder = HashingEncoder(16)
    return Manifest(
        dim=16, coarse_dims=4, fine_dims=12, funnel_dims=(8,), encoder=encoder.identity,
        canaries=make_canaries(encoder), plan={"coarse_top_k": 40}, created_with="0.1.0",
    )  # fmt: skip


def test_it_comes_back_as_it_was(manifest: Manifest) -> None:
    read = Manifest.loads(manifest.dumps())
    assert read.checksum == manifest.checksum and read.encoder == manifest.encoder
    assert read.canaries is not None and manifest.canaries is not None
    assert read.canaries.similarity(manifest.canaries) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert Manifest.loads(read.dumps()).dumps() == read.dumps()
    bare = Manifest(dim=3, coarse_dims=3, fine_dims=3)
    assert Manifest.loads(bare.dumps()) == bare


def test_what_was_measured_of_a_rotation(manifest: Manifest) -> None:
    assert "rotation_measured" not in manifest.to_json()  # as in versions that did not know it
    told = {"coverage": 0.5, "rotated_coverage": 0.25, "vectors": 7, "at": "2026-11-22T10:00:00Z"}
    measured = replace(manifest, rotation_measured=told)
    assert Manifest.loads(measured.dumps()).rotation_measured == told and measured.checksum != manifest.checksum


def test_any_change_is_noticed(manifest: Manifest) -> None:
    text = manifest.dumps()
    for before, after in (('"dim":16', '"dim":32'), ('"coarse_top_k":40', '"coarse_top_k":41'), ('"cosine"', '"dot"')):
        assert before in text
        with pytest.raises(ManifestError, match="checksum"):
            Manifest.loads(text.replace(before, after, 1))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", '{"schema_version": "1"}', b"\xff\xfe"])
def test_what_is_no_manifest(text: str | bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.loads(text)


def test_cut_short(manifest: Manifest) -> None:
    text = manifest.dumps()
    for cut in (1, len(text) // 2, len(text) - 1):
        with pytest.raises(ManifestError):
            Manifest.loads(text[:cut])


def test_a_newer_one_says_so(manifest: Manifest) -> None:
    value = json.loads(manifest.dumps()) | {"schema_version": 99, "something": "new"}
    with pytest.raises(NewerFormatError, match="schema version 99"):
        Manifest.loads(json.dumps(value))


def test_dims_that_make_no_sense() -> None:
    with pytest.raises(ManifestError, match="dims"):
        Manifest.loads(Manifest(dim=4, coarse_dims=8, fine_dims=4).dumps())


def test_canaries_tell_encoders_apart() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(CANARY_TEXTS), 32)).astype(np.float32)
    same = Canaries(x, x)
    assert same.similarity(Canaries(x * 3, x + 1e-4)) == pytest.approx((1, 1), abs=1e-4)
    assert same.similarity(Canaries(x, x[::-1]))[1] < 0.9
    assert same.similarity(Canaries(x[:2], x)) == (-1.0, pytest.approx(1))
    zero = x.copy()
    zero[0] = 0
    assert Canaries(zero, zero).similarity(Canaries(zero, x)) == (pytest.approx(1), pytest.approx(0))


def test_cards_compare_what_both_know() -> None:
    card = EncoderCard(dim=4, name="a", model="m", revision="1", prompts={"query": "q: "})
    assert card.differences(replace(card, name="b", revision=None)) == []
    assert card.differences(replace(card, revision="2", prompts={})) == [
        ("revision", "1", "2"),
        ("prompts", {"query": "q: "}, {}),
    ]
    assert EncoderCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    for wrong in (None, {}, {"dim": "4"}, {"dim": 4, "model": 5}, {"dim": 4, "prompts": []}):
        with pytest.raises(ManifestError):
            EncoderCard.from_json(wrong)
