"""Loading a FastEmbed model: one of its list, from its cache or the network, or any folder with a model in ONNX."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra

from .model_files import fingerprint_of, hub_error, is_folder, loading, local_path

__all__ = ["Loaded", "loaded"]

_POOLINGS = ("mean", "cls", "last_token", "disabled")
_SAID = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last_token"}
_USUAL = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
_registering = threading.Lock()


class Loaded(NamedTuple):
    """A model, and what is known of it."""

    model: Any
    reference: str
    """What to load it by once more."""
    name: str | None
    """Its name in FastEmbed's list; None for a folder."""
    revision: str | None
    pooling: str | None


def loaded(model: str, options: dict[str, Any], pooling: str | None, model_file: str | None) -> Loaded:
    """Load it.

    Raises:
        MissingExtra, InvalidInput, EncoderError: as :class:`~mrl_retrieval.encoders.fastembed.FastEmbedEncoder`.
    """
    package = _import()
    folder = local_path(model)
    if folder is not None:
        return _of_folder(package, folder, options, pooling, model_file)
    if pooling is not None or model_file is not None:
        raise InvalidInput(f"pooling and model_file belong to a folder; FastEmbed knows those of {model!r}")
    listed = {entry["model"].lower(): entry for entry in package.TextEmbedding.list_supported_models()}
    if model.lower() not in listed:
        near = get_close_matches(model.lower(), listed, n=3, cutoff=0.4)
        hint = f" (did you mean {' or '.join(repr(listed[name]['model']) for name in near)}?)" if near else ""
        raise EncoderError(
            f"FastEmbed knows no model {model!r}{hint}: see TextEmbedding.list_supported_models(), or give a folder "
            "with a model in ONNX, as 'fastembed:./folder'"
        )
    name = str(listed[model.lower()]["model"])
    made = _listed(package, name, listed[model.lower()], options)
    return Loaded(made, name, name, _revision(made), None)


def _of_folder(
    package: Any, folder: Path, options: dict[str, Any], pooling: str | None, model_file: str | None
) -> Loaded:
    if not is_folder(folder):
        raise EncoderError(
            f"there is no model folder {str(folder)!r}; give a folder with a model in ONNX, or a name of FastEmbed's "
            "list such as 'BAAI/bge-small-en-v1.5'"
        )
    folder = folder.resolve()
    pooling = pooling if pooling is not None else _pooling(folder)
    if pooling not in _POOLINGS:
        raise InvalidInput(
            f"pooling is {pooling!r} for the model in {folder}; say which of {', '.join(map(repr, _POOLINGS))} it was "
            "made for"
        )
    file = _onnx_file(folder, model_file)
    name = _registered(package, folder, file, pooling)
    made = _constructed(package, name, str(folder), {**options, "specific_model_path": str(folder)})
    return Loaded(made, str(folder), None, _revision(made), None if pooling == "disabled" else pooling)


def _pooling(folder: Path) -> str | None:
    try:
        said = json.loads((folder / "1_Pooling" / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    mode = said.get("pooling_mode")
    if isinstance(mode, str):
        return "last_token" if mode == "lasttoken" else mode
    modes = [mode for key, mode in said.items() if key.startswith("pooling_mode_") and mode]
    named = [_SAID[key] for key in _SAID if said.get(key)]
    return named[0] if len(modes) == len(named) == 1 else None


def _onnx_file(folder: Path, given: str | None) -> str:
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx"))
    if given is not None:
        if given not in found:
            raise InvalidInput(f"there is no {given!r} in {folder}; ONNX files there: {', '.join(found) or 'none'}")
        return given
    usual = [name for name in _USUAL if name in found] or found
    if not usual or (len(found) > 1 and usual is found):
        raise EncoderError(
            f"{folder} holds {', '.join(found) or 'no ONNX file'}, expected one model; name it with model_file="
            if found
            else f"{folder} holds no ONNX file; export the model to ONNX, or use 'sentence-transformers:{folder}'"
        )
    return usual[0]


def _registered(package: Any, folder: Path, file: str, pooling: str) -> str:
    """The name under which FastEmbed knows the model from now on, in this process."""
    described = importlib.import_module("fastembed.common.model_description")
    name = f"mrl-retrieval/{hashlib.sha256(f'{folder} {file} {pooling}'.encode()).hexdigest()[:16]}"
    with _registering:
        if name not in {entry["model"] for entry in package.TextEmbedding.list_supported_models()}:
            package.TextEmbedding.add_custom_model(
                model=name,
                pooling=described.PoolingType(pooling.upper()),
                normalization=True,
                sources=described.ModelSource(hf=name),  # asked for, and not used: the files are in the folder
                dim=1,  # the same
                model_file=file,
            )
    return name


def _listed(package: Any, name: str, entry: dict[str, Any], options: dict[str, Any]) -> Any:
    if options.get("specific_model_path"):
        return _constructed(package, name, name, options)
    try:
        with _quiet():
            return package.TextEmbedding(name, **{**options, "local_files_only": True})
    except Exception as error:  # it raises several kinds, of its own, of the hub and of ONNX Runtime
        # Not in the cache. Without a network, loading would try for a minute before it gives up.
        source = (entry.get("sources") or {}).get("hf") or name
        if unreachable := hub_error(source, options):
            raise EncoderError(
                f"the model {name!r} is not, or not completely, in FastEmbed's cache, and the Hugging Face hub cannot "
                f"be reached ({unreachable}): go online once, or give a folder with its files, as specific_model_path="
            ) from error
    return _constructed(package, name, name, options)


def _constructed(package: Any, name: str, called: str, options: dict[str, Any]) -> Any:
    with loading(f"the fastembed model {called!r}", "check its files and the options"):
        return package.TextEmbedding(name, **options)


def _revision(made: Any) -> str | None:
    """The fingerprint of the files that the model was loaded from: its tokenizer, configuration and weights."""
    folder, description = getattr(made.model, "_model_dir", None), getattr(made.model, "model_description", None)
    if folder is None or description is None:
        return None
    weights = description.model_file
    names = ["config.json", "tokenizer.json", weights, f"{weights}.data", f"{weights}_data"]
    names += sorted(set(description.additional_files) - set(names))
    files = [path for name in names if (path := Path(folder) / name).is_file()]
    return fingerprint_of(files) if files else None


def _import() -> Any:
    try:
        return importlib.import_module("fastembed")
    except ImportError as error:
        raise MissingExtra("the fastembed encoder", "fastembed") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what FastEmbed logs where a model is not in its cache: that is no error yet."""
    logger = importlib.import_module("loguru").logger
    logger.disable("fastembed")
    try:
        yield
    finally:
        logger.enable("fastembed")
