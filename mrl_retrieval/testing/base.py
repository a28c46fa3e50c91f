"""What the parts of the suite share: fixtures, data, and a way to skip what was declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ..backend import Capabilities
from ..matryoshka import FloatArray
from ..registry import open_backend
from ..retriever import MatryoshkaRetriever

__all__ = ["SuiteBase", "clustered"]


def clustered(n: int, dim: int, *, seed: int = 0, clusters: int = 12) -> FloatArray:
    """Vectors with a decaying spectrum in clusters, of very different lengths: ``(n, dim)``. Prefixes mean something."""
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(dim) + 4.0) ** -0.7
    centres = rng.standard_normal((clusters, dim)) * spectrum
    points = centres[rng.integers(clusters, size=n)] + 0.6 * rng.standard_normal((n, dim)) * spectrum
    return (points * np.exp(rng.normal(0, 3, (n, 1)))).astype(np.float32)


class SuiteBase:
    """Fixtures. ``address`` is the subclass's to give."""

    options: dict[str, Any] = {}  # noqa: RUF012  (a subclass may replace it)
    """Passed to the backend at every opening."""

    @pytest.fixture
    def address(self) -> str:
        """A fresh, empty place, as an address."""
        raise NotImplementedError("give a fixture `address` that returns the address of a fresh, empty place")

    @pytest.fixture
    def open_retriever(self, address: str) -> Iterator[Callable[..., MatryoshkaRetriever]]:
        """Opens retrievers at ``address`` and closes them at the end."""
        opened: list[MatryoshkaRetriever] = []

        def open_one(encoder: Any = None, *, at: str = address, **settings: Any) -> MatryoshkaRetriever:
            retriever = MatryoshkaRetriever(encoder, at, backend_options=self.options, **settings)
            opened.append(retriever)
            return retriever

        yield open_one
        for retriever in opened:
            retriever.close()

    @pytest.fixture
    def capabilities(self, address: str) -> Capabilities:
        """What the backend declares of itself at this address."""
        with open_backend(address, **self.options) as backend:
            return backend.capabilities
