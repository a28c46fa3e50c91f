"""Loading a sentence-transformers model from a folder, the hub's cache or the hub, and what it says of itself."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from mrl_retrieval.errors import EncoderError, InvalidInput, MissingExtra

from .model_files import cached_snapshot, fingerprint, hub_error, is_folder, loading, local_path, quiet_loading

__all__ = ["TRUNCATED", "checked_object", "hub_id", "import_package", "loaded", "pooling_of"]

logger = logging.getLogger(__name__)

TRUNCATED = (
    "the model was told to cut its embeddings to {} of {} components (truncate_dim); a collection stores full "
    "embeddings and cuts them itself: load the model without truncate_dim, and say coarse_dims or fine_dims instead"
)


def import_package() -> Any:
    """The package, if it is there and new enough."""
    try:
        package = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise MissingExtra("the sentence-transformers encoder", "sentence-transformers") from error
    if not hasattr(package.SentenceTransformer, "encode_query"):
        raise MissingExtra(
            f"the sentence-transformers encoder (found version {package.__version__}, needs 5 or later)",
            "sentence-transformers",
        )
    return package


def checked_object(
    package: Any, model: Any, device: str | None, trust_remote_code: bool, load_options: Mapping[str, Any]
) -> Any:
    """An object that was loaded by the caller, if it can be used as it is."""
    if not isinstance(model, package.SentenceTransformer):
        raise InvalidInput(
            f"{type(model).__name__} makes no dense embeddings; pass a SentenceTransformer, a hub name or a folder"
        )
    given = sorted(load_options) + ["device"] * (device is not None) + ["trust_remote_code"] * trust_remote_code
    if given:
        raise InvalidInput(
            f"{', '.join(given)}: the model is loaded already; set it there, or pass its name or folder instead"
        )
    if model.truncate_dim is not None:
        with model.truncate_embeddings(None):
            full = model.get_embedding_dimension() if hasattr(model, "get_embedding_dimension") else "all"
        raise InvalidInput(TRUNCATED.format(model.truncate_dim, full))
    return model


def loaded(package: Any, name: str, options: dict[str, Any]) -> tuple[Any, str, str | None]:
    """The model, what to call it so that it is found again, and the fingerprint of its files."""
    folder = local_path(name)
    if folder is not None and is_folder(folder):
        folder = folder.resolve()
        with quiet_loading():
            return _constructed(package, str(folder), options), str(folder), fingerprint(folder)
    if folder is not None or name.count("/") > 1:
        raise EncoderError(
            f"there is no model folder {str(folder or name)!r}; give a folder that SentenceTransformer.save made, or a "
            "name on the hub such as 'all-MiniLM-L6-v2'"
        )
    snapshot = cached_snapshot(name, options)
    if snapshot is not None:
        try:
            with quiet_loading():
                return _constructed(package, name, dict(options, local_files_only=True)), name, fingerprint(snapshot)
        except EncoderError as error:
            logger.debug("not complete in the local cache, asking the hub: %s", error)
    if unreachable := hub_error(name, options):
        raise EncoderError(
            f"the model {name!r} is not, or not completely, in the local cache, and the Hugging Face hub cannot be "
            f"reached ({unreachable}): go online once, or give a folder that SentenceTransformer.save made, as "
            "'sentence-transformers:./folder'"
        )
    model = _constructed(package, name, options)
    snapshot = cached_snapshot(name, options)
    return model, name, None if snapshot is None else fingerprint(snapshot)


def _constructed(package: Any, name: str, options: Mapping[str, Any]) -> Any:
    with loading(
        f"the sentence-transformers model {name!r}",
        "check the name, or give a folder that SentenceTransformer.save made",
    ):
        model = package.SentenceTransformer(name, **options)
    model.truncate_dim = None  # a default that its folder may carry
    return model


def hub_id(model: Any) -> str | None:
    """The model's name on the hub; None for what came from a folder, which may be moved, or was put together here."""
    transformer = getattr(model[0], "auto_model", None)
    name = str(getattr(getattr(transformer, "config", None), "_name_or_path", "") or "")
    return name if name.count("/") == 1 and local_path(name) is None else None


def pooling_of(model: Any) -> str | None:
    """How a text's vector is made of those of its tokens; None where that cannot be told."""
    for module in model:
        if type(module).__name__ == "Pooling":
            mode = getattr(module, "pooling_mode", None) or module.get_pooling_mode_str()
            return mode if isinstance(mode, str) else "+".join(mode)
        if type(module).__name__ == "StaticEmbedding":
            return "mean"
    return None
