"""``mrl demo``: the whole way on a real corpus, with every figure measured here and now."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from shlex import quote
from textwrap import wrap
from typing import Any

from mrl_retrieval.errors import InvalidInput, MissingExtra
from mrl_retrieval.registry import backend_class, encoder_names, load_encoder
from mrl_retrieval.retriever import MatryoshkaRetriever

from .arguments import positive
from .demo_data import DemoData, load_demo_data
from .demo_measure import CANDIDATES, LADDER, K, Quality, Timing, measure_quality, measure_times, timed_index
from .output import Output, plural, readable_bytes, snippet

__all__ = ["add_parsers"]

COARSE_DIMS = 64
_WIDTH = 100
SAMPLES = ("q00636", "q01155", "q05624")
"""Questions whose hits are shown: short ones about things that many have heard of."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="index a real corpus and show what two stages gain and lose",
        description="Index 6,000 answers of MedQuAD (medical questions and answers of the NIH, CC BY 4.0), ask its "
        "questions, and compare the two stages with exact search. Takes some seconds; without --backend it leaves "
        "nothing behind.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend", metavar="URI",
        help="an address with no collection yet, which is kept (faiss in a temporary folder, which is not)",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", metavar="NAME", help="wordllama, or the built-in hashing encoder if that is not installed"
    )
    parser.add_argument("--queries", type=positive, default=200, metavar="N", help="questions to measure with (200)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Index, ask, measure, print."""
    data = load_demo_data()
    name = arguments.encoder or _best_encoder(output)
    with _place(arguments.backend, output) as address:
        retriever = MatryoshkaRetriever(
            encoder=load_encoder(name), backend=address, coarse_dims=COARSE_DIMS, coarse_top_k=CANDIDATES, final_top_k=K
        )
        with retriever:
            if retriever.manifest is not None:
                raise InvalidInput(
                    f"there is a collection at {address} already; give the demo one of its own, as in "
                    f"{address.partition('?')[0]}?collection=demo"
                )
            _show(retriever, data, name, arguments.queries, output)
        if arguments.backend:
            output.line(
                f'The collection stays. Ask it more: mrl search {quote(address)} "What helps against a migraine?"'
            )
    return 0


def _show(retriever: MatryoshkaRetriever, data: DemoData, encoder: str, queries: int, output: Output) -> None:
    output.line(output.bold(f"1. Indexing {plural(len(data.texts), 'answer')} of MedQuAD (NIH, CC BY 4.0)"))
    total, encoding = timed_index(retriever, data)
    manifest = retriever.manifest
    assert manifest is not None
    coarse, fine = manifest.coarse_dims, manifest.fine_dims
    output.line(
        f"   {encoder}, {manifest.dim} dims, into {retriever.backend.address.scheme}: {total:.1f} s, "
        f"{len(data.texts) / total:,.0f} documents/s ({encoding:.1f} s of it encoding)"
    )
    output.line(f"   coarse stage: {coarse} dims, {CANDIDATES} candidates; rerank: {fine} dims\n")

    legend = f"   (score; {coarse}: coarse score; ✓: the answer that MedQuAD gives)"
    output.line(output.bold("2. Asking") + output.dim(legend))
    for id in SAMPLES:
        _show_question(retriever, data, id, coarse, output)

    asked = data.sample(queries)
    quality = measure_quality(retriever, data, asked)
    output.line(output.bold(f"3. What the short vectors cost, over {plural(len(asked), 'question')}"))
    _show_quality(quality, coarse, fine, output)

    output.line(output.bold("4. What they save"))
    _show_bytes(retriever, output)
    _show_times(measure_times(retriever, quality.vectors), quality, output)
    _note(
        output,
        f"With {len(data.texts):,} documents even a full scan is quick; its cost grows with the collection, that of "
        "the rerank does not. For your own texts: mrl index PATH --to faiss:./kb",
    )


def _show_question(retriever: MatryoshkaRetriever, data: DemoData, id: str, dims: int, output: Output) -> None:
    question = data.questions[id]
    output.line(f"   {question}")
    for rank, hit in enumerate(retriever.search(question, 3, explain=True), start=1):
        right = output.green("✓") if hit.id in data.judged[id] else " "
        coarse = "" if hit.coarse_score is None else f"  {dims}: {hit.coarse_score:.3f}"
        head = f"   {right} {rank}  {hit.score:.3f}{coarse}  "
        plain = len(f"     {rank}  {hit.score:.3f}{coarse}  ")
        text = snippet(hit.document or "", question, min(output.width, _WIDTH) - plain, lines=1)
        output.line(head + (text[0] if text else ""))
    output.line()


def _show_quality(quality: Quality, coarse: int, fine: int, output: Output) -> None:
    rows = [["", "dims", f"recall@{K}", f"nDCG@{K}"]]
    names = ("coarse stage alone", "two stages", "exact, every vector")
    for name, dims, one in zip(names, (str(coarse), f"{coarse} → {fine}", str(fine)), quality.rankings, strict=True):
        rows.append([name, dims, f"{one.recall:.3f}", f"{one.ndcg:.3f}"])
    output.table(rows, indent="   ")
    _note(
        output,
        f"recall@{K}: share of the exact top {K} that is found. nDCG@{K}: against MedQuAD's own answers, the only "
        "judgements there are; a good answer that belongs to another question counts as wrong.",
    )
    covered = [["candidates", *map(str, LADDER)], ["coverage", *(f"{share:.3f}" for share in quality.coverage)]]
    output.table(covered, indent="   ")
    _note(
        output,
        f"coverage: share of the exact top {K} among the candidates, the most that the rerank can find. The two stages "
        f"above took {CANDIDATES}; a larger coarse_top_k, or longer prefixes (coarse_dims), find more.",
    )


def _show_bytes(retriever: MatryoshkaRetriever, output: Output) -> None:
    stats = retriever.backend.stats()
    meaning = {
        "coarse": "the short vectors, which every search scans",
        "fine": "the full ones, read for the candidates only",
        "rows": "documents, metadata, ids",
    }
    output.line(output.dim(f"   {'bytes':<6}  {'total':>9}  {'per document':>12}"))
    for part, count in stats.bytes.items():
        each = "" if count is None else f"{count / stats.rows:,.0f} B"
        text = f"   {part:<6}  {readable_bytes(count):>9}  {each:>12}  "
        output.line((text + output.dim(meaning.get(part, ""))).rstrip())
    output.line()


def _show_times(times: list[Timing], quality: Quality, output: Output) -> None:
    rows = [["time of one query", "dims", "median", "95 % within"]]
    rows += [[t.name, str(t.dims or ""), f"{t.median * 1000:.2f} ms", f"{t.p95 * 1000:.2f} ms"] for t in times]
    rows.append(["encoding the question, before all of these", "", f"{quality.encoding_seconds * 1000:.2f} ms", ""])
    output.table(rows, indent="   ")


def _note(output: Output, text: str) -> None:
    for line in wrap(text, _WIDTH - 3):
        output.line(output.dim("   " + line))
    output.line()


def _best_encoder(output: Output) -> str:
    if find_spec("wordllama") is not None and "wordllama" in encoder_names():
        return "wordllama"
    output.line(
        "wordllama is not installed (pip install 'mrl-retrieval[wordllama]'): using the built-in hashing encoder,"
    )
    output.line("which knows words but no meanings. The quality below is not what a real encoder gives.\n")
    return "hashing"


@contextmanager
def _place(given: str | None, output: Output) -> Iterator[str]:
    """The address asked for, else a faiss collection in a temporary folder, else memory."""
    if given:
        yield given
        return
    try:
        backend_class("faiss")
    except MissingExtra:
        output.line("faiss is not installed (pip install 'mrl-retrieval[faiss]'): using the memory backend.\n")
        yield "memory:"
        return
    with tempfile.TemporaryDirectory(prefix="mrl-demo-", ignore_cleanup_errors=True) as folder:
        yield f"faiss:{folder}/demo"
