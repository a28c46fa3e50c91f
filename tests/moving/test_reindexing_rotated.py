"""A collection embedded anew gets a rotation of its new vectors, or none; never the old one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder, errors, fit_rotation, reindex, rollback, rotate
from mrl_retrieval.encoder import Encoder
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.registry import open_backend
from mrl_retrieval.rotations import ATTACHMENT
from tests.moving.sixty import names

TEXTS = [f"text number {i}" for i in range(300)]
KNOWN = frozenset(TEXTS)


class Turned:
    """Vectors whose energy lies along no axis (or along the axes), as of a model that no table knows. Counts texts."""

    def __init__(self, dim: int = 16, turned: bool = True, fails_after: int = 10**9) -> None:
        self.dim, self.encoded, self.fails_after = dim, list[str](), fails_after
        self._basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0] if turned else np.eye(dim)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        self.encoded += [text for text in texts if text in KNOWN]  # and no canaries
        if len(self.encoded) > self.fails_after:
            raise RuntimeError("the model went away")
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") for text in texts]
        drawn = np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        return normalize((drawn * np.arange(1, self.dim + 1) ** -1.2) @ self._basis.T)


def named(model: Turned) -> Encoder:
    return as_encoder(model, name=f"turned-{model.dim}")


def made(address: str, rotated: bool = True, texts: Sequence[str] = TEXTS) -> str:
    with MatryoshkaRetriever(named(Turned(8)), address, coarse_dims=3) as retriever:
        retriever.index(texts, range(len(texts)))
    if rotated:
        assert rotate(address, force=True).fingerprint
    return address


def test_a_collection_with_a_rotation_gets_one_of_its_new_vectors(place: str) -> None:
    with open_backend(place) as backend:
        if not backend.capabilities.attachments:
            pytest.skip("the backend declares that it keeps no attachments")
    made(place)
    model = Turned(16)
    report = reindex(place, named(model), batch_size=64)
    assert report.rotated_coverage is not None and report.coverage is not None
    assert report.rotated_coverage > report.coverage
    assert sorted(set(model.encoded)) == sorted(TEXTS) and len(model.encoded) == len(TEXTS)  # none of them twice
    with MatryoshkaRetriever(named(model), place) as retriever:
        manifest = retriever.manifest
        assert manifest is not None and manifest.rotation is not None and manifest.rotation_measured is not None
        assert manifest.rotation == {"fingerprint": report.fingerprint, "fitted_on": 300}
        assert manifest.rotation_measured["vectors"] == 300
        (row,) = retriever.get(["7"], vectors=True)
        assert row is not None and row.vector is not None
        np.testing.assert_allclose(row.vector, model([TEXTS[7]])[0], atol=4e-3)
        assert retriever.search(TEXTS[7], 1).ids == ["7"]
        plain = np.abs(retriever.backend.fetch_vectors(["7"])[0][0] - model([TEXTS[7]])[0]).max()
        assert plain > 0.1  # stored turned
    rollback(place)
    with MatryoshkaRetriever(named(Turned(8)), place) as old:
        assert old.search(TEXTS[7], 1).ids == ["7"]


def fingerprint(address: str, model: Turned) -> Any:
    with MatryoshkaRetriever(named(model), address) as retriever:
        assert retriever.manifest is not None
        assert retriever.search(TEXTS[3], 1).ids == ["3"]
        return retriever.manifest.rotation and retriever.manifest.rotation["fingerprint"]


def test_what_is_asked_for(new_place: Any) -> None:
    model = Turned(16)
    given = fit_rotation(named(model), TEXTS)
    for rotated, asked, expected in (
        (False, {}, None),
        (True, {"rotation": None}, None),
        (False, {"rotation": given}, given.fingerprint),
        (True, {"rotation": given}, given.fingerprint),
    ):
        address = made(new_place("memory")[0], rotated)
        report = reindex(address, named(model), **asked)
        assert (report.fingerprint, fingerprint(address, model)) == (expected, expected)
        assert report.coverage is None
    address = made(new_place("memory")[0], rotated=False)
    assert reindex(address, named(model), rotation="auto").fingerprint == fingerprint(address, model) is not None


def test_it_is_kept_only_where_it_helps(new_place: Any) -> None:
    address = made(new_place("memory")[0])
    model = Turned(16, turned=False)
    report = reindex(address, named(model), coarse_dims=15)
    assert report.coverage is not None and report.rotated_coverage is not None and report.fingerprint is None
    assert report.coverage >= report.rotated_coverage and fingerprint(address, model) is None
    with open_backend(f"{address}?collection={report.generation}") as backend:
        assert backend.manifest.rotation_measured is not None  # so that nobody measures it again


def test_too_few_texts_and_models_that_were_trained_for_prefixes(
    new_place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    address = made(new_place("memory")[0])
    report = reindex(address, named(Turned(32)))
    assert (report.fingerprint, report.coverage) == (None, None)
    assert "has 300 documents, expected 320 to fit a rotation of 32 dims on" in caplog.text
    report = reindex(address, "hashing:8", rotation="auto")
    assert (report.fingerprint, report.coverage) == (None, None)


def test_vectors_that_are_not_stored_whole(new_place: Any, caplog: pytest.LogCaptureFixture) -> None:
    address = made(new_place("memory")[0])
    with pytest.raises(errors.DimensionError, match="fine_dims=8 of 16"):
        reindex(address, named(Turned(16)), fine_dims=8, rotation="auto")
    with pytest.raises(errors.DimensionError, match="8 components, these have 16"):
        reindex(address, named(Turned(16)), rotation=fit_rotation(named(Turned(8)), TEXTS))
    with pytest.raises(errors.InvalidInput, match="rotation is str"):
        reindex(address, named(Turned(16)), rotation="yes")  # type: ignore[arg-type]
    assert names(address) == ["default", "default.g1"]
    assert reindex(address, named(Turned(16)), fine_dims=8).fingerprint is None
    assert "will have none: of the new vectors 8 of 16 components are stored" in caplog.text


def test_an_interrupted_run_goes_on_with_its_rotation(new_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_retrieval.moving.new_rotation._SAMPLE", 0)
    address = made(new_place("memory")[0])
    with pytest.raises(errors.EncoderError, match="went away"):
        reindex(address, named(Turned(16, fails_after=250)), batch_size=20)
    with open_backend(f"{address}?collection=default.g2") as begun:
        kept = begun.manifest.rotation
        assert kept is not None and 0 < begun.count() < 300
        measured = begun.manifest.rotation_measured
        assert kept["fitted_on"] == 160 and measured is not None and measured["vectors"] == 300  # of the collection
    other = fit_rotation(named(Turned(16)), TEXTS[:200])
    with pytest.raises(errors.CollectionMismatchError, match=str(kept["fingerprint"])):
        reindex(address, named(Turned(16)), rotation=other)
    again = Turned(16)
    report = reindex(address, named(again), batch_size=20)
    assert report.fingerprint == kept["fingerprint"] == fingerprint(address, Turned(16))
    assert report.generation == "default.g2" and len(again.encoded) == report.encoded < 300
    with MatryoshkaRetriever(named(again), address) as retriever:
        rows = retriever.get(range(300), vectors=True)
        np.testing.assert_allclose([row.vector for row in rows if row], again(TEXTS), atol=4e-3)


def test_killed_before_the_matrix_was_stored(new_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = made(new_place("faiss")[0])
    with monkeypatch.context() as context:
        context.setattr("mrl_retrieval.rotations.save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reindex(address, named(Turned(16)))
    report = reindex(address, named(Turned(16)))
    assert report.generation == "default.g3" and report.fingerprint == fingerprint(address, Turned(16)) is not None
    assert "default.g2" not in names(address)


def test_the_same_encoder_and_another_rotation(new_place: Any) -> None:
    address = made(new_place("memory")[0])
    model = Turned(8)
    there = fingerprint(address, model)
    report = reindex(address, named(model))
    assert report.untouched and report.fingerprint == there
    with pytest.raises(errors.InvalidInput, match=r"rotate\(\) .* encodes nothing"):
        reindex(address, named(model), rotation=fit_rotation(named(model), TEXTS[:100]))
    with pytest.raises(errors.InvalidInput, match=there):
        reindex(address, named(model), rotation=None)
    assert reindex(address, named(model), rotation=None, force=True).fingerprint is None
    with open_backend(address) as backend:
        assert backend.read_attachment(ATTACHMENT) is None
