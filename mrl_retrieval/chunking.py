"""Splitting a text into chunks that fit an encoder, at headings, paragraphs, sentences, lines, words, in this order.

Every chunk is an exact piece of the text, known by its characters; what stands between two chunks is white space,
never anything else. The text is tokenized once, to learn where its tokens lie; what is cut is then counted again by
itself, because a piece may have other tokens alone than it had in its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .encoder import Encoder, Span
from .errors import InvalidInput

__all__ = ["Chunk", "split_text"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text: ``source[start:end] == text``, in characters."""

    text: str
    start: int
    end: int


def split_text(text: str, max_tokens: int, encoder: Encoder, overlap: int = 0) -> list[Chunk]:
    """Split at headings and paragraphs, and inside of them only where a piece would not fit.

    A text that fits comes back whole. Else it is cut at every heading (a heading that would stand alone goes with
    what follows it), and within such a section paragraphs are packed as long as they fit; a paragraph that does not
    fit is cut at sentences, then lines, then words, then characters. A fenced code block counts as one paragraph.
    Headings are those of Markdown and reStructuredText, and in plain text short lines of their own that are
    numbered, in capitals, or begin with a word such as "Chapter".

    Args:
        text: any text. White space at the edges of a chunk may be left out, nothing else is.
        max_tokens: no chunk has more by ``encoder.count_tokens``, except a single character that has more by itself.
        encoder: gives ``count_tokens``.
        overlap: a chunk begins with up to so many tokens of the one before it, from the beginning of a word, unless
            a heading stands between them. The spans of such neighbours overlap.

    Returns:
        Chunks by ascending ``start`` and ``end``, none empty; ``[]`` for a text of white space.

    Raises:
        InvalidInput: ``max_tokens < 1``, or ``overlap`` not in 0..max_tokens-1.
    """
    if max_tokens < 1:
        raise InvalidInput(f"max_tokens must be at least 1, got {max_tokens}")
    if not 0 <= overlap < max_tokens:
        raise InvalidInput(f"overlap must be from 0 to max_tokens - 1 = {max_tokens - 1}, got {overlap}")
    if not text or text.isspace():
        return []
    total = encoder.count_tokens([text])[0]
    if total <= max_tokens:
        return [Chunk(text, 0, len(text))]
    splitter = _Splitter(text, _token_ends(text, total, encoder), encoder)
    sections = splitter.sections(max_tokens - overlap)
    if overlap:
        sections = splitter.overlapped(sections, overlap, max_tokens)
    return [Chunk(text[start:end], start, end) for section in sections for start, end in section]


# -- the structure of a text --------------------------------------------------------------------------------------

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}+(?!.*`)|~{3,})")
_ATX = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r"([=\-~^\"'#*+.:_`])\1{2,}\s*")
_NAMED = re.compile(r"(?:chapter|section|part|appendix|article|annex)\s+(?:\d+|[ivxlc]+|[a-z])\b", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+(?:\.\d+)*[.)]?\s+[^\W\d_]")
_PLAIN_HEADING_CHARACTERS = 80

# Each run of marks is looked at once (look-behind, possessive), so that a megabyte of dots takes linear time.
_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++(?=[^a-z])"  # not before a lower-case letter: "e.g. this"
    r"|(?<![。！？．｡])[。！？．｡]++[」』”’）】]*+\s*+"  # scripts that put no space after a sentence
)
_LINE_END = re.compile(r"(?:\r\n|\r|\n)(?:[ \t]*+(?:\r\n|\r|\n))*+")
_WORD_END = re.compile(r"\s+")
_WORD = re.compile(r"\S+")
_PROSE_LEVELS = (_SENTENCE_END, _LINE_END, _WORD_END)
_CODE_LEVELS = (_LINE_END, _WORD_END)

_REPACKINGS = 4
"""How often a section is packed again, tighter, before what is still too long is cut in halves."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph, a fenced code block or a heading, with the white space after it."""

    start: int
    end: int
    heading: bool = False
    code: bool = False


