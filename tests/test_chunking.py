import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import Encoder, EncoderCard, load_encoder
from mrl_retrieval.chunking import Chunk, split_text
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import InvalidInput

WORDS = HashingEncoder(8)


class Guessing(Encoder):
    """Counts by the base class's guess, and cannot say where its tokens lie."""

    dim = 1
    identity = EncoderCard(dim=1)

    def __init__(self):
        self.calls = 0

    def encode_document(self, texts, **kwargs):
        raise AssertionError("splitting encodes nothing")

    def count_tokens(self, texts):
        self.calls += 1
        return super().count_tokens(texts)


class Pairs(Guessing):
    """A token is a pair of characters, wherever a text begins, and white space counts: a piece has not the tokens
    that it had in its place."""

    def count_tokens(self, texts):
        self.calls += 1
        return [(len(text) + 1) // 2 for text in texts]

    def token_spans(self, text):
        return [(i, min(i + 2, len(text))) for i in range(0, len(text), 2)]


class Bytes(Guessing):
    """A token is a byte, plus one in front: one character may be more than the limit."""

    def count_tokens(self, texts):
        self.calls += 1
        return [1 + len(text.encode()) for text in texts]

    def token_spans(self, text):
        return [(0, 0)] + [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]


class OutOfPlace(Guessing):
    """Counts twice as much for a piece as its spans in the whole promise: repacking must give up and halve."""

    def count_tokens(self, texts):
        self.calls += 1
        return [2 * len(text.split()) + 1 for text in texts]

    def token_spans(self, text):
        return WORDS.token_spans(text)


ENCODERS = [WORDS, Guessing(), Pairs(), Bytes(), OutOfPlace()]


def check(text, chunks, limit, encoder, overlap=0):
    """What holds for every splitting."""
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
    for a, b in zip(chunks, chunks[1:], strict=False):
        assert a.start < b.start
        assert a.end < b.end
        assert overlap or a.end <= b.start
    seen = bytearray(len(text))
    for chunk in chunks:
        seen[chunk.start : chunk.end] = b"\x01" * (chunk.end - chunk.start)
    assert all(seen[i] or character.isspace() for i, character in enumerate(text))
    counts = encoder.count_tokens([chunk.text for chunk in chunks])
    assert all(n <= limit or len(chunk.text) == 1 for chunk, n in zip(chunks, counts, strict=True))


PIECES = st.sampled_from(
    [
        *["word", "a", "Sentence one. ", "What? ", "No! ", "e.g. this", "...", "x" * 40, "| a | b |\n"],
        *["\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " ", "\t", "  ", "\u2028", "\x0c", "\x00"],
        *["# Title\n", "Title\n=====\n", "***\nOver\n***\n", "CAPITALS ALONE", "2.1 Methods", "----\n"],
        *["```\n", "~~~py\n", "    code()\n"],
        *["。", "漢字かな交じり文。", "👩‍👩‍👧‍👦", "e\u0301", "ß"],
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=60).map("".join), st.text(max_size=200))


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 40), encoder=st.sampled_from(ENCODERS), data=st.data())
def test_always(text, limit, encoder, data):
    overlap = data.draw(st.one_of(st.just(0), st.integers(0, limit - 1)))
    chunks = split_text(text, limit, encoder, overlap)
    check(text, chunks, limit, encoder, overlap)
    if not text.strip():
        assert chunks == []
    elif encoder.count_tokens([text])[0] <= limit:
        assert chunks == [Chunk(text, 0, len(text))]


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, limit=st.integers(2, 40), encoder=st.sampled_from([WORDS, Pairs(), Bytes()]), data=st.data())
def test_overlap_only_reaches_back(text, limit, encoder, data):
    overlap = data.draw(st.integers(1, limit - 1))
    ends = [chunk.end for chunk in split_text(text, limit, encoder, overlap)]
    assert ends == sorted(set(ends))


MARKDOWN = (
    """# Git

Undo the last commit, but *keep* the changes:

```sh
# soft
git reset --soft HEAD~1
```

Rückgängig machen: 民主主義, 👩‍👩‍👧‍👦.

## Reverting

"""
    + "A revert makes a new commit. Antidisestablishmentarianism is off! See e.g. chapter 3. Is it safe? " * 30
)


@pytest.mark.parametrize(("limit", "overlap"), [(1, 0), (2, 1), (7, 0), (16, 4), (64, 8), (200, 0)])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_with_a_real_tokenizer(limit, overlap, newline):
    pytest.importorskip("wordllama", reason="needs wordllama")
    encoder = load_encoder("wordllama")
    text = MARKDOWN.replace("\n", newline)
    chunks = split_text(text, limit, encoder, overlap)
    check(text, chunks, limit, encoder, overlap)
    if limit >= 64:
        used = encoder.count_tokens([chunk.text for chunk in chunks[1:-1]])
        assert np.mean(used) > 0.8 * limit  # chunks are filled


# -- where it cuts ------------------------------------------------------------------------------------------------------


def texts_of(text, limit, encoder=WORDS, overlap=0):
    chunks = split_text(text, limit, encoder, overlap)
    check(text, chunks, limit, encoder, overlap)
    return [chunk.text for chunk in chunks]


def test_a_text_that_fits_is_left_alone():
    text = "  # One\n\ntext\n\n# Two\n\nmore \r\n"
    assert texts_of(text, 4) == [text]


