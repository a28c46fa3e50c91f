"""The data sets: unit vectors ``(N, D)``, queries ``(Q, D)`` and the exact answers, kept in files.

A set is made once; a cut of its first rows (``--rows``) shares its files and gets exact answers of its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.truth import DEPTH, exact_answers
from mrl_retrieval.matryoshka import FloatArray, normalize

__all__ = ["SETS", "Set", "Shape", "cache", "is_made", "open_set", "save"]

GENERATOR = Path(__file__).parents[3] / "shared" / "tools" / "mrl_like.py"
_SMOKE = (3_000, 64, 100)  # rows, dims, queries


@dataclass(frozen=True)
class Shape:
    """What a peer may know of a set before it sees the vectors."""

    set: str
    rows: int
    dims: int
    coarse: tuple[int, ...]
    """Lengths of prefixes that are worth searching."""


@dataclass(frozen=True)
class Set:
    """A data set, or the first ``rows`` of one."""

    name: str
    rows: int
    folder: Path

    @property
    def title(self) -> str:
        """The name, with the number of rows where it is a cut."""
        return self.name if self.rows == len(_mapped(self.folder / "vectors.npy")) else f"{self.name}-{self.rows}"

    @property
    def shape(self) -> Shape:
        """Rows, dims and the prefixes worth searching."""
        return Shape(self.name, self.rows, self.vectors().shape[1], SETS[self.name].coarse)

    def vectors(self) -> FloatArray:
        """``(N, D)``, mapped: reading them fills the page cache, not this process."""
        return _mapped(self.folder / "vectors.npy")[: self.rows]

    def queries(self) -> FloatArray:
        """``(Q, D)`` in memory."""
        found: FloatArray = np.load(self.folder / "queries.npy")
        return found

    def truth(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Row numbers and scores ``(Q, 100)`` of the exact answers, best first; computed once."""
        paths = [self.folder / f"truth-{self.rows}-{what}.npy" for what in ("rows", "scores")]
        if not all(path.exists() for path in paths):
            for path, values in zip(paths, exact_answers(self.queries(), self.vectors(), DEPTH), strict=True):
                save(path, values)
        return np.load(paths[0]), np.load(paths[1])


@dataclass(frozen=True)
class Source:
    """How a set is made, and which prefixes of it are worth searching."""

    make: Callable[[Path], None]
    coarse: tuple[int, ...]
    what: str


def cache() -> Path:
    """Where sets, indexes and results are: ``.cache`` of the repository, or the folder in ``MRL_PEERS_CACHE``."""
    return Path(os.environ.get("MRL_PEERS_CACHE") or Path(__file__).parents[2] / ".cache")


def open_set(name: str, rows: int | None = None) -> Set:
    """A set, made now where it is not in the cache; ``rows`` cuts it."""
    folder = cache() / name
    if not is_made(name):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            SETS[name].make(folder)
        except ImportError as error:
            sys.exit(
                f"the set {name} cannot be made here ({error}); make it in an environment that has its encoder: "
                f"python -m benchmarks.peers --make {name}"
            )
    whole = len(_mapped(folder / "vectors.npy"))
    return Set(name, min(rows or whole, whole), folder)


def is_made(name: str) -> bool:
    """Whether a set is in the cache."""
    return all((cache() / name / file).exists() for file in ("vectors.npy", "queries.npy"))


def save(path: Path, values: npt.NDArray[np.generic]) -> None:
    """Write an array so that a file under its name is always whole."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, values)
    part.replace(path)


def _mapped(path: Path) -> FloatArray:
    found: FloatArray = np.load(path, mmap_mode="r")
    return found


def _make_mrl_like(folder: Path) -> None:
    if not GENERATOR.exists():
        sys.exit(f"the set M needs {GENERATOR}, or vectors.npy and queries.npy in {folder}")
    spec = importlib.util.spec_from_file_location("mrl_like", GENERATOR)
    assert spec is not None and spec.loader is not None, "it is a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(1_000_000, folder)


def _make_wordllama(folder: Path) -> None:
    from benchmarks.peers.sentences import encode_wordllama

    encode_wordllama(folder)


def _make_minilm(folder: Path) -> None:
    from benchmarks.peers.sentences import encode_minilm

    encode_minilm(folder)


def _make_smoke(folder: Path) -> None:
    """Clusters whose spectrum falls, so that prefixes are worth something; a few rows are equal, as real ones are."""
    rows, dims, n_queries = _SMOKE
    rng = np.random.default_rng(5)
    spectrum = (np.arange(dims) + 4.0) ** -0.5
    centres = rng.standard_normal((60, dims)) * spectrum
    points = centres[rng.integers(0, 60, rows + n_queries)] + 0.6 * rng.standard_normal((rows + n_queries, dims)) * (
        spectrum**0.7
    )
    points[10:20] = points[0:10]
    unit = normalize(points.astype(np.float32))
    save(folder / "queries.npy", unit[rows:])
    save(folder / "vectors.npy", unit[:rows])


SETS = {
    "M": Source(
        _make_mrl_like, (128, 256), "1,000,000 × 768, clusters with a decaying spectrum, like Matryoshka models'"
    ),
    "W": Source(_make_wordllama, (64, 128), "1,042,511 real sentences by wordllama, 256 dims; 1,000 others as queries"),
    "minilm": Source(_make_minilm, (64, 128), "200,000 real sentences by all-MiniLM-L6-v2, 384 dims, rotated by PCA"),
    "smoke": Source(_make_smoke, (16,), "3,000 × 64, random clusters, for a run of seconds"),
}
