"""What a model card, the ``README.md`` of a model's folder, says of Matryoshka training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Said", "read_card"]

# A stranger may have written the card: every pattern takes a time that grows with its length alone.
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_TAGS = re.compile(r"^tags:[ \t]*(?:\[([^\[\]]*)\]|((?:\n[ \t]*-[^\n]*)+))", re.MULTILINE)
_TRAINED_TAGS = frozenset({"matryoshka", "mrl", "loss:matryoshkaloss", "loss:matryoshka2dloss"})
_DIMS = re.compile(r'["\']?matryoshka_dims["\']?\s*[:=]\s*\[([\d,\s]+)\]')
_MOST_DIGITS = 9  # of a length; Python reads no whole number of thousands
_LOSS = re.compile(r"\bMatryoshka(2d)?Loss\b")
_WORD = re.compile(r"(?i:matryoshka)|\bMRL\b")
_DENIED = re.compile(r"\b(not?|non|without|never|lacks?|unlike|neither|cannot)\b|n't\b", re.IGNORECASE)
_LINK_IN_EVERY_CARD = "huggingface.co/blog/matryoshka"
"""The cards that sentence-transformers 6 writes link to it, whatever the model."""


class Said(NamedTuple):
    """What says that a model was trained so, and at which dims (empty: it does not say)."""

    words: str
    dims: tuple[int, ...]


def read_card(text: str) -> Said | None:
    """The strongest statement of a card, or None where it has none.

    From strong to weak: the dims of a ``MatryoshkaLoss``, as the cards that sentence-transformers writes have them; a
    tag, such as ``loss:MatryoshkaLoss``; the loss by name; a line with the word that does not look like a denial.
    Where several losses list their dims, those are taken that all of them have.
    """
    lists = [
        {int(dim) for dim in found.split(",") if 0 < len(dim.strip()) <= _MOST_DIGITS} for found in _DIMS.findall(text)
    ]
    dims = tuple(sorted(set.intersection(*lists) - {0})) if lists else ()
    if dims:
        return Said(f"matryoshka_dims {', '.join(map(str, dims))}", dims)
    for tag in _tags(text):
        if tag.lower() in _TRAINED_TAGS:
            return Said(f"the tag {tag!r}", ())
    if found := _LOSS.search(text):
        return Said(found[0], ())
    for line in text.splitlines():
        if _WORD.search(line) and _LINK_IN_EVERY_CARD not in line and not _DENIED.search(line):
            return Said(f"the line {line.strip()[:120]!r}", ())
    return None


def _tags(text: str) -> Iterator[str]:
    front = _FRONT_MATTER.match(text)
    for inline, block in _TAGS.findall(front[1] if front else ""):
        for tag in inline.split(",") if inline else block.strip().splitlines():
            yield tag.strip().removeprefix("-").strip().strip("'\"")
