"""Model2Vec: static token embeddings distilled from a sentence transformer; needs no torch.

The package gives the weights and the tokenizer; the mean over a text's tokens is taken here. The package's own
``encode`` leaves out what is beyond the model's ``max_length`` (512 tokens unless it says otherwise, and before that as
many characters as these have on average), and says nothing of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval.encoder import EncoderCard
from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra
from mrl_retrieval.matryoshka import FloatArray

from .model_files import cached_snapshot, fingerprint, hub_error, is_folder, loading, local_path
from .specs import model_or_folder
from .static_embeddings import StaticEncoder
from .token_counts import uncut
from .token_means import mean_of_tokens, means_of_tokens

__all__ = ["Model2VecEncoder", "from_spec"]

_HARMLESS = frozenset({"token"})  # options that do not change the vectors


class Model2VecEncoder(StaticEncoder):
    """A Model2Vec ``StaticModel``: the (weighted) mean of a text's token embeddings, at unit length.

    Texts are encoded whole, in bounded memory, whatever the model's own ``max_length``: ``max_tokens`` is None, unless
    a limit is asked for. Up to that length the vectors are those of the package. An empty text, and one of unknown
    tokens alone, is a zero vector. Thread-safe.

    Args:
        model: a folder that ``StaticModel.save_pretrained`` made, a hub name such as ``"minishlab/potion-base-8M"``, or
            a ``StaticModel``. A model that is in the hub's local cache is taken from there, without asking the network.
        max_tokens: encode the first so many tokens of a text only; None: all of them.
        load_options: passed on to ``StaticModel.from_pretrained``: ``token``, ``subfolder``, ``quantize_to``,
            ``vocabulary_quantization``. For names and folders only.

    Raises:
        MissingExtra: the package ``model2vec`` is not installed.
        InvalidInput: an argument cannot be used.
        EncoderError: the model cannot be loaded, be it that there is no network.
    """

    family = "model2vec"

    def __init__(self, model: Any, *, max_tokens: int | None = None, **load_options: Any) -> None:
        package = _import()
        if isinstance(max_tokens, bool) or not (max_tokens is None or (isinstance(max_tokens, int) and max_tokens > 0)):
            raise InvalidInput(f"max_tokens must be a whole number of at least 1, or None for all, got {max_tokens!r}")
        name = hub_name = revision = None
        if isinstance(model, (str, Path)):
            for option in ("dimensionality", "max_length"):
                if option in load_options:
                    raise InvalidInput(f"{option}={load_options[option]!r}: {_INSTEAD[option]}")
            model, reference, hub_name, revision = _loaded(package, str(model), load_options)
            if max_tokens is None and not load_options.keys() - _HARMLESS:
                name = f"model2vec:{reference}"
        elif not isinstance(model, package.StaticModel):
            raise InvalidInput(f"{type(model).__name__} is no StaticModel; pass one, a folder, or a name of the hub")
        elif load_options:
            raise InvalidInput(f"{', '.join(sorted(load_options))}: the model is loaded already; pass its name instead")
        self._embedding, self._weights, self._mapping = model.embedding, model.weights, model.token_mapping
        self._unknown: int | None = model.unk_token_id
        self._tokenizer = uncut(model.tokenizer)
        self.dim = int(model.embedding.shape[1])
        self.max_tokens = max_tokens
        # For a cache: the card says neither how the model was loaded nor where a text is cut.
        made = {key: value for key, value in load_options.items() if key not in _HARMLESS}
        self.cache_scope = repr((sorted(made.items()), max_tokens)) if made or max_tokens else ""
        self.identity = EncoderCard(
            dim=self.dim, name=name, model=hub_name, revision=revision, pooling="mean", normalization="l2"
        )

    def _means(self, ids: Sequence[Sequence[int]]) -> FloatArray:
        if self._weights is not None or self._mapping is not None or self._embedding.dtype != np.float32:
            return np.array([self._mean(of_text) for of_text in ids])
        known = [of_text[: self.max_tokens] for of_text in ids]
        if self._unknown is not None:
            known = [[t for t in row if t != self._unknown] if self._unknown in row else row for row in known]
        return means_of_tokens(self._embedding, known)

    def _mean(self, ids: Sequence[int]) -> FloatArray:
        tokens = np.asarray(ids[: self.max_tokens], dtype=np.int64)
        if self._unknown is not None:
            tokens = tokens[tokens != self._unknown]
        rows = tokens if self._mapping is None else self._mapping[tokens]
        return mean_of_tokens(self._embedding, rows, None if self._weights is None else self._weights[tokens])


def from_spec(argument: str = "", **options: Any) -> Model2VecEncoder:
    """``"model2vec:NAME_OR_FOLDER"``; options are those of :class:`Model2VecEncoder`.

    Raises:
        InvalidInput: no name.
        MissingExtra: model2vec is not installed.
        EncoderError: the model cannot be loaded.
    """
    return Model2VecEncoder(model_or_folder("model2vec", argument, "minishlab/potion-base-8M"), **options)


_INSTEAD = {
    "dimensionality": "a collection stores full embeddings and cuts them itself; say coarse_dims or fine_dims instead",
    "max_length": "texts are encoded whole; say max_tokens if they are to be cut",
}


def _import() -> Any:
    try:
        return importlib.import_module("model2vec")
    except ImportError as error:
        raise MissingExtra("the model2vec encoder", "model2vec") from error


def _loaded(package: Any, name: str, options: dict[str, Any]) -> tuple[Any, str, str | None, str | None]:
    """The model, what to call it so that it is found again, its name on the hub, and the fingerprint of its files."""
    folder = local_path(name)
    if folder is not None and is_folder(folder):
        folder = folder.resolve()
        return _constructed(package, folder, options), str(folder), None, _fingerprint(folder, options)
    if folder is not None or name.count("/") != 1:
        raise EncoderError(
            f"there is no model folder {str(folder or name)!r}; give a folder that StaticModel.save_pretrained made, "
            "or a name on the hub such as 'minishlab/potion-base-8M'"
        )
    if snapshot := _snapshot(name):
        return _constructed(package, snapshot, options), name, name, _fingerprint(snapshot, options)
    if unreachable := hub_error(name, options):
        raise EncoderError(
            f"the model {name!r} is not in the local cache, and the Hugging Face hub cannot be reached "
            f"({unreachable}): go online once, or give a folder, as 'model2vec:./folder'"
        )
    model = _constructed(package, name, options)
    snapshot = _snapshot(name)
    return model, name, name, None if snapshot is None else _fingerprint(snapshot, options)


def _constructed(package: Any, name: str | Path, options: dict[str, Any]) -> Any:
    with loading(
        f"the model2vec model {str(name)!r}",
        "check the name, or give a folder that StaticModel.save_pretrained made",
    ):
        return package.StaticModel.from_pretrained(name, **options)


def _snapshot(name: str) -> Path | None:
    hub = importlib.import_module("huggingface_hub.constants")
    return cached_snapshot(name, {"cache_folder": hub.HF_HUB_CACHE})


def _fingerprint(folder: Path, options: dict[str, Any]) -> str:
    return fingerprint(folder / str(options.get("subfolder") or ""))
