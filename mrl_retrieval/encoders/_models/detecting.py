"""A row for a model that the table does not have, from the files in its folder or from the loaded object.

Only what is on this machine is read, and no code of the model is run. Nothing found is not proof of anything: the
status is then ``unknown``, never ``none``.
"""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mrl_retrieval.errors import InvalidInput

from ..model_files import is_folder
from .card import read_card
from .row import Claim, ModelRow

__all__ = ["read_folder", "read_object"]

_FILES = ("modules.json", "config_sentence_transformers.json", "config.json", "README.md")
_CARD_BYTES = 1_000_000
_HEADER_BYTES = 1_000_000
_NO_LIMIT = 10**9  # some tokenizers say "unlimited" as 1e30
_LEGACY_POOLING = {  # as sentence-transformers before 5.2 writes them, in the order in which it joins them
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names that sentence-transformers looks for, in its order


@dataclass
class _Found:
    """Values of a row, and where each was found."""

    values: dict[str, Any] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, source: str, **values: Any) -> None:
        """Keep the values that are not None, unless an earlier source gave them."""
        fresh = {name: value for name, value in values.items() if value is not None and name not in self.values}
        self.values |= fresh
        fields = ("prompts" if name.endswith("_prompt") else name for name in fresh)
        if fresh:
            self.claims.append(Claim(tuple(dict.fromkeys(fields)), source, "file"))

    def trained(self, source: str, dims: tuple[int, ...]) -> None:
        """Somebody says that prefixes were trained, at these dims (empty: does not say which)."""
        self.add(source, status="native", ladder=dims or None)


def read_folder(folder: Path) -> ModelRow:
    """What the files of a model's folder say.

    Raises:
        InvalidInput: there is no such folder, or one of its files cannot be read as what it should be.
    """
    found = _Found()
    _read_files(found, folder)
    return _as_row(str(folder), found)


def read_object(model: Any, folder: Path | None) -> ModelRow:
    """What a loaded sentence-transformers model says of itself, and then its folder, if it came from one.

    Raises:
        InvalidInput: a file of the folder cannot be read.
    """
    found, kind = _Found(), type(model).__name__
    tags = getattr(getattr(model, "model_card_data", None), "tags", None) or []
    if said := read_card("---\ntags:\n" + "".join(f"- {tag}\n" for tag in tags) + "---\n"):
        found.trained(f"{kind}.model_card_data: {said.words}", said.dims)
    cut = _length(getattr(model, "truncate_dim", None))
    if cut is not None:
        found.trained(f"{kind}.truncate_dim: {cut}", (cut,))
    with model.truncate_embeddings(None) if cut is not None else nullcontext():
        for method in ("get_embedding_dimension", "get_sentence_embedding_dimension"):  # since 5.2, and before
            if "dim" not in found.values and callable(getattr(model, method, None)):
                found.add(f"{kind}.{method}()", dim=_length(getattr(model, method)()))
    if folder is not None:
        _read_files(found, folder)
    return _as_row(kind if folder is None else str(folder), found)


def _read_files(found: _Found, folder: Path) -> None:
    if not is_folder(folder):
        raise InvalidInput(f"there is no model folder {str(folder)!r}; give the folder of a downloaded or saved model")
    if not any((folder / name).is_file() for name in _FILES):
        raise InvalidInput(f"the folder {str(folder)!r} holds no model: it has none of {', '.join(_FILES)}")
    config = _json(folder / "config.json", dict)
    own = _json(folder / "config_sentence_transformers.json", dict)
    limit = _json(folder / "sentence_bert_config.json", dict).get("max_seq_length")
    _read_modules(found, folder)
    found.add(str(folder / "sentence_bert_config.json"), context=_length(limit))
    limit = _json(folder / "tokenizer_config.json", dict).get("model_max_length")  # here since sentence-transformers 6
    found.add(str(folder / "tokenizer_config.json"), context=_length(limit, below=_NO_LIMIT))
    found.add(str(folder / "config.json"), dim=_length(config.get("hidden_size")))
    _read_prompts(found, own, str(folder / "config_sentence_transformers.json"))
    _read_statements(found, config, own.get("truncate_dim"), folder)


def _as_row(name: str, found: _Found) -> ModelRow:
    """The row; what was not found is unverified. A ladder keeps to the full dim, and ends with it."""
    values = {"dim": None, "status": "unknown", **found.values}
    dim, ladder = values["dim"], values.get("ladder", ())
    if dim is not None and ladder:
        values["ladder"] = (*sorted({step for step in ladder if step < dim}), dim)
    missing = tuple(
        key for key in ("dim", "status", "ladder", "context", "pooling", "unit_length", "prompts")
        if key not in {name for claim in found.claims for name in claim.fields}
        and not (key in ("status", "ladder") and values["status"] == "unknown")
    )  # fmt: skip
    claims = (*found.claims, *((Claim(missing, "", "unverified"),) if missing else ()))
    return ModelRow(name=name, **values, notes=tuple(found.notes), claims=claims)


