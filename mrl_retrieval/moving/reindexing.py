"""Embedding a collection anew, with another encoder, from the documents it stores.

The new generation is a collection of its own beside the old one, which serves searches until the new one is whole;
then the manifest of the collection points to the new one, in one step (``switching.py``). What is in the new generation
already is not encoded again, so that an interrupted run goes on where it stopped. The old one stays, for a rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import identity
from .._version import __version__
from ..backend import Backend
from ..documents import RowBatch
from ..encoder import Encoder, as_encoder
from ..errors import CollectionNotFound, ConflictError, InvalidInput, ModelMismatchError
from ..generations import check_there, generation_name, generation_names
from ..long_texts import OnLong, encode_long
from ..manifest import Manifest
from ..matryoshka import prefix
from ..registry import open_backend
from ..settings import NOT_GIVEN, NotGiven, check_dims, check_positive, resolve_dims
from .passes import Mover, Progress, bring_over, equal_json
from .switching import Turn, clear_up, generations

__all__ = ["ReindexReport", "reindex"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """What a reindexing did."""

    address: str
    """By which the collection is opened, before and after."""
    generation: str
    """Name of the collection that holds the rows now."""
    previous: str | None
    """Name of the one that held them, and still does: a rollback goes back to it. None: there is none."""
    rows: int
    encoded: int
    """Rows written by this call; fewer than ``rows`` where an earlier one was interrupted."""
    without_text: int
    """Rows that have a vector, but no document to make a new one of: stored, but found by no search."""
    long_texts: int
    """Texts beyond the encoder's context."""
    untouched: bool = False
    """Whether nothing was done, since the collection has this encoder and these dims already."""


def reindex(
    address: str,
    encoder: Any,
    *,
    coarse_dims: int | NotGiven = NOT_GIVEN,
    fine_dims: int | None = None,
    on_long: OnLong = "truncate",
    allow_without_text: bool = False,
    force: bool = False,
    batch_size: int = 256,
    progress: Progress = False,
    backend_options: Mapping[str, Any] | None = None,
) -> ReindexReport:
    """Embed every document of a collection with another encoder, and switch to the result at once.

    Searches go on meanwhile; retrievers that are open keep the old generation until they are opened again. Writes go
    on until the last pass, in which every row is compared; during that they are refused with a ``ConflictError``.

    Args:
        address: of the collection; a place that can be opened twice, so not an unnamed one in memory.
        encoder: a name, a model or a function, as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it.
        coarse_dims: length of the new prefixes; the old one, if not given.
        fine_dims: length of the new stored vectors; None: all of the encoder's.
        on_long: what becomes of a text beyond the encoder's context.
        allow_without_text: go on although rows have a vector but no document; they keep everything but the vector.
        force: embed anew even where the collection has this encoder and these dims already; else it is left as it is.
        batch_size: rows encoded and written at a time.
        progress: True draws a bar on stderr; a function is called with rows done and their total.
        backend_options: of the backend at ``address``.

    Raises:
        CollectionNotFound: there is none.
        InvalidInput: a row has no document, or the place cannot be opened twice.
        ConflictError: another reindexing, with another encoder, is under way, or it was written to all the time.
    """
    size = check_positive(batch_size, "batch_size")
    model = as_encoder(encoder)
    with generations(address, backend_options) as (base, current):
        check_there(current, base)
        clear_up(base, current, backend_options)
        dims = _new_dims(current.manifest, model, coarse_dims, fine_dims)
        if not force and current.manifest.frozen is None and _is_embedded(current, model, dims[:2]):
            logger.info("%s was embedded with this encoder at these dims already", base.address)
            previous = base.manifest.previous
            return ReindexReport(
                str(base.address), current.address.collection, previous, current.count(), 0, 0, 0, True
            )
        name, started = _target_name(base, current, model, dims[:2], backend_options)
        with open_backend(base.address.with_collection(name), **(backend_options or {})) as target:
            without_text = _count_without_text(current)
            if without_text and not allow_without_text:
                raise InvalidInput(
                    f"{without_text} rows of {current.address} have a vector but no document to make a new one of; "
                    "allow_without_text=True (--allow-without-text) keeps them, but no search will find them"
                )
            if started:
                check_dims(target.manifest, coarse_dims, fine_dims, NOT_GIVEN, None, str(target.address))
            else:
                _make(base, current, target, model, dims)
            turn = Turn(base, current, target)
            mover = _Embed(model, target.manifest.fine_dims, on_long, turn)
            moved = bring_over(
                current, target, mover, batch_size=size, started=started, progress=progress, to_the_end=False
            )
            turn.freeze()
            # From here on nobody writes to the source, so that this one comes to an end, and compares everything.
            last = bring_over(current, target, mover, batch_size=size, started=True, progress=False)
            target.flush()
            turn.switch()
            clear_up(base, target, backend_options)
        return ReindexReport(
            str(base.address),
            name,
            current.address.collection,
            last.rows,
            moved.written + last.written,
            without_text,
            mover.long_texts,
        )


