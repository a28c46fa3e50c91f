"""Files of a Hugging Face model: where the hub's cache has them, and a fingerprint that says whether they changed."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import EncoderError

__all__ = [
    "cached_snapshot",
    "fingerprint",
    "fingerprint_of",
    "hub_error",
    "is_folder",
    "loading",
    "local_path",
    "quiet_loading",
]

_CONFIGURATION = frozenset({"modules.json", "config.json", "sentence_bert_config.json", "tokenizer.json", "vocab.txt"})
_WEIGHTS = frozenset({".safetensors", ".bin"})
_SAMPLES = 256
_SAMPLE_BYTES = 4096
_TIMEOUT = 10.0


def local_path(name: str) -> Path | None:
    """The path that a model's name stands for: one that exists, or is written like one; None for any other name.

    Unlike ``pathlib``, a name that no file could have, or the home of a user who is not there, raises nothing.
    """
    path = os.path.expanduser(name)  # noqa: PTH111
    written = name.startswith((".", "/", "~"))
    return Path(path) if written or os.path.exists(path) else None  # noqa: PTH110


def is_folder(path: Path | None) -> bool:
    """Whether a folder is there; pathlib's own way raises for a name that is too long."""
    return path is not None and os.path.isdir(path)  # noqa: PTH112


def fingerprint(folder: Path) -> str:
    """What a model folder computes, in a few hundredths of a second whatever its size: ``"sha256:…"``.

    Made of the files that say how the model is built, and of the size and 256 blocks of 4 KiB, spread evenly, of each
    file of weights. Names and dates play no part, so that a copy is the same model; prompts neither, they are
    compared by themselves.
    """
    return fingerprint_of(_files(folder))


def fingerprint_of(files: Iterable[Path]) -> str:
    """The same of given files, in their order; each must exist."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(b"%d:" % size)
        if path.name in _CONFIGURATION:
            digest.update(path.read_bytes())
            continue
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:16]}"


def _files(folder: Path) -> list[Path]:
    """Configuration and weights, in one order everywhere; of subfolders those only that are modules of the model."""
    found = list(folder.iterdir())
    modules = folder / "modules.json"
    if modules.is_file():
        paths = {str(module.get("path", "")) for module in json.loads(modules.read_text("utf-8"))} - {""}
        found += [file for path in paths for file in (folder / path).rglob("*")]
    wanted = [path for path in found if path.name in _CONFIGURATION or path.suffix in _WEIGHTS]
    return sorted((path for path in wanted if path.is_file()), key=lambda path: path.relative_to(folder).as_posix())


def cached_snapshot(name: str, options: Mapping[str, Any]) -> Path | None:
    """The folder in which the hub's local cache holds this model, or None. Asks no network."""
    look_up = importlib.import_module("huggingface_hub").try_to_load_from_cache
    cache = options.get("cache_folder") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    for repository in (name,) if "/" in name else (f"sentence-transformers/{name}", name):
        for file in ("modules.json", "config.json"):
            found = look_up(repository, file, cache_dir=cache, revision=options.get("revision"))
            if isinstance(found, str):
                return Path(found).parent
    return None


def hub_error(name: str, options: Mapping[str, Any]) -> str | None:
    """Why the hub cannot be reached, or None if it answers, be it with a refusal.

    Asked before loading, because loading without a network tries again and again for more than a minute.
    """
    if options.get("local_files_only"):
        return "local_files_only=True"
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        hub.HfApi().model_info(name, timeout=_TIMEOUT, token=options.get("token"))
    except (errors.HfHubHTTPError, ValueError):
        return None  # it answered; what is wrong with the name, loading will say
    except Exception as error:  # noqa: BLE001 - the HTTP client behind it changed twice, and each has its own errors
        return str(error) or type(error).__name__
    return None


@contextmanager
def loading(what: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong in its body is an error that says what could not be loaded, and what to do.

    Raises:
        EncoderError: with its cause.
    """
    try:
        yield
    except Exception as error:  # many libraries read a model's files, and each raises kinds of its own
        raise EncoderError(f"{what} cannot be loaded ({type(error).__name__}: {error}); {remedy}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bar: files that are here load in no time. Downloads keep theirs."""
    logging = importlib.import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