def _read_statements(found: _Found, config: dict[str, Any], truncate_dim: Any, folder: Path) -> None:
    """Whether somebody says that prefixes were trained; the first that does is believed."""
    dims = _lengths(config.get("matryoshka_dimensions"))
    if dims or config.get("is_matryoshka") is True:
        found.trained(f"{folder / 'config.json'}: {'matryoshka_dimensions' if dims else 'is_matryoshka'}", dims)
    card = folder / "README.md"
    if said := read_card(_text(card)):
        found.trained(f"{card}: {said.words}", said.dims)
    cut = _length(truncate_dim)
    if cut is not None:
        found.trained(f"{folder / 'config_sentence_transformers.json'}: truncate_dim {cut}", (cut,))
        found.notes.append(f"Its configuration cuts embeddings to {cut} dims unless truncate_dim is unset.")


def _read_modules(found: _Found, folder: Path) -> None:
    """Dim, pooling and scaling from the list of modules that sentence-transformers writes."""
    path = folder / "modules.json"
    modules = [module for module in _json(path, list) if isinstance(module, dict)]
    dims: list[tuple[str, int]] = []
    for module in modules:
        kind, place = str(module.get("type", "")).rpartition(".")[2], _inside(folder, str(module.get("path", "")))
        if kind == "Pooling" and place is not None:
            settings = _json(place / "config.json", dict)
            modes = _pooling_modes(settings)
            width = _length(settings.get("word_embedding_dimension", settings.get("embedding_dimension")))
            found.add(str(place / "config.json"), pooling="+".join(modes) or None)
            if width is not None:
                dims.append((str(place / "config.json"), width * max(1, len(modes))))
        elif kind == "Dense" and place is not None:
            width = _length(_json(place / "config.json", dict).get("out_features"))
            if width is not None:
                dims.append((str(place / "config.json"), width))
        elif kind == "StaticEmbedding":
            found.add(str(path), pooling="mean")
            if place is not None and (width := _static_dim(place / "model.safetensors")) is not None:
                dims.append((str(place / "model.safetensors"), width))
    if dims:  # the last one decides
        found.add(dims[-1][0], dim=dims[-1][1])
    if modules:
        found.add(str(path), unit_length=str(modules[-1].get("type", "")).endswith(".Normalize"))


def _read_prompts(found: _Found, own: dict[str, Any], source: str) -> None:
    if not own:
        return
    prompts = own["prompts"] if isinstance(own.get("prompts"), dict) else {}
    default = own.get("default_prompt_name")
    texts = {
        task: next((prompts[name] for name in (*names, default) if isinstance(prompts.get(name), str)), "")
        for task, names in (("query_prompt", ("query",)), ("document_prompt", _DOCUMENT_PROMPTS))
    }
    found.add(source, **texts)


def _pooling_modes(settings: dict[str, Any]) -> list[str]:
    mode = settings.get("pooling_mode")
    if isinstance(mode, str):
        return [mode]
    if isinstance(mode, list):
        return [part for part in mode if isinstance(part, str)]
    return [name for key, name in _LEGACY_POOLING.items() if settings.get(key) is True]


def _inside(folder: Path, path: str) -> Path | None:
    """A module's folder; None for one that leads out of the model's, which a stranger's file may say."""
    pure = PurePosixPath(path)
    return None if pure.is_absolute() or ".." in pure.parts else folder / pure


def _length(value: Any, below: float = math.inf) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < below else None


def _lengths(value: Any) -> tuple[int, ...]:
    found = {_length(item) for item in value} if isinstance(value, list) else set()
    return tuple(sorted(item for item in found if item is not None))


def _static_dim(weights: Path) -> int | None:
    """The width of a table of token embeddings, from the header of its file; None where it does not say.

    The format: 8 bytes with the header's length, then the header, JSON (https://github.com/huggingface/safetensors).
    """
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _HEADER_BYTES)))
        return _length(header["embedding.weight"]["shape"][1])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _text(path: Path) -> str:
    """The file's beginning; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\ufeff")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _json(path: Path, kind: type[Any]) -> Any:
    """The file's content; empty where there is no file.

    Raises:
        InvalidInput: it is no JSON, or of another kind.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON ({error}); download or save the model again") from error
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "an array"
        raise InvalidInput(f"{path} holds {type(value).__name__}, expected {wanted}; download or save the model again")
    return value
