"""Rotations change no cosine, order the components by energy, and survive being stored."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import load_encoder, rotation_fitting
from mrl_retrieval.errors import BackendError, CorruptionError, DimensionError, InvalidInput
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.rotation import Rotation
from mrl_retrieval.rotation_fitting import SecondMoment, fit_rotation


def clustered(n, dim, seed=0):
    """Vectors whose energy lies in directions that are no axes."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -1.0) @ basis.T


@settings(max_examples=40, deadline=None)
@given(dim=st.integers(1, 70), n=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_scores_at_full_length_stay(dim, n, seed):
    vectors = normalize(clustered(n, dim, seed))
    rotation = fit_rotation(None, vectors)
    rotated = rotation.apply(vectors)
    assert np.abs(rotated @ rotated.T - vectors @ vectors.T).max() < 1e-5
    assert np.abs(rotation.undo(rotated) - vectors).max() < 1e-5
    assert rotated.dtype == np.float32 and rotation.energy.sum() == pytest.approx(1)


@pytest.mark.parametrize("dim", [384, 768])
def test_scores_at_full_length_stay_for_long_vectors(dim):
    vectors = normalize(clustered(300, dim))
    rotation = fit_rotation(None, vectors)
    rotated = rotation.apply(vectors)
    assert np.abs(rotated @ rotated.T - vectors @ vectors.T).max() < 1e-5


def test_prefixes_hold_the_most_energy_that_any_rotation_gives_them():
    vectors = normalize(clustered(2000, 32))
    rotation = fit_rotation(None, vectors, method="axes")
    energies = np.square(rotation.apply(vectors)).mean(axis=0)
    assert np.allclose(energies, rotation.energy, atol=1e-6)
    assert (np.diff(rotation.energy) <= 1e-12).all()
    best = np.cumsum(np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2) / len(vectors)
    assert np.allclose(np.cumsum(energies), best, atol=1e-5)
    assert rotation.kept_energy(8) == pytest.approx(best[7], abs=1e-6) and rotation.kept_energy(8) > 0.8
    assert np.square(vectors).mean(axis=0)[:8].sum() < 0.5  # as they were, prefixes held little


def test_a_sample_in_pieces_is_the_sample():
    vectors = clustered(10_000, 12)
    whole = fit_rotation(None, vectors)
    pieces = fit_rotation(None, iter(np.array_split(vectors, 7)))
    assert np.allclose(whole.matrix, pieces.matrix, atol=1e-6) and pieces.fitted_on == 10_000
    assert np.allclose(fit_rotation(None, vectors * 5).matrix, whole.matrix, atol=1e-6)  # lengths do not matter


def test_equal_samples_give_equal_rotations_whatever_their_signs():
    vectors = clustered(500, 9)
    assert fit_rotation(None, vectors).fingerprint == fit_rotation(None, vectors).fingerprint
    assert np.allclose(fit_rotation(None, -vectors).matrix, fit_rotation(None, vectors).matrix)
    assert fit_rotation(None, vectors).fingerprint != fit_rotation(None, clustered(500, 9, 1)).fingerprint


def test_texts(caplog):
    encoder = load_encoder("hashing:32")
    texts = [f"word{i % 7} and word{i % 11} in {i}" for i in range(400)]
    rotation = fit_rotation(encoder, (text for text in texts), batch_size=64)
    assert np.allclose(rotation.matrix, fit_rotation(None, encoder.encode_document(texts)).matrix, atol=1e-5)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        fit_rotation(encoder, texts[:319])
    assert "319 vectors" in caplog.text and "fewer than 320" in caplog.text
    assert np.allclose(fit_rotation("hashing:32", texts).matrix, rotation.matrix)


def near_pairs(n, dim, seed=0):
    """Vectors in pairs that are alike in the part with the lesser energy."""
    rng = np.random.default_rng(seed)
    noise, alike = rng.standard_normal((n, dim // 2)), np.repeat(rng.standard_normal((n // 2, dim // 2)), 2, axis=0)
    return np.concatenate([noise, 0.9 * alike], axis=1) @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def test_neighbours_are_near_in_prefixes_rather_than_energy_kept():
    vectors = normalize(near_pairs(2000, 64))
    axes, rotation = fit_rotation(None, vectors, method="axes"), fit_rotation(None, vectors)

    def partner_is_nearest(rotated, dims):
        short = normalize(rotated[:, :dims])
        scores = short @ short.T
        np.fill_diagonal(scores, -1)
        return np.mean(scores.argmax(axis=1) == np.arange(len(short)) ^ 1)

    for dims in (16, 32):
        assert partner_is_nearest(rotation.apply(vectors), dims) > partner_is_nearest(axes.apply(vectors), dims) + 0.2
        assert rotation.kept_energy(dims) < axes.kept_energy(dims)
    assert np.allclose(np.square(rotation.apply(vectors)).mean(axis=0), rotation.energy, atol=1e-6)
    assert rotation.fitted_on == 2000 and rotation.energy.sum() == pytest.approx(1)
    assert np.abs(rotation.apply(vectors) @ rotation.apply(vectors).T - vectors @ vectors.T).max() < 1e-5


def test_prefixes_that_are_asked_for():
    vectors = normalize(near_pairs(1000, 24))
    axes = fit_rotation(None, vectors, method="axes").fingerprint
    assert fit_rotation(None, vectors).fingerprint == axes  # a half of 24 is too short to be searched
    assert fit_rotation(None, vectors, dims=[24]).fingerprint == axes  # and the whole is not turned
    assert fit_rotation(None, vectors, dims=[12]).fingerprint != axes
    assert fit_rotation(None, vectors[:499], dims=[12]).fingerprint == (
        fit_rotation(None, vectors[:499], method="axes").fingerprint
    )


def test_neighbours_are_looked_for_among_a_part_drawn_evenly(monkeypatch):
    monkeypatch.setattr(rotation_fitting, "_KEPT_BYTES", 4 * 16 * 600)
    fit = rotation_fitting.RotationFit(16, [8])
    vectors = normalize(clustered(9000, 16)) + np.float32(0)
    vectors[::3] = 0
    for part in np.array_split(vectors, 11):
        fit.add(part)
    assert fit.count == 9000 and fit._kept.shape == (600, 16)
    places = (fit._kept @ vectors.T).argmax(axis=1).tolist()
    assert np.abs(np.linalg.norm(fit._kept, axis=1) - 1).max() < 1e-6
    assert len(set(places)) == 600 and places == sorted(places)
    assert 230 < sum(place < 4500 for place in places) < 370  # 300 are expected, 12 are a standard deviation


def test_fewer_vectors_than_dims_still_make_a_rotation():
    rotation = fit_rotation(None, np.eye(20)[:3])
    assert rotation.kept_energy(3) == pytest.approx(1)
    assert np.abs(rotation.apply(np.eye(20)) @ rotation.apply(np.eye(20)).T - np.eye(20)).max() < 1e-5


def test_zero_vectors_add_nothing():
    moment = SecondMoment(3)
    moment.add(np.zeros((5, 3)))
    assert moment.rotation().energy.tolist() == [0, 0, 0]
    moment.add([[0, 1, 0]])
    assert moment.rotation().matrix[0].tolist() == [0, 1, 0]


def test_stored_and_read_again():
    rotation = fit_rotation(None, clustered(300, 17))
    again = Rotation.from_bytes(rotation.to_bytes())
    assert (again.matrix == rotation.matrix).all() and (again.energy == rotation.energy).all()
    assert (again.fitted_on, again.fingerprint) == (300, rotation.fingerprint)


def test_every_damaged_byte_is_found():
    content = fit_rotation(None, clustered(50, 3)).to_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 16
        with pytest.raises(CorruptionError):
            Rotation.from_bytes(bytes(damaged))
    for cut in (0, 3, 20, len(content) - 1):
        with pytest.raises(CorruptionError):
            Rotation.from_bytes(content[:cut])


@pytest.mark.parametrize(
    ("encoder", "sample", "error", "match"),
    [
        (None, np.empty((0, 4)), InvalidInput, "empty"),
        ("hashing:8", [], InvalidInput, "empty"),
        ("hashing:8", "one text", InvalidInput, "str"),
        ("hashing:8", ["fine", 5], InvalidInput, "5"),
        ("hashing:8", None, InvalidInput, "NoneType"),
        (None, np.zeros(5), DimensionError, "shape"),
        (None, [np.eye(3), np.eye(4)], DimensionError, "4 components, expected 3"),
        (None, [[[np.nan, 1]]], InvalidInput, "finite"),
    ],
)
def test_bad_samples(encoder, sample, error, match):
    with pytest.raises(error, match=match):
        fit_rotation(encoder, sample)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "pca"}, InvalidInput, "'pca'.*'neighbours' or 'axes'"),
        ({"dims": [9]}, DimensionError, "9.*8 components"),
        ({"dims": [0]}, InvalidInput, "0"),
        ({"dims": [2.5]}, InvalidInput, "2.5"),
        ({"batch_size": 0}, InvalidInput, "batch_size"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        fit_rotation(None, clustered(100, 8), **options)


def test_what_is_no_rotation_is_refused():
    with pytest.raises(InvalidInput, match="not orthogonal"):
        Rotation(np.diag([1, 1.1]).astype(np.float32), np.ones(2) / 2)
    with pytest.raises(InvalidInput, match="square"):
        Rotation(np.eye(3, dtype=np.float32)[:2], np.ones(3) / 3)
    with pytest.raises(InvalidInput, match="not orthogonal"):
        Rotation(np.full((2, 2), np.nan, np.float32), np.ones(2) / 2)
    with pytest.raises(DimensionError, match="4 components"):
        fit_rotation(None, np.eye(4)).apply(np.eye(3))


@pytest.mark.parametrize(
    ("matrix", "energy", "match"),
    [
        (np.eye(3, dtype=np.float32), np.ones(2) / 2, r"energy of 3 axes .* \(2,\)"),
        ([[1.0]], np.ones(1), "list"),
        (np.eye(2, dtype=np.float32), [0.5, 0.5], "list"),
        (np.array([["a"]]), np.ones(1), "<U1"),
    ],
)
def test_what_could_not_be_read_again_is_refused(matrix, energy, match):
    with pytest.raises(InvalidInput, match=match):
        Rotation(matrix, energy)


def test_a_matrix_of_float64_is_one_of_float32():
    rotation = Rotation(np.eye(3), np.ones(3) / 3)
    assert rotation.apply(np.eye(3)).dtype == np.float32
    assert Rotation.from_bytes(rotation.to_bytes()).fingerprint == rotation.fingerprint


def test_in_a_file(tmp_path):
    rotation = fit_rotation(None, clustered(300, 17))
    rotation.save(tmp_path / "r")
    fit_rotation(None, clustered(300, 5)).save(str(tmp_path / "r"))
    rotation.save(tmp_path / "r")
    assert Rotation.load(str(tmp_path / "r")).to_bytes() == rotation.to_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    (tmp_path / "r").write_bytes(rotation.to_bytes()[:-1])
    with pytest.raises(CorruptionError, match="/r cannot be used: a rotation of version 1 and 17 dims has"):
        Rotation.load(tmp_path / "r")
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InvalidInput, match="there is no file"):
            Rotation.load(path)
    with pytest.raises(BackendError, match="writing"):
        rotation.save(tmp_path / "no" / "folder")