def _blocks(text: str) -> list[_Block]:
    lines = [(m.start(), m.end()) for m in _LINE.finditer(text)]
    stripped = [text[start:end].strip() for start, end in lines]
    blocks: list[_Block] = []
    i = 0
    while i < len(lines):
        if not stripped[i]:
            i += 1
            continue
        start, after, heading, code = i, i + 1, False, False
        if fence := _FENCE.match(text, *lines[i]):
            code, after = True, _after_fence(stripped, i, fence[1])
        elif size := _heading_lines(text, lines, stripped, i):
            heading, after = True, i + size
        else:
            while (
                after < len(lines)
                and stripped[after]
                and not _FENCE.match(text, *lines[after])
                and not _ATX.match(text, *lines[after])
            ):
                after += 1
        blocks.append(_Block(lines[start][0], lines[after - 1][1], heading, code))
        i = after
    # Blocks tile the text from the first on, so that what is packed together keeps what stood between.
    ends = [block.start for block in blocks[1:]] + [len(text)]
    return [replace(block, end=end) for block, end in zip(blocks, ends, strict=True)]


def _after_fence(stripped: Sequence[str], opening: int, fence: str) -> int:
    for i in range(opening + 1, len(stripped)):
        if stripped[i].startswith(fence) and not stripped[i].strip(fence[0]):
            return i + 1
    return len(stripped)  # never closed: code to the end, as Markdown has it


def _heading_lines(text: str, lines: Sequence[Span], stripped: Sequence[str], i: int) -> int:
    """How many lines from ``i`` on, where a paragraph begins, make a heading; 0: none."""
    line = stripped[i]
    following = stripped[i + 1] if i + 1 < len(lines) else ""
    if _ATX.match(text, *lines[i]):
        return 1
    if _UNDERLINE.fullmatch(line):
        over = i + 2 < len(lines) and following and stripped[i + 2] == line and len(following) <= len(line)
        return 3 if over else 0
    if _UNDERLINE.fullmatch(following) and (following[0] in "=-" or len(following) >= len(line)):
        return 2
    alone = not following and (i == 0 or not stripped[i - 1])
    if not alone or len(line) > _PLAIN_HEADING_CHARACTERS or line[-1] in ".,;:!?。！？":
        return 0
    capitals = line.isupper() and sum(map(str.isalpha, line)) > 3
    return 1 if capitals or _NAMED.match(line) or _NUMBERED.match(line) else 0


def _cut(text: str, span: Span, at: re.Pattern[str]) -> list[Span]:
    """The span in pieces that end where ``at`` matches; pieces tile the span and none is white space alone."""
    start, end = span
    pieces: list[Span] = []
    for match in at.finditer(text, start, end):
        if start < match.end() < end and not text[start : match.end()].isspace():
            pieces.append((start, match.end()))
            start = match.end()
    if pieces and text[start:end].isspace():
        start = pieces.pop()[0]
    return [*pieces, (start, end)]


# -- sizes and packing --------------------------------------------------------------------------------------------


