"""Axes turned for near neighbours: the gradient against differences, the laws of rotations, and what it is for."""

import numpy as np
import pytest

from mrl_retrieval import turning
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.turning import LEAST, loss_gradient, turned


def axes_of(vectors):
    return np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1].T.astype(np.float32).copy()


def loss(axes, queries, documents, itself, lengths, temperature):
    """The loss as its definition has it, in float64."""

    def shares(cosines):
        cosines = np.where(itself, -9.0, cosines) / temperature
        return np.exp(
            cosines
            - np.log(np.exp(cosines - cosines.max(1, keepdims=True)).sum(1, keepdims=True))
            - cosines.max(1, keepdims=True)
        )

    wanted, total = shares(queries @ documents.T), 0.0
    for dims in lengths:
        got = shares(normalize64(queries @ axes[:, :dims]) @ normalize64(documents @ axes[:, :dims]).T)
        total -= (wanted * np.log(np.maximum(got, 1e-300))).sum(axis=1).mean()
    return wanted, total


def normalize64(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    dim, lengths = 12, (2, 5, 12)
    documents = normalize64(rng.normal(size=(40, dim)))
    queries, itself = documents[:7], np.zeros((7, 40), bool)
    itself[np.arange(7), np.arange(7)] = True
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    wanted, _ = loss(axes, queries, documents, itself, lengths, turning._TEMPERATURE)
    got = loss_gradient(axes, queries, documents, itself, wanted, lengths)
    step = 1e-6
    for i, j in rng.integers(0, dim, (40, 2)):
        there, back = axes.copy(), axes.copy()
        there[i, j] += step
        back[i, j] -= step
        ends = [loss(a, queries, documents, itself, lengths, turning._TEMPERATURE)[1] for a in (there, back)]
        assert got[i, j] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-5)


def misleading(count, rng):
    """Vectors of 64 dims, most of whose energy is noise of their own; a smaller part makes twelve of them alike."""
    noise = rng.normal(size=(count, 32))
    topics = rng.normal(size=(count // 12 + 1, 32))
    fine = topics[rng.integers(0, len(topics), count)] + rng.normal(scale=0.15, size=(count, 32))
    spread = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    return normalize((np.concatenate([noise, 0.9 * fine], axis=1) @ spread).astype(np.float32))


def found(matrix, documents, queries, dims, k=10, candidates=50):
    true = np.argsort(-(queries @ documents.T), axis=1)[:, :k]
    short = prefix(queries @ matrix.T, dims) @ prefix(documents @ matrix.T, dims).T
    near = np.argsort(-short, axis=1)[:, :candidates]
    return np.mean([np.isin(a, b).mean() for a, b in zip(true, near, strict=True)])


def test_prefixes_find_more_than_principal_axes():
    vectors = misleading(4400, np.random.default_rng(1))
    sample, documents, queries = vectors[:3000], vectors[:4000], vectors[4000:]
    axes = axes_of(sample)
    matrix = turned(axes, sample, (16, 32))
    assert np.abs(matrix.astype(np.float64) @ matrix.T - np.eye(64)).max() < 1e-6
    for dims in (16, 32):
        before, after = (found(m, documents, queries, dims) for m in (axes, matrix))
        assert after > before + 0.02, (dims, before, after)
    assert np.allclose((queries @ matrix.T) @ (documents @ matrix.T).T, queries @ documents.T, atol=1e-5)


def test_equal_input_gives_an_equal_matrix_and_the_seed_counts(monkeypatch):
    monkeypatch.setattr(turning, "_STEPS", 20)
    sample = misleading(LEAST, np.random.default_rng(2))
    axes = axes_of(sample)
    once, again, other = (turned(axes, sample, (16,), seed=seed) for seed in (0, 0, 1))
    assert (once == again).all() and not (once == other).all()
    assert axes is not once and np.abs(once - axes).max() > 1e-3


def test_of_many_axes_the_last_stay(monkeypatch):
    monkeypatch.setattr(turning, "_STEPS", 20)
    monkeypatch.setattr(turning, "LONGEST", 24)
    sample = misleading(LEAST, np.random.default_rng(3))
    axes = axes_of(sample)
    matrix = turned(axes, sample, (16,))
    assert np.allclose(matrix[24:], axes[24:], atol=1e-5) and np.abs(matrix[:24] - axes[:24]).max() > 1e-3
    assert np.abs(matrix.astype(np.float64) @ matrix.T - np.eye(64)).max() < 1e-6


def test_equal_vectors_and_such_that_have_nothing_in_a_prefix():
    sample = np.zeros((LEAST, 64), np.float32)
    sample[:250, 5] = sample[250:, 60] = 1
    matrix = turned(np.eye(64, dtype=np.float32), sample, (16, 32))
    assert np.isfinite(matrix).all() and np.abs(matrix @ matrix.T - np.eye(64)).max() < 1e-5
