"""Texts and vectors that the tests of the public face share."""

from typing import Any

import numpy as np

TEXTS = [f"document number {i} about topic {i % 7}" for i in range(50)]


def vectors(n: int = 50, dim: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
