"""``save_multi_resolution``: embeddings that are at hand, written in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mrl_retrieval.documents import check_document, check_id
from mrl_retrieval.encoder import EncoderCard
from mrl_retrieval.errors import DimensionError, DuplicateIdError, InvalidInput, MRLError
from mrl_retrieval.matryoshka import as_vectors, check_dim

from .summary import ResolutionSummary, resolution_summary
from .writing import ResolutionWriter

__all__ = ["all_dims", "save_multi_resolution"]

_ROWS_AT_ONCE = 4096


def save_multi_resolution(
    embeddings: Any,
    dims: Iterable[int],
    folder: str | Path,
    *,
    ids: Sequence[str | int] | None = None,
    texts: Sequence[str | None] | None = None,
    identity: EncoderCard | None = None,
) -> ResolutionSummary:
    """Write the renormalised prefixes of embeddings, one float16 file for each length; the full one is always written.

    What the folder held before is replaced, and stays readable until everything is written: a process that is killed
    leaves the old. Not made for growing a folder: see :class:`~mrl_retrieval.resolutions.ResolutionWriter`.

    Args:
        embeddings: ``(N, D)`` numbers, of any length; an ``np.memmap`` is read in parts.
        dims: lengths of prefixes, each from 1 to D.
        folder: is made if it is not there.
        ids: N of them, each once; None: the rows' numbers, from 0.
        texts: N texts or None; stored beside the vectors.
        identity: the card of the encoder that made them.

    Returns:
        What it cost.

    Raises:
        DimensionError: a dim is out of range, or the card has another length.
        NonFiniteError, InvalidInput: embeddings, ids or texts cannot be used; nothing is replaced.
        DuplicateIdError: an id occurs twice.
        NotACollection: the folder holds something else.
        LockTimeout: another process is writing it.
    """
    shape = getattr(embeddings, "shape", None)
    rows = embeddings if shape is not None and len(shape) == 2 else as_vectors(embeddings, what="embeddings")
    count, full = (int(n) for n in rows.shape)
    if not full:
        raise DimensionError(f"embeddings have shape {tuple(rows.shape)}, expected (N, D) with D of at least 1")
    if identity is not None and identity.dim != full:
        raise DimensionError(f"the embeddings have {full} dims, the encoder's card says {identity.dim}")
    for name, column in (("ids", ids), ("texts", texts)):
        if column is not None and (isinstance(column, (str, bytes)) or len(column) != count):
            got = type(column).__name__ if isinstance(column, (str, bytes)) else f"{len(column)} of them"
            raise InvalidInput(f"{name} must be a list with one for each of the {count} embeddings, got {got}")
    names = [str(i) for i in range(count)] if ids is None else _checked_ids(ids)
    documents = None if texts is None else [check_document(text, i, optional=True) for i, text in enumerate(texts)]
    with ResolutionWriter(folder, all_dims(dims, full), identity=identity, restart=True) as writer:
        try:
            for start in range(0, count, _ROWS_AT_ONCE):
                part = slice(start, min(start + _ROWS_AT_ONCE, count))
                vectors = as_vectors(rows[part], dim=full, what="embeddings", first_row=start)
                writer.append(vectors, names[part], None if documents is None else documents[part])
        except MRLError:
            writer.discard()  # half of a call is nothing to go on from
            raise
        writer.finish()
    return resolution_summary(folder)


def all_dims(dims: Iterable[int], full: int) -> tuple[int, ...]:
    """The lengths to store: those given and the full one, ascending, each once.

    Raises:
        DimensionError: one is no whole number from 1 to ``full``.
    """
    if isinstance(dims, (str, bytes, int)):
        raise DimensionError(f"dims is a list of whole numbers such as [64, 128], got {dims!r}")
    return tuple(sorted({check_dim(dim, full, what="a stored dim") for dim in dims} | {full}))


def _checked_ids(ids: Sequence[str | int]) -> list[str]:
    names = [check_id(id, i) for i, id in enumerate(ids)]
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if seen.setdefault(name, i) != i:
            raise DuplicateIdError(
                f"id {name!r} is given twice, at positions {seen[name]} and {i}; every row has its own"
            )
    return names
