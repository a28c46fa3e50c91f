"""Static token embeddings beside each other: WordLlama's package, its weights in Model2Vec, other precisions."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.encoder_pairs.pair import Found, NotRun, Pair, nameless
from mrl_retrieval import Encoder, load_encoder
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.wordllama import WordLlamaEncoder
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["model2vec_folder", "pairs", "wordllama_package"]

_GROUP = "static token embeddings"


def pairs(scratch: Path) -> Iterator[Found]:
    """``scratch`` is a folder to write to."""
    made = load_encoder("wordllama")
    yield Pair(_GROUP, "wordllama", "wordllama's own `embed`", made, _packages_own(), same=True)
    yield Pair(_GROUP, "wordllama", "its vectors turned (a rotation of one's own)", made, _turned(made))
    yield Pair(_GROUP, "wordllama", "its vectors as signs (binary)", made, _signs(made))
    yield Pair(_GROUP, "wordllama", "hashing:256", made, HashingEncoder(made.dim))
    yield NotRun("wordllama 256 beside 256 dims of its longer weights", "the wheel holds the 256-dim weights alone")
    if importlib.util.find_spec("model2vec") is None:
        yield NotRun("wordllama as a Model2Vec model", "the package model2vec is not installed")
        return
    from mrl_retrieval.encoders.model2vec import Model2VecEncoder

    folder = model2vec_folder(scratch / "model2vec")
    yield Pair(_GROUP, "wordllama", "its weights as a Model2Vec model", made, Model2VecEncoder(folder), same=True)
    exact = Model2VecEncoder(folder)
    for kind, same in (("float16", True), ("int8", False)):
        opener = Model2VecEncoder(folder, quantize_to=kind)
        yield Pair(_GROUP, "Model2Vec", f"the same with quantize_to={kind!r}", exact, opener, same)
    yield Pair(_GROUP, "Model2Vec", "texts cut at 32 tokens", exact, Model2VecEncoder(folder, max_tokens=32))


def wordllama_package() -> object:
    """The package's own model."""
    load_encoder("wordllama")  # imports it without what it does to logging
    import wordllama

    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(config="l2_supercat", dim=256, cache_dir=folder, disable_download=True)


def model2vec_folder(folder: Path) -> Path:
    """WordLlama's token embeddings and tokenizer as a Model2Vec model that normalises: the same vectors."""
    from model2vec import StaticModel

    wordllama = WordLlamaEncoder()
    StaticModel(wordllama._embedding.copy(), wordllama._tokenizer, normalize=True).save_pretrained(folder)
    return folder


def _packages_own() -> Encoder:
    model = wordllama_package()
    return nameless(lambda texts: model.embed(list(texts), norm=True))  # type: ignore[attr-defined]


def _turned(encoder: Encoder) -> Encoder:
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((encoder.dim, encoder.dim)))
    return nameless(lambda texts: encoder.encode_document(texts) @ turn)


def _signs(encoder: Encoder) -> Encoder:
    def signs(texts: Sequence[str]) -> FloatArray:
        vectors: FloatArray = np.where(encoder.encode_document(texts) > 0, np.float32(1), np.float32(-1))
        return vectors

    return nameless(signs)