class _Embed(Mover):
    """Rows with new vectors."""

    vectors = False

    def __init__(self, encoder: Encoder, fine_dims: int, on_long: OnLong, turn: Turn) -> None:
        self._encoder, self._fine_dims, self._on_long, self._turn = encoder, fine_dims, on_long, turn
        self.long_texts = 0

    def check(self, target: Backend) -> None:
        self._turn.check()

    def missing(self, batch: RowBatch, target: Backend) -> list[int]:
        return [
            i
            for i, (row, other) in enumerate(zip(batch.rows(), target.get(batch.ids), strict=True))
            if other is None or other.document != row.document or not equal_json(other.metadata, row.metadata)
        ]

    def converted(self, batch: RowBatch) -> RowBatch:
        has_text = np.array([document is not None for document in batch.documents], dtype=np.bool_)
        vectors = np.zeros((len(batch), self._fine_dims), dtype=np.float32)
        texts = [document for document in batch.documents if document is not None]
        if texts:
            full, long = encode_long(self._encoder, texts, self._on_long, queries=False)
            vectors[has_text] = prefix(full, self._fine_dims)
            self.long_texts += long
        return RowBatch(batch.ids, batch.documents, batch.metadatas, vectors, has_text)


def _target_name(
    base: Backend, current: Backend, encoder: Encoder, dims: tuple[int, int], options: Mapping[str, Any] | None
) -> tuple[str, bool]:
    """Name of the generation to write to, and whether an earlier run has begun it."""
    names = base.collections()
    if base.address.collection not in names:
        raise CollectionNotFound(f"{base.address} does not list its own collection {base.address.collection!r}")
    known = generation_names(base.address.collection, names)
    source_id = current.manifest.collection_id
    for name in reversed(known):
        with open_backend(base.address.with_collection(name), **(options or {})) as one:
            manifest = one.read_manifest()
        origin = (manifest.origin if manifest else None) or {}
        unfinished = not origin.get("complete", True) and not origin.get("rotating")
        if manifest is not None and unfinished and origin.get("source_id") == source_id:
            try:
                identity.check_card(manifest, encoder, str(one.address))
                identity.check_canaries(manifest, encoder, str(one.address))
            except ModelMismatchError as error:
                if base.manifest.reindexing is None:
                    continue  # it was called off
                raise ConflictError(
                    f"a reindexing of {base.address} with another encoder is not finished: run it again with that "
                    "encoder, or call it off with rollback() (mrl reindex --rollback)"
                ) from error
            if base.manifest.reindexing is not None or (manifest.coarse_dims, manifest.fine_dims) == dims:
                return name, True
    number = 1 + max((int(name.rpartition(".g")[2]) for name in known), default=0)
    return generation_name(base.address.collection, number), False


def _new_dims(
    old: Manifest, encoder: Encoder, coarse_dims: int | NotGiven, fine_dims: int | None
) -> tuple[int, int, tuple[int, ...]]:
    """Coarse, fine and funnel dims of a generation after this one."""
    coarse, fine, _ = resolve_dims(
        encoder.dim, old.coarse_dims if isinstance(coarse_dims, NotGiven) else coarse_dims, fine_dims, NOT_GIVEN
    )
    return coarse, fine, tuple(d for d in old.funnel_dims if coarse < d < fine)


def _is_embedded(current: Backend, encoder: Encoder, dims: tuple[int, int]) -> bool:
    """Whether the vectors are known to be this encoder's, at these dims."""
    manifest = current.manifest
    if manifest.encoder is None or (manifest.coarse_dims, manifest.fine_dims) != dims:
        return False
    try:
        identity.check_card(manifest, encoder, str(current.address))
        identity.check_canaries(manifest, encoder, str(current.address))
    except ModelMismatchError:
        return False
    return True


def _make(
    base: Backend, current: Backend, target: Backend, encoder: Encoder, dims: tuple[int, int, tuple[int, ...]]
) -> None:
    old = current.manifest
    coarse, fine, funnel = dims
    if old.rotation is not None:
        logger.warning(
            "the rotation of %s was of its old vectors, the new ones have none: see mrl rotate", base.address
        )
    target.write_manifest(
        Manifest(
            dim=encoder.dim,
            coarse_dims=coarse,
            fine_dims=fine,
            funnel_dims=funnel,
            encoder=encoder.identity,
            canaries=identity.make_canaries(encoder),
            origin={
                "base": base.address.collection,
                "source": str(current.address),
                "source_id": old.collection_id,
                "complete": False,
            },
            created_with=__version__,
        ),
        None,
    )
    if target.address.collection not in base.collections():
        raise InvalidInput(
            f"{base.address} is a place that only this opening sees, so that a second collection in it would be lost: "
            "copy it to a folder or a server first"
        )


def _count_without_text(current: Backend) -> int:
    return sum(
        sum(document is None and bool(there) for document, there in zip(batch.documents, batch.has_vector, strict=True))
        for batch in current.scan()
    )
