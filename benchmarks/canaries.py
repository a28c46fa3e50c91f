"""What tells a collection's encoder from another of the same length: its card, and its vectors of eight fixed texts.

A collection is made with one encoder and opened with another, once as they are and once as objects that say nothing of
themselves. ``docs/canaries.md`` keeps a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.datasets import load
from benchmarks.encoder_pairs import minilm, revisions, served, static
from benchmarks.encoder_pairs.pair import Found, NotRun, Pair, without_card
from benchmarks.report import machine, table
from mrl_retrieval import Encoder, MatryoshkaRetriever
from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.errors import ModelMismatchError
from mrl_retrieval.identity import MIN_CANARY_COSINE, make_canaries
from mrl_retrieval.matryoshka import FloatArray, normalize

SOURCES: tuple[Callable[[Path], Iterator[Found]], ...] = (minilm.pairs, revisions.pairs, static.pairs, served.pairs)
PAGE = Path(__file__).parents[1] / "docs" / "canaries.md"
DOCUMENTS, QUERIES, TOP = 400, 50, 10
OPENS = "opens"

HEAD = [
    "made with",
    "opened with",
    "least cosine",
    "mean cosine",
    f"top {TOP} kept",
    "the card differs in",
    "with their cards",
    "without cards",
]


@dataclass(frozen=True)
class Outcome:
    """What came of a pair, without its encoders: many models would be held at a time."""

    group: str
    made: str
    opened: str
    same: bool
    least: float
    """Of the canary texts, as documents and as queries."""
    mean: float
    kept: float
    """The share of the top 10 that is found again by the other encoder's queries."""
    fields: list[str]
    message: str | None
    """The first line of the refusal; None: it opens."""
    at_opening: bool
    nameless: str | None
    """The same where neither says anything of itself."""

    @property
    def missed(self) -> bool:
        return not self.same and self.nameless is None

    @property
    def needless(self) -> bool:
        return self.same and self.message is not None


@dataclass(frozen=True)
class Texts:
    """What the harm of a mistake is measured on."""

    documents: Sequence[str]
    queries: Sequence[str]


