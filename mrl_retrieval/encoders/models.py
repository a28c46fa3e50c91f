"""The registry of embedding models: which of them may be cut to a prefix, where, and how their input is prepared.

The table itself is in ``_models/table.py``; ``docs/models.md`` shows it. A value is verified unless its row says so
(:attr:`ModelRow.unverified`), and every value has its source in :attr:`ModelRow.claims`.

>>> row = find_model("nomic-embed-text:v1.5")
>>> row.name, row.status, row.ladder
('nomic-ai/nomic-embed-text-v1.5', 'native', (64, 128, 256, 512, 768))
>>> check_truncation(row, 256)
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

from mrl_retrieval.encoder import Encoder
from mrl_retrieval.errors import DimensionError, InvalidInput, TruncationError
from mrl_retrieval.registry import encoder_names

from ._models import about_api, about_plain, about_static, about_trained
from ._models.detecting import read_folder, read_object
from ._models.row import Claim, ModelRow, Status
from ._models.table import rows
from .embedding_cache import CachedEncoder
from .hashing import HashingEncoder
from .model_files import cached_snapshot, is_folder, local_path
from .sentence_transformers import SentenceTransformerEncoder

logger = logging.getLogger(__name__)

__all__ = ["MODELS", "Claim", "ModelRow", "Status", "check_truncation", "detect", "find_model"]

MODELS: tuple[ModelRow, ...] = tuple(
    rows(about_trained.ABOUT | about_static.ABOUT | about_plain.ABOUT | about_api.ABOUT)
)
"""Every row of the table."""

_OURS = ("LAM", "wordllama")  # short words, which other organisations use for other things

_warned: set[tuple[str, int]] = set()


def find_model(name: str) -> ModelRow | None:
    """The row of a model by any of its names, or None.

    Upper and lower case are the same. An organisation in front may be missing, or be another one (a gateway, somebody's
    copy), where only one model has the rest of the name; not for this library's own. The tag of an Ollama name may be
    ``latest``, and may go on after a known one (``qwen3-embedding:0.6b-q8_0``). A name may stand behind that of an
    encoder (``sentence-transformers:all-MiniLM-L6-v2``).
    """
    wanted = name.strip().lower()
    if not wanted or wanted[0] in "./~":
        return None
    foreign = False
    while wanted not in _names():
        head, colon, tag = wanted.partition(":")
        if colon and head in encoder_names():
            wanted = tag
        elif tag == "latest":
            wanted = head
        elif "-" in tag:  # a size with a quantisation behind it
            wanted = wanted.rpartition("-")[0]
        elif "/" in wanted:
            wanted, foreign = wanted.partition("/")[2], True
        else:
            return None
    row = _names()[wanted]
    return None if foreign and row.name in _OURS else row


@cache
def _names() -> dict[str, ModelRow]:
    """Every name in lower case; a name without its organisation only where it is one model's."""
    names = {name.lower(): row for row in MODELS for name in (row.name, *row.aliases)}
    short = [(name.rpartition("/")[2], row) for name, row in names.items()]
    for name, row in short:
        if {other.name for one, other in short if one == name} == {row.name}:
            names.setdefault(name, row)
    return names


def detect(model: Any) -> ModelRow:
    """The row of a model, of the table or read from what is on this machine; the network is not asked.

    A model that is not in the table is ``native`` if one of these says so, in this order: ``matryoshka_dimensions`` (or
    ``is_matryoshka``) in its ``config.json``; its model card: the dims of a ``MatryoshkaLoss``, a tag, the word;
    ``truncate_dim`` in ``config_sentence_transformers.json``. Otherwise it is ``unknown``. The row's claims name the
    file.

    Args:
        model: a folder; a name, of the table or of a model in the hub's local cache; an :class:`Encoder`; a
            sentence-transformers model.

    Raises:
        InvalidInput: a path leads nowhere, or a file of the model is damaged.
    """
    if isinstance(model, (str, Path)):
        return _named(str(model))
    if isinstance(model, Encoder):
        return _of_encoder(model)
    reference = _reference(model)
    folder = local_path(reference) if reference else None
    if reference and not is_folder(folder):
        row = _named(reference)
        if row.claims:
            return row
    return read_object(model, folder if is_folder(folder) else None)


def _named(name: str) -> ModelRow:
    name = name.strip().removeprefix("sentence-transformers:")
    if not name:
        raise InvalidInput("a model needs a name, such as 'nomic-embed-text-v1.5', or a folder, got ''")
    path = local_path(name)
    if path is not None and (name.startswith((".", "/", "~")) or ("/" in name and is_folder(path))):
        return _row_of_snapshot(path) or read_folder(path)
    if row := find_model(name):
        return row
    snapshot = path if is_folder(path) else _snapshot(name)
    return read_folder(snapshot) if snapshot else ModelRow(name=name, dim=None, status="unknown")