def test_paragraphs_are_packed_but_not_across_headings():
    text = "# One\n\na b c\n\nd e f\n\ng h\n\n## Two\n\ni j\n\n# Three\nk"
    assert texts_of(text, 7) == ["# One\n\na b c\n\nd e f", "g h", "## Two\n\ni j", "# Three\nk"]


def test_a_heading_stays_with_what_follows():
    assert texts_of("a b c\n\n# One\n\n## Two\n\nd e f g h\n\ni j", 7) == [
        "a b c",
        "# One\n\n## Two\n\nd e f g h",
        "i j",
    ]
    # Room is left for it even where the paragraph alone would fit: it is cut between sentences.
    sentences = "A b c d. E f g h."
    assert texts_of(f"# One two\n\n{sentences}\n\nend", 8) == ["# One two\n\nA b c d.", "E f g h.\n\nend"]


@pytest.mark.parametrize(
    "heading",
    [
        *["# Md", "###### Md ######", "Setext\n===", "Setext\n------", "Rst\n~~~~", "*****\nOver\n*****"],
        *["INTRODUCTION", "2.3 Results of it", "4. Results", "Chapter IV", "Appendix B: tables", "RÉSUMÉ GÉNÉRAL"],
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_headings(heading, newline):
    before = "one two three four five six"
    text = f"{before}\n\n{heading}\n\nfour five six".replace("\n", newline)
    assert texts_of(text, 8) == [before, f"{heading}\n\nfour five six".replace("\n", newline)]


@pytest.mark.parametrize(
    "line",
    [
        *[
            "#hashtag",
            "a plain line",
            "IT IS OVER.",
            "2 of them, and then:",
            "|---|",
            "---",
            "OK",
            "    # indented",
            "1999",
        ],
        "A LINE IN CAPITALS THAT GOES ON FOR MORE THAN EIGHTY CHARACTERS AND SO IS A PARAGRAPH OF ITS OWN",
    ],
)
def test_no_headings(line):
    words = WORDS.count_tokens([line])[0]
    text = f"one two\n\n{line}\n\nthree four five six seven"
    assert texts_of(text, 5 + words)[0] == f"one two\n\n{line}"


def test_a_code_block_is_one_paragraph_and_its_comments_are_no_headings():
    code = "```sh\n# not a heading\n\nmake all\n```"
    assert texts_of(f"one two three four\n\n{code}\n\nfive six", 8) == ["one two three four", f"{code}\n\nfive six"]
    # Too long by itself, it is cut between lines, and keeps the indentation.
    code = "~~~\ndef f():\n    return 1. A\n\n    b = 2\n~~~"
    assert texts_of(f"text before\n\n{code}", 4) == [
        "text before\n\n~~~\ndef f():",
        "    return 1. A",
        "    b = 2\n~~~",
    ]


def test_an_unclosed_code_block_goes_to_the_end():
    assert texts_of("a b\n\n```\n# c\n\n# d\n\n# e", 4) == ["a b", "```\n# c\n\n# d\n\n# e"]


def test_sentences_then_lines_then_words_then_characters():
    assert texts_of("One two. Three four five. Six.", 4) == ["One two.", "Three four five. Six."]
    assert texts_of("one two\nthree four\nfive", 3) == ["one two", "three four\nfive"]
    assert texts_of("one two three four five", 2) == ["one two", "three four", "five"]
    assert texts_of("x" * 100, 1) == ["x" * 32, "x" * 32, "x" * 32, "x" * 4]


def test_no_cut_before_a_lower_case_letter():
    assert texts_of("One e.g. this two. Then three.", 5) == ["One e.g. this two.", "Then three."]


def test_sentences_of_scripts_without_spaces():
    text = "今日は晴れ。明日は雨。"
    assert texts_of(text, 20, Bytes()) == ["今日は晴れ。", "明日は雨。"]


def test_a_character_of_more_tokens_than_allowed_stands_alone():
    assert texts_of("ab👍c", 2, Bytes()) == ["a", "b", "👍", "c"]


def test_overlap():
    text = "one two three four five six seven eight"
    assert texts_of(text, 4, overlap=1) == ["one two three", "three four five six", "six seven eight"]
    assert texts_of(text, 5, overlap=2) == ["one two three", "two three four five six", "five six seven eight"]
    assert texts_of("a b c d\n\n# T\n\ne f g h", 4, overlap=1)[:2] == ["a b c", "c d"]
    assert all(not piece.startswith("d") for piece in texts_of("a b c d\n\n# T\n\ne f g h", 4, overlap=1))


def test_overlap_in_a_script_without_spaces():
    pieces = texts_of("漢" * 20, 13, Bytes(), overlap=3)
    assert pieces[0] == "漢" * 3
    assert pieces[1] == "漢" * 4


# -- cost ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder_class", [Guessing, Bytes, OutOfPlace])
@pytest.mark.parametrize(
    "unit", ["x", "word ", ".", "?! ", "#\n", "`", "```\n", "a\n\n", "=====\n", "。", ". A", "\u0301", "1. A\n\n"]
)
def test_long_texts_take_few_calls_and_linear_time(encoder_class, unit):
    encoder = encoder_class()
    text = unit * ((1_000_000 if unit == "x" else 200_000) // len(unit.encode()))
    chunks = split_text(text, 500, encoder)
    assert encoder.calls < 40
    check(text, chunks, 500, encoder)


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (-1, 0), (5, 5), (5, -1)])
def test_bad_arguments(limit, overlap):
    with pytest.raises(InvalidInput, match="must be"):
        split_text("text", limit, WORDS, overlap)
