"""The folder of stored resolutions: whether it may be written, by whom, and what killed runs left in it."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path

from mrl_retrieval.errors import CollectionMismatchError, ModelMismatchError, NotACollection
from mrl_retrieval.storage.files import os_errors, sweep_temporaries

from .contents import DATA, JOURNAL, LOCK, MANIFEST, TEMPORARY, Contents

__all__ = ["check_same", "make_folder", "new_name", "sweep"]


def make_folder(folder: Path) -> None:
    """The folder, made if it is not there.

    Raises:
        NotACollection: it holds something else, or is a file.
    """
    with os_errors(f"creating {folder}"):
        if folder.exists() and not folder.is_dir():
            raise NotACollection(f"{folder} is a file, expected a folder that is new, empty, or made by 'mrl embed'")
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(TEMPORARY))
        strangers = [name for name in names if name not in (MANIFEST, JOURNAL, LOCK) and not _is_data(name)]
        if LOCK not in names:
            strangers = names  # made by nobody who held the lock, so not by a writer
        if strangers:
            raise NotACollection(
                f"{folder} holds {strangers[0]!r}{f' and {len(strangers) - 1} more' * (len(strangers) > 1)}, expected "
                "nothing but stored vectors: give a folder that is new, empty, or made by 'mrl embed'"
            )


def check_same(there: Contents, wanted: Contents, folder: Path) -> None:
    """Refuse to add rows of another encoder, or of other dims.

    Raises:
        CollectionMismatchError, ModelMismatchError: both values are in the message.
    """
    if there.dims != wanted.dims:
        raise CollectionMismatchError(
            f"{folder} was made with the dims {', '.join(map(str, there.dims))}, given were "
            f"{', '.join(map(str, wanted.dims))}: give the same, or another folder"
        )
    if there.encoder is not None and wanted.encoder is not None:
        differing = there.encoder.differences(wanted.encoder)
        if differing:
            told = "; ".join(f"{name} is {new!r}, the folder's is {old!r}" for name, old, new in differing)
            raise ModelMismatchError(f"{folder} was made with another encoder: {told}. Remedy: give another folder")
    elif (there.encoder is None) != (wanted.encoder is None):
        made = (
            "given vectors" if there.encoder is None else f"the encoder {there.encoder.name or there.encoder.model!r}"
        )
        raise ModelMismatchError(f"{folder} was made with {made}: go on with the same, or give another folder")


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove what no manifest and no journal names. Only the holder of the writer lock may call it."""
    sweep_temporaries(folder)
    for entry in folder.iterdir():
        if _is_data(entry.name) and entry.name not in kept:
            shutil.rmtree(entry)


def new_name() -> str:
    """A name for a data folder."""
    return f"{DATA}{uuid.uuid4().hex[:8]}"


def _is_data(name: str) -> bool:
    return re.fullmatch(rf"{DATA}[0-9a-f]{{8}}", name) is not None