def _of_name(name: str) -> ModelRow | None:
    """The row of a name of the table, or of a model in the hub's local cache; None for any other."""
    if row := find_model(name):
        return row
    snapshot = _snapshot(name)
    return read_folder(snapshot) if snapshot else None


def _of_encoder(encoder: Encoder) -> ModelRow:
    card = encoder.identity
    if isinstance(encoder, CachedEncoder):
        return _of_encoder(encoder.encoder)
    if isinstance(encoder, HashingEncoder):  # all components say the same much: a prefix is a shorter one of its kind
        return ModelRow(name=card.model or "hashing", dim=card.dim, status="native", any_dim=(1, card.dim))
    # A model's name is never a path on this machine: a server may have one of its own for a name.
    for name in filter(None, (card.model, card.name)):
        row = _named(name) if name.startswith("sentence-transformers:") else _of_name(name)
        if row is not None and row.claims:
            return row
    if isinstance(encoder, SentenceTransformerEncoder):
        return detect(encoder._model)
    return ModelRow(
        name=card.model or card.name or type(encoder).__name__,
        dim=card.dim,
        status="unknown",
        pooling=card.pooling,
        query_prompt=card.prompts.get("query", ""),
        document_prompt=card.prompts.get("document", ""),
    )


def _reference(model: Any) -> str:
    """The folder or hub name that a sentence-transformers model was loaded from; empty where it does not say."""
    try:
        return str(getattr(model[0].auto_model.config, "_name_or_path", "") or "")
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""


def _row_of_snapshot(folder: Path) -> ModelRow | None:
    """The table's row for a folder of the hub's cache, ``models--ORGANISATION--NAME/snapshots/REVISION``."""
    kept = next((part for part in folder.parts if part.startswith("models--")), "")
    return find_model(kept.removeprefix("models--").replace("--", "/")) if kept else None


def _snapshot(name: str) -> Path | None:
    try:
        return cached_snapshot(name, {})
    except (ImportError, ValueError):  # huggingface_hub is not installed, or the hub could have no such name
        return None


def check_truncation(row: ModelRow | None, dims: int | None, *, strict: bool = False, name: str = "") -> None:
    """Say it where embeddings are cut to a length that their model was not trained for.

    Silent: no cut (``dims`` is None, or the full length, or more); a length of the ladder; for a model without a
    ladder, a length of ``any_dim``. Everything else is a warning in this module's log, once for each model and length.

    Args:
        row: the model; None where it is not known.
        dims: the length of the prefix, at least 1.
        strict: raise instead of warning.
        name: what to call a model without a row.

    Raises:
        DimensionError: ``dims`` is no whole number of at least 1.
        TruncationError: with ``strict``, instead of the warning.
    """
    if dims is None:
        return
    if isinstance(dims, bool) or not isinstance(dims, int) or dims < 1:
        raise DimensionError(f"a prefix has a whole number of dims, at least 1, got {dims!r}")
    row = row or ModelRow(name=name or "an encoder that is not in the table of models", dim=None, status="unknown")
    why = _objection(row, dims)
    if why is None:
        return
    full = "" if row.dim is None else f" of {row.dim}"
    message = f"{row.name} cut to {dims}{full} dims: {why}"
    if strict:
        raise TruncationError(message)
    if (row.name, dims) not in _warned:
        _warned.add((row.name, dims))
        logger.warning("%s", message)


def _objection(row: ModelRow, dims: int) -> str | None:
    """What speaks against a prefix of this length, and what to do; None if nothing does."""
    if (row.dim is not None and dims >= row.dim) or dims in row.ladder:
        return None
    if row.any_dim and row.any_dim[0] <= dims:
        return None
    if row.status == "none":
        return f"it was not trained for shorter embeddings; {_ROTATE}"
    if row.status == "unknown":
        return f"whether it was trained for shorter embeddings is not known; {_ROTATE}"
    if row.any_dim:
        return f"the shortest that it allows is {row.any_dim[0]}; take that or more"
    if not row.ladder:
        return f"at which lengths it was trained is not known; {_ROTATE}"
    below, above = [step for step in row.ladder if step < dims], [step for step in row.ladder if step > dims]
    near = " or ".join(str(step) for step in (below[-1:] + above[:1]))
    trained = ", ".join(map(str, row.ladder))
    return f"it was trained for {trained}; take {near}, or measure on your own texts first"


_ROTATE = 'pass rotation="auto", or see with mrl diagnose what a cut loses on your own texts (docs/rotation.md)'
