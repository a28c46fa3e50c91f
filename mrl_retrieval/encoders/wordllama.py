"""WordLlama: static token embeddings, 256 dims, Matryoshka-trained, with the weights inside its wheel; needs no torch.

The package gives the weights and the tokenizer; the mean over a text's tokens is taken here. The package's own
``embed`` gathers every batch padded to its longest text, which costs four times the time and, with one long document
in the batch, gigabytes; and its normalisation makes NaN of an empty text.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mrl_retrieval.encoder import EncoderCard
from mrl_retrieval.errors import InvalidInput, MissingExtra
from mrl_retrieval.matryoshka import FloatArray

from .model_files import loading
from .static_embeddings import StaticEncoder
from .token_means import means_of_tokens

__all__ = ["WordLlamaEncoder", "from_spec"]

_CONFIG = "l2_supercat"
_DIM = 256
_WEIGHTS = f"{_CONFIG}_{_DIM}.safetensors"


class WordLlamaEncoder(StaticEncoder):
    """WordLlama's ``l2_supercat`` model: the mean of a text's token embeddings, at unit length.

    There is no context limit: ``max_tokens`` is None and a text of any length is encoded whole, in bounded memory. An
    empty text is a zero vector. Thread-safe. Instances share the weights (32 MB, never written to).

    Raises:
        MissingExtra: the package ``wordllama`` is not installed.
        EncoderError: its weights cannot be read.
    """

    family = "wordllama"

    def __init__(self) -> None:
        model = _load()
        self._embedding, self._tokenizer = model.embedding, model.tokenizer
        self.dim = int(model.embedding.shape[1])
        self.identity = EncoderCard(
            dim=self.dim,
            name="wordllama",
            model=f"wordllama/{_CONFIG}",
            revision=model.revision,
            pooling="mean",
            normalization="l2",
        )

    def _means(self, ids: Sequence[Sequence[int]]) -> FloatArray:
        return means_of_tokens(self._embedding, ids)


def from_spec(argument: str = "", **options: Any) -> WordLlamaEncoder:
    """``"wordllama"``. Takes neither an argument nor options.

    Raises:
        InvalidInput: something was given.
        MissingExtra: the package ``wordllama`` is not installed.
    """
    if argument or options:
        given = ", ".join([f"{argument!r}"] * bool(argument) + sorted(options))
        raise InvalidInput(f"the wordllama encoder takes no options, got {given}; write 'wordllama'")
    return WordLlamaEncoder()


class _Model(NamedTuple):
    embedding: FloatArray
    tokenizer: Any
    revision: str


@lru_cache(maxsize=1)
def _load() -> _Model:
    package = _import()
    folder = Path(package.__file__).parent
    with loading("wordllama's model", "install it again: pip install --force-reinstall wordllama"):
        model = package.WordLlama.load(config=_CONFIG, dim=_DIM, cache_dir=folder, disable_download=True)
        revision = _fingerprint(folder / "weights" / _WEIGHTS)
    # Set once and for all: a tokenizer whose padding is switched per call is not safe to share among threads.
    model.tokenizer.no_padding()
    model.tokenizer.no_truncation()
    model.embedding.setflags(write=False)
    return _Model(model.embedding, model.tokenizer, revision)


def _import() -> Any:
    """The package, without what its import does to logging: it gives the root logger a handler and the level INFO."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return importlib.import_module("wordllama")
    except ImportError as error:
        raise MissingExtra("the wordllama encoder", "wordllama") from error
    finally:
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)


def _fingerprint(weights: Path) -> str:
    """The SHA-256 of the weights file (16 MB: some hundredths of a second).

    Not the package's version: a new release with the same weights must still open the collections of the old one.
    """
    with weights.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
