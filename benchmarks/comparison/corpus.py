"""The vectors, texts and metadata that every database gets, the queries, and their exact answers.

Everything follows from the row number, so that only the vectors and the answers are kept in files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.comparison.side import Batch, Equal
from mrl_retrieval.matryoshka import FloatArray, normalize

__all__ = ["FILTERS", "Corpus", "ensure"]

GENERATOR = Path(__file__).parents[3] / "shared" / "tools" / "mrl_like.py"

FILTERS: dict[str, Equal | None] = {"none": None, "10 %": Equal("tenth", 3), "0.1 %": Equal("mille", 7)}
"""Each matches about that share of the rows, at random."""

_BLOCK = 20_000
_WORDS = (
    "revenue grew while costs fell in the third quarter of last year because demand for short vectors was strong and "
    "nobody expected that long ones would be read from disk only when a candidate had earned it by its prefix"
)


@dataclass(frozen=True)
class Corpus:
    """A folder with ``vectors.npy`` (N, D) and ``queries.npy`` (Q, D): float32 unit rows."""

    folder: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dims."""
        rows, dims = self._vectors().shape
        return rows, dims

    def _vectors(self) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return found

    def queries(self, n: int) -> FloatArray:
        """The first ``n`` queries, or all."""
        found: FloatArray = np.load(self.folder / "queries.npy")[:n]
        return found

    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """Of every row, the metadata that are filtered by."""
        rng = np.random.default_rng(1)
        rows = self.shape[0]
        return {"tenth": rng.integers(0, 10, rows), "mille": rng.integers(0, 1000, rows)}

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows, with ids, texts of about 200 characters, and metadata of four keys."""
        vectors, columns, vocabulary = self._vectors(), self.columns(), _WORDS.split()
        for start in range(0, len(vectors), size):
            block = np.array(vectors[start : start + size])
            numbers = range(start, start + len(block))
            picked = np.random.default_rng([2, start]).integers(0, len(vocabulary), (len(block), 32))
            metadatas: list[dict[str, Any]] = [
                {
                    "tenth": int(columns["tenth"][i]),
                    "mille": int(columns["mille"][i]),
                    "source": f"source-{i % 97}",
                    "year": 1990 + i % 35,
                }
                for i in numbers
            ]
            texts = [
                f"Passage {i}: " + " ".join(vocabulary[w] for w in row) for i, row in zip(numbers, picked, strict=True)
            ]
            yield Batch([str(i) for i in numbers], texts, metadatas, block)

    def read(self, numbers: list[int]) -> FloatArray:
        """Some vectors, without mapping the file: its pages would count as memory of this process."""
        mapped = self._vectors()
        offset, dims = int(getattr(mapped, "offset")), mapped.shape[1]  # noqa: B009  (unknown to NumPy's types)
        file = os.open(self.folder / "vectors.npy", os.O_RDONLY)
        try:
            raw = b"".join(os.pread(file, 4 * dims, offset + 4 * dims * number) for number in numbers)
        finally:
            os.close(file)
        return np.frombuffer(raw, dtype=np.float32).reshape(-1, dims)

    def matching(self, only: Equal | None) -> npt.NDArray[np.bool_]:
        """Which rows a filter lets through."""
        return np.ones(self.shape[0], dtype=bool) if only is None else self.columns()[only.key] == only.value

    def worst_scores(self, name: str, k: int) -> FloatArray:
        """Per query the score of the last of its true top ``k`` under a filter; exact, computed once and kept."""
        path = self.folder / f"worst-{name.replace(' %', '')}-{k}.npy"
        if not path.exists():
            queries, vectors, passing = self.queries(1000), self._vectors(), self.matching(FILTERS[name])
            best = np.full((len(queries), k), -np.inf, dtype=np.float32)
            for start in range(0, len(vectors), _BLOCK):
                block = vectors[start : start + _BLOCK][passing[start : start + _BLOCK]]
                scores = np.hstack([best, queries @ block.T])
                best = -np.partition(-scores, k - 1, axis=1)[:, :k]
            best.sort(axis=1)
            there = min(k, int(passing.sum()))
            np.save(path, best[:, k - max(there, 1)])
        found: FloatArray = np.load(path)
        return found


def ensure(folder: Path, rows: int, dims: int) -> Corpus:
    """The corpus in a folder, made there if there is none. ``dims`` below 768 are renormalised prefixes.

    Raises:
        SystemExit: the generator is not at hand, or other vectors are in the folder.
    """
    corpus = Corpus(folder)
    if not (folder / "vectors.npy").exists():
        if not GENERATOR.exists():
            sys.exit(f"{folder} has no vectors.npy and queries.npy, and {GENERATOR}, which makes them, is absent")
        spec = importlib.util.spec_from_file_location("mrl_like", GENERATOR)
        if spec is None or spec.loader is None:
            sys.exit(f"{GENERATOR} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        module.generate(rows, unfinished)
        if dims < module.DIM:
            for name in ("vectors", "queries"):
                np.save(unfinished / f"{name}.npy", normalize(np.load(unfinished / f"{name}.npy")[:, :dims]))
        (unfinished / "made.json").write_text(json.dumps({"by": GENERATOR.name, "rows": rows, "dims": dims}))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    if corpus.shape != (rows, dims):
        sys.exit(f"the vectors in {folder} are of shape {corpus.shape}, not {(rows, dims)}: name another --data")
    return corpus
