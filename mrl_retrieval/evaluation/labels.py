"""Classification and clustering by dimension. Needs scikit-learn (the extra ``evaluate``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtra
from ..matryoshka import FloatArray
from .bootstrap import Draws, FloatVector, IndexMatrix
from .measured import Drawn, Measured, mean_of
from .texts import Form

try:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import v_measure_score
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits
except ImportError as error:
    raise MissingExtra("evaluation", "evaluate") from error

__all__ = ["NEIGHBOURS", "Codes", "measure_classification", "measure_clustering", "v_measures"]

NEIGHBOURS = 5
"""Of the kNN accuracy; fewer where there are fewer texts to learn from."""
_ITERATIONS = 1000
_STARTS = 3
_SEED = 0

Codes = npt.NDArray[np.intp]
"""Labels as numbers from 0."""


def measure_classification(
    forms: Sequence[Form], train: FloatArray, labels: Codes, test: FloatArray, expected: Codes
) -> list[Measured]:
    """Accuracy of logistic regression and of the 5 nearest neighbours by cosine, on texts they have not seen."""
    draws = Draws(len(expected))
    found = []
    for form in forms:
        learned, asked = form.of(train), form.of(test)
        regression = LogisticRegression(max_iter=_ITERATIONS, random_state=_SEED)
        neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), metric="cosine", algorithm="brute")
        with _quiet_and_repeatable():
            told = {
                "accuracy": regression.fit(learned, labels).predict(asked),
                "knn-accuracy": neighbours.fit(learned, labels).predict(asked),
            }
        right = {name: mean_of((answer == expected).astype(np.float64), draws) for name, answer in told.items()}
        found.append(Measured(form, right))
    return found


def measure_clustering(forms: Sequence[Form], vectors: FloatArray, labels: Codes) -> list[Measured]:
    """V-measure of k-means with as many clusters as there are labels."""
    classes = int(labels.max()) + 1
    draws, found = Draws(len(labels)), []
    for form in forms:
        with _quiet_and_repeatable():
            clusters = KMeans(classes, n_init=_STARTS, random_state=_SEED).fit_predict(form.of(vectors)).astype(np.intp)
        value = float(v_measure_score(labels, clusters))
        drawn = draws.of(partial(v_measures, labels, clusters), width=classes * classes)
        # A sample holds texts twice, which makes clusters look purer than they are: only the spread is of use.
        found.append(Measured(form, {"v-measure": Drawn(value, np.clip(drawn - drawn.mean() + value, 0, 1))}))
    return found


def v_measures(labels: Codes, clusters: Codes, drawn: IndexMatrix) -> FloatVector:
    """V-measure of each sample ``(b, N)`` of places: ``(b,)``.

    The harmonic mean of homogeneity ``1 - H(label|cluster) / H(label)`` and completeness
    ``1 - H(cluster|label) / H(cluster)`` (Rosenberg & Hirschberg, EMNLP 2007), that is
    ``2 I / (H(label) + H(cluster))``; 1 where neither has more than one value.

    >>> labels, everything = np.array([0, 0, 1, 1]), np.arange(4)[None]
    >>> v_measures(labels, np.array([1, 1, 0, 0]), everything).tolist()
    [1.0]
    """
    rows, columns = int(labels.max()) + 1, int(clusters.max()) + 1
    cells = (labels * columns + clusters)[drawn] + (np.arange(len(drawn)) * rows * columns)[:, None]
    counts = np.bincount(cells.ravel(), minlength=len(drawn) * rows * columns)
    table = counts.reshape(len(drawn), rows, columns) / drawn.shape[1]
    of_labels, of_clusters = _entropy(table.sum(axis=2)), _entropy(table.sum(axis=1))
    both = _entropy(table.reshape(len(drawn), -1))
    total = of_labels + of_clusters
    mutual = np.clip(total - both, 0.0, None)
    return np.divide(2 * mutual, total, out=np.ones(len(drawn)), where=total > 0)


def _entropy(shares: npt.NDArray[np.float64]) -> FloatVector:
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    found: FloatVector = -np.einsum("ij,ij->i", shares, logs)
    return found


@contextmanager
def _quiet_and_repeatable() -> Iterator[None]:
    """One thread, since several add up in an order that changes; and no warnings of steps that were too few."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