def _token_ends(text: str, total: int, encoder: Encoder) -> list[int]:
    """Where each token ends, in characters, ascending; a guess from the words where the tokenizer cannot say."""
    spans = encoder.token_spans(text)
    if spans is not None:
        return sorted(end for _, end in spans)
    words = [match.span() for match in _WORD.finditer(text)]
    ends: list[int] = []
    for (start, end), tokens in zip(words, encoder.count_tokens([text[a:b] for a, b in words]), strict=True):
        ends += [start + -(-(end - start) * (i + 1) // tokens) for i in range(tokens)]
    if total < len(ends):  # words counted one by one come to more than the text: spread the text's count evenly
        ends = [ends[(i + 1) * len(ends) // total - 1] for i in range(total)]
    return ends


class _Splitter:
    """One text with its tokens."""

    def __init__(self, text: str, ends: list[int], encoder: Encoder) -> None:
        self._text, self._ends, self._encoder = text, ends, encoder

    def sections(self, limit: int) -> list[list[Span]]:
        """Spans of chunks of at most ``limit`` tokens, one list per section."""
        groups: list[list[_Block]] = []
        previous: _Block | None = None
        for block in _blocks(self._text):
            if previous is None or (block.heading and not previous.heading):
                groups.append([])
            groups[-1].append(block)
            previous = block
        tighter = [0] * len(groups)
        for _ in range(_REPACKINGS):
            sections = [self._pack(group, limit - less) for group, less in zip(groups, tighter, strict=True)]
            counts = iter(self._count([span for section in sections for span in section]))
            over = [max(next(counts) for _ in section) - limit for section in sections]
            if max(over) <= 0:
                return sections
            tighter = [min(less + max(more, 0), limit // 2) for less, more in zip(tighter, over, strict=True)]
        return [self._halved(section, limit) for section in sections]

    def overlapped(self, sections: list[list[Span]], overlap: int, limit: int) -> list[list[Span]]:
        """The chunks of each section, each begun up to ``overlap`` tokens earlier."""
        result: list[list[Span]] = []
        for section in sections:
            longer = section[:1]
            for (before, _), (start, end) in pairwise(section):
                longer.append((self._earlier(before, start, overlap), end))
            counts = self._count(longer)
            result.append([a if n <= limit else b for a, b, n in zip(longer, section, counts, strict=True)])
        return result

    def _tokens(self, start: int, end: int) -> int:
        return bisect_right(self._ends, end) - bisect_right(self._ends, start)

    def _count(self, spans: Sequence[Span]) -> list[int]:
        return self._encoder.count_tokens([self._text[start:end] for start, end in spans])

    def _pack(self, blocks: Sequence[_Block], limit: int) -> list[Span]:
        """One section: its blocks, cut where they must be, joined again as long as they fit."""
        chunks: list[Span] = []
        titles = 0
        for block in blocks:
            whole = self._tokens(block.start, block.end)
            levels = _CODE_LEVELS if block.code else _PROSE_LEVELS
            # What follows a heading leaves room for it, so that the heading does not end up alone.
            room = limit - titles if 0 < titles <= limit // 2 else limit
            span = (block.start, block.end)
            pieces = [span]
            if whole > room:
                pieces = [p for cut in _cut(self._text, span, levels[0]) for p in self._fit(cut, limit, levels[1:])]
            titles = titles + whole if block.heading else 0
            for start, end in pieces:
                if chunks and self._tokens(chunks[-1][0], end) <= limit:
                    chunks[-1] = (chunks[-1][0], end)
                else:
                    chunks.append((start, end))
        return [(start, end) for start, end in map(self._stripped, chunks) if start < end]

    def _fit(self, span: Span, limit: int, levels: Sequence[re.Pattern[str]]) -> list[Span]:
        """The span in pieces that fit, each as large as it may be at the coarsest level that will do."""
        start, end = span
        if self._tokens(start, end) <= limit:
            return [span]
        if levels:
            return [p for cut in _cut(self._text, span, levels[0]) for p in self._fit(cut, limit, levels[1:])]
        borders = [start]
        while self._tokens(borders[-1], end) > limit:
            borders.append(self._reach(borders[-1], limit))
        return list(pairwise([*borders, end]))

    def _reach(self, start: int, limit: int) -> int:
        """How far ``limit`` tokens go from ``start``, one character at the least."""
        last = bisect_right(self._ends, start) + limit
        border = self._ends[last - 1]
        if bisect_right(self._ends, border) > last:  # of its last character not all the tokens fit
            earlier = bisect_left(self._ends, border)
            border = self._ends[earlier - 1] if earlier and self._ends[earlier - 1] > start else border
        return border

    def _halved(self, spans: Sequence[Span], limit: int) -> list[Span]:
        """Spans that are still too long, halved until they fit, at white space if there is any near the middle."""
        done = list(spans)
        while True:
            counts = self._count(done)
            if all(n <= limit or end - start == 1 for (start, end), n in zip(done, counts, strict=True)):
                return done
            shorter: list[Span] = []
            for (start, end), n in zip(done, counts, strict=True):
                if n <= limit or end - start == 1:
                    shorter.append((start, end))
                    continue
                middle = (start + end) // 2
                space = _WORD_END.search(self._text, middle, end - 1)
                border = space.end() if space and space.end() < end else middle
                shorter += [self._stripped((start, border)), self._stripped((border, end))]
            done = [span for span in shorter if span[0] < span[1]]

    def _stripped(self, span: Span) -> Span:
        start, end = span
        while end > start and self._text[end - 1].isspace():
            end -= 1
        return start, end

    def _earlier(self, before: int, start: int, overlap: int) -> int:
        """Where a chunk that began at ``start`` begins with up to ``overlap`` tokens of the one from ``before`` on."""
        at = bisect_right(self._ends, start) - overlap - 1
        lowest = max(self._ends[at] if at >= 0 else 0, before + 1)
        if lowest >= start:
            return start
        if lowest and not self._text[lowest - 1].isspace():
            space = _WORD_END.search(self._text, lowest, start)
            if space and space.end() < start:
                return space.end()
            if space is None:
                return lowest  # a script without spaces
            return start
        return lowest
