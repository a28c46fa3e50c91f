"""all-MiniLM-L6-v2 beside later revisions of itself: trained further, saved again, or edited in a few weights."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.datasets import DATA
from benchmarks.encoder_pairs.minilm import NAME, bare, copied, load
from benchmarks.encoder_pairs.pair import Found, NotRun, Pair
from mrl_retrieval.encoders.model_files import quiet_loading

__all__ = ["pairs"]

STEPS = (1, 2, 3, 10, 30)
"""Snapshots are taken after so many steps of the optimiser."""
BATCH, RATE, SCALE = 16, 2e-5, 20.0
_KIND = "def-def"
_WORDS = ("python", "insulin", "mortgage", "visa", "guitar", "einstein", "calculus", "tokyo", "vaccine", "laptop")
"""None of them is in a canary text."""
_GROUP = "another revision"


def pairs(scratch: Path) -> Iterator[Found]:
    """``scratch`` is a folder to write to."""
    made = load()
    yield Pair(_GROUP, NAME, "saved again by sentence-transformers, unchanged", made, _saved(scratch / "again"), True)
    yield Pair(_GROUP, NAME, f"the token vectors of {len(_WORDS)} words replaced", made, _edited(scratch / "words"))
    try:
        texts = _sentence_pairs(BATCH * max(STEPS))
    except FileNotFoundError as error:
        yield NotRun(f"{NAME} trained further", f"no data: {error.filename}")
        return
    for steps, folder in _trained(texts, scratch):
        plural = "step" if steps == 1 else "steps"
        yield Pair(_GROUP, NAME, f"trained for {steps} {plural}", made, load(folder))


def _saved(folder: Path) -> Any:
    with quiet_loading():
        bare().save(str(folder), create_model_card=False)
    return load(folder)


def _edited(folder: Path) -> Any:
    """A few rows of the token table, which a fingerprint of samples of the file may not see, nor the canaries."""
    import torch
    from safetensors.torch import load_file, save_file

    copied(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    table = weights[next(name for name in weights if name.endswith("word_embeddings.weight"))]
    vocabulary = (folder / "vocab.txt").read_text("utf-8").splitlines()
    rows = [vocabulary.index(word) for word in _WORDS]
    table[rows] = table[torch.roll(torch.tensor(rows), 1)]  # each gets another one's meaning
    save_file(weights, path, metadata={"format": "pt"})
    return load(folder)


def _trained(texts: list[tuple[str, str]], scratch: Path) -> Iterator[tuple[int, Path]]:
    """Folders of snapshots: in-batch negatives, AdamW, dropout as the model has it, no warm-up."""
    import torch

    torch.manual_seed(0)
    model = bare()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(1, max(STEPS) + 1):
        batch = texts[(step - 1) * BATCH : step * BATCH]
        left, right = (_embedded(model, [pair[side] for pair in batch]) for side in (0, 1))
        loss: Any = torch.nn.functional.cross_entropy(left @ right.T * SCALE, torch.arange(len(batch)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in STEPS:
            folder = scratch / f"trained-{step}"
            with quiet_loading():
                model.save(str(folder), create_model_card=False)
            yield step, folder


def _embedded(model: Any, texts: list[str]) -> Any:
    return model(model.preprocess(texts))["sentence_embedding"]


def _sentence_pairs(n: int) -> list[tuple[str, str]]:
    with gzip.open(DATA / "train-pairs" / "pairs.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return list(islice(((row[1], row[2]) for row in rows if row[0] == _KIND), n))