def run() -> str:
    """Measure, print as it goes, write the page, return its tables."""
    data = load("quora", QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        found = _found(Path(folder))
        outcomes, not_run = measure(found, Texts(data.documents[:DOCUMENTS], data.queries), Path(folder))
    PAGE.write_text(page(outcomes, not_run), encoding="utf-8")
    return tables(outcomes)


def _found(scratch: Path) -> Iterator[Found]:
    for source in SOURCES:
        folder = scratch / source.__module__
        folder.mkdir()
        yield from source(folder)


def measure(found: Iterable[Found], texts: Texts, scratch: Path) -> tuple[list[Outcome], list[NotRun]]:
    """Try each pair, and say so."""
    outcomes: list[Outcome] = []
    not_run: list[NotRun] = []
    truths: dict[str, FloatArray] = {}
    for each in found:
        if isinstance(each, NotRun):
            not_run.append(each)
            print(f"not run: {each.what}: {each.why}", flush=True)
            continue
        if each.made not in truths:
            truths[each.made] = encode_checked(each.maker, texts.documents, queries=False)
        outcomes.append(_outcome(each, texts.queries, truths[each.made], scratch / f"collection-{len(outcomes)}"))
        print(f"{each.made}, {each.opened}: {outcomes[-1].least:.6f}", flush=True)
    return outcomes, not_run


def _outcome(pair: Pair, queries: Sequence[str], documents: FloatArray, scratch: Path) -> Outcome:
    cosines = _cosines(pair.maker, pair.opener)
    message, at_opening = _refusal(pair.maker, pair.opener, scratch / "cards")
    nameless, _ = _refusal(without_card(pair.maker), without_card(pair.opener), scratch / "nameless")
    right, found = (_top(encoder, queries, documents) for encoder in (pair.maker, pair.opener))
    kept = sum(len(a & b) for a, b in zip(right, found, strict=True)) / (len(queries) * TOP)
    fields = [field for field, _, _ in pair.maker.identity.differences(pair.opener.identity)]
    return Outcome(
        pair.group,
        pair.made,
        pair.opened,
        pair.same,
        float(cosines.min()),
        float(cosines.mean()),
        kept,
        fields,
        message,
        at_opening,
        nameless,
    )


def _cosines(maker: Encoder, opener: Encoder) -> FloatArray:
    """Of the eight canary texts, as documents and as queries, as the check sees them: the stored ones in float16."""
    stored, seen = make_canaries(maker), make_canaries(opener)
    pairs = ((stored.documents, seen.documents), (stored.queries, seen.queries))
    cosines = [np.einsum("nd,nd->n", normalize(a.astype(np.float16)), normalize(b), dtype=np.float64) for a, b in pairs]
    found: FloatArray = np.concatenate(cosines)
    return found


def _refusal(maker: Encoder, opener: Encoder, folder: Path) -> tuple[str | None, bool]:
    """The first line of what the user is told, and whether at opening or by the first search."""
    address = f"faiss:{folder}"
    with MatryoshkaRetriever(encoder=maker, backend=address, coarse_dims=maker.dim) as made:
        made.index(["git revert undoes a commit"])
    opened = False
    try:
        with MatryoshkaRetriever(encoder=opener, backend=address) as retriever:
            opened = True
            retriever.search("undo a commit")
    except ModelMismatchError as error:
        return str(error).splitlines()[0].replace(address, "faiss:./kb"), not opened
    return None, False


def _top(encoder: Encoder, queries: Sequence[str], documents: FloatArray) -> list[set[int]]:
    scores = encode_checked(encoder, queries, queries=True) @ documents.T
    return [set(row) for row in np.argsort(-scores, axis=1, kind="stable")[:, :TOP].tolist()]


# -- the page ----------------------------------------------------------------------------------------------------------


def tables(outcomes: Sequence[Outcome]) -> str:
    """One table a group, under its heading."""
    groups = list(dict.fromkeys(outcome.group for outcome in outcomes))
    return "\n\n".join(
        f"## {group[0].upper()}{group[1:]}\n\n"
        + table(HEAD, [_row(outcome) for outcome in outcomes if outcome.group == group])
        for group in groups
    )


def _row(outcome: Outcome) -> list[object]:
    when = "refused at opening" if outcome.at_opening else "refused at the first search"
    return [
        outcome.made,
        outcome.opened,
        f"{outcome.least:.6f}",
        f"{outcome.mean:.6f}",
        f"{outcome.kept:.3f}",
        ", ".join(outcome.fields) or "–",
        OPENS if outcome.message is None else when,
        OPENS if outcome.nameless is None else "refused at the first search",
    ]


def _list(outcomes: Sequence[Outcome]) -> str:
    lines = [
        f"- {outcome.made}, {outcome.opened}: least cosine {outcome.least:.6f}, top {TOP} kept "
        f"{outcome.kept:.3f}; " + _with_cards(outcome)
        for outcome in outcomes
    ]
    return "\n".join(lines) or "None."


def _with_cards(outcome: Outcome) -> str:
    if outcome.message is None:
        return "opens with their cards, too."
    return f"with their cards it is refused ({', '.join(outcome.fields) or 'canaries'})."


def _summary(outcomes: Sequence[Outcome]) -> str:
    others = [outcome for outcome in outcomes if not outcome.same]
    alone = sum(outcome.nameless is not None for outcome in others)
    together = sum(outcome.message is not None for outcome in others)
    alike = [outcome for outcome in outcomes if outcome.same]
    wrongly = sum(outcome.nameless is not None for outcome in alike)
    return (
        f"Of {len(others)} pairs that differ, the canary texts alone refuse {alone}, with the cards {together} are "
        f"refused.\nOf {len(alike)} that do not, the canary texts refuse {wrongly}; cards refuse "
        f"{sum(outcome.needless for outcome in alike)}, since the files or the options are others."
    )


def _message(outcomes: Sequence[Outcome], *, at_opening: bool) -> str:
    for outcome in outcomes:
        if outcome.message is not None and outcome.at_opening == at_opening:
            return f"`ModelMismatchError: {outcome.message}`"
    return "None in this run."


def page(outcomes: Sequence[Outcome], not_run: Sequence[NotRun]) -> str:
    """The whole page."""
    skipped = "\n".join(f"- {each.what}: {each.why}." for each in not_run) or "None."
    return f"""# Which encoders the canary check tells apart

Printed by `python -m benchmarks canaries` (part of `make bench`) on {machine()}. A collection
remembers the card of its encoder and its vectors of eight fixed texts
([encoders](encoders.md#what-makes-an-encoder-the-same-encoder)). Here it is made with one encoder and opened with
another **of the same length**, which no check of the length can tell from it.

- **least cosine**, **mean cosine**: of the eight texts' vectors by both, as documents and as queries. The check refuses
  a least cosine below {MIN_CANARY_COSINE}.
- **top {TOP} kept**: {DOCUMENTS:,} questions of quora encoded by the first encoder, searched exactly with {QUERIES}
  queries encoded by the second: the share of the top {TOP} that the first one's own queries find.
- **with their cards**: both encoders as they are. Cards are compared at opening, without calling a model.
- **without cards**: both as plain objects that say nothing of themselves: only the canary texts can tell, at the first
  search.

{_summary(outcomes)}

{tables(outcomes)}

## What the canary texts do not catch

Not the same model and setting, and without cards it opens:

{_list([outcome for outcome in outcomes if outcome.missed])}

The texts have at most 48 tokens of MiniLM's, so a limit above that shows in none of them; and weights that none of them
touches, such as the vectors of other words, show in none either.

## Refused though nothing is wrong

One model in one setting, and with their cards it is refused:

{_list([outcome for outcome in outcomes if outcome.needless])}

## What the user is told

At opening, where the cards differ:

{_message(outcomes, at_opening=True)}

At the first search, where only the canary texts do:

{_message(outcomes, at_opening=False)}

## Not run

{skipped}
"""
