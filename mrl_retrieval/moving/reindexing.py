"""Embedding a collection anew, with another encoder, from the documents it stores.

The new generation is a collection of its own beside the old one, which serves searches until the new one is whole;
then the manifest of the collection points to the new one, in one step (``switching.py``). What is in the new generation
already is not encoded again, so that an interrupted run goes on where it stopped. The old one stays, for a rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .. import identity, rotations
from .._version import __version__
from ..backend import Backend
from ..encoder import Encoder, as_encoder
from ..errors import CollectionNotFound, ConflictError, InvalidInput, ModelMismatchError
from ..generations import check_there, generation_names, next_generation_name
from ..long_texts import OnLong
from ..manifest import Manifest
from ..registry import open_backend
from ..rotation import Rotation
from ..settings import NOT_GIVEN, NotGiven, check_dims, check_positive, resolve_dims
from .embedding import Embedding
from .new_rotation import NewRotation, asked_for, is_asked_for_another, rotation_for
from .passes import Mover, Progress
from .switching import Turn, clear_up, generations, move_over

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
    fingerprint: str | None = None
    """Of the rotation that the collection has now; None: it has none."""
    coverage: float | None = None
    """Share of the true top 10 among 100 candidates of the new prefixes, not rotated, over a sample of the documents.
    None: not measured."""
    rotated_coverage: float | None = None
    """The same with a rotation."""


def reindex(
    address: str,
    encoder: Any,
    *,
    coarse_dims: int | NotGiven = NOT_GIVEN,
    fine_dims: int | None = None,
    rotation: Rotation | Literal["auto"] | NotGiven | None = NOT_GIVEN,
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
        rotation: what :func:`~mrl_retrieval.fit_rotation` gives for the new encoder. ``"auto"``: fitted on documents of
            the collection (5,000, or ten for each dim if that is more) and kept if the prefixes then find more; only
            for a model that was not trained for prefixes, as far as is known. None: none. Not given: ``"auto"`` where
            the collection has a rotation, else none. The old one is never kept: it is of the other encoder's vectors.
        on_long: what becomes of a text beyond the encoder's context.
        allow_without_text: go on although rows have a vector but no document; they keep everything but the vector.
        force: embed anew even where the collection has this encoder and these dims already; else it is left as it is.
        batch_size: rows encoded and written at a time.
        progress: True draws a bar on stderr; a function is called with rows done and their total.
        backend_options: of the backend at ``address``.

    Raises:
        CollectionNotFound: there is none.
        InvalidInput: a row has no document, or the place cannot be opened twice, or another rotation is asked for where
            nothing else is new.
        DimensionError: a rotation is asked for that is of another length, or vectors are not stored whole.
        ConflictError: another reindexing, with another encoder, is under way, or it was written to all the time.
    """
    size = check_positive(batch_size, "batch_size")
    model = as_encoder(encoder)
    with generations(address, backend_options) as (base, current):
        check_there(current, base)
        clear_up(base, current, backend_options)
        dims = _new_dims(current.manifest, model, coarse_dims, fine_dims)
        if not force and current.manifest.frozen is None and _is_embedded(current, model, dims[:2]):
            return _untouched(base, current, rotation)
        wanted = asked_for(rotation, current, model, dims[1])
        name, started = _target_name(base, current, model, dims[:2], backend_options)
        with open_backend(base.address.with_collection(name), **(backend_options or {})) as target:
            texts, without_text = _count_texts(current)
            if without_text and not allow_without_text:
                raise InvalidInput(
                    f"{without_text} rows of {current.address} have a vector but no document to make a new one of; "
                    "allow_without_text=True (--allow-without-text) keeps them, but no search will find them"
                )
            if started:
                check_dims(target.manifest, coarse_dims, fine_dims, NOT_GIVEN, None, str(target.address))
                new = NewRotation.begun(target, rotation)
            else:
                new = rotation_for(wanted, current, model, on_long, dims[0], texts, size)
                _make(base, current, target, model, dims, new)
            movers: list[Embedding] = []

            def mover(turn: Turn) -> Mover:
                movers.append(Embedding(model, target.manifest.fine_dims, on_long, new, turn))
                return movers[0]

            moved = move_over(
                base, current, target, mover, batch_size=size, started=started, progress=progress,
                options=backend_options,
            )  # fmt: skip
        measured = new.measurement
        return ReindexReport(
            address=str(base.address),
            generation=name,
            previous=current.address.collection,
            rows=moved.rows,
            encoded=moved.written,
            without_text=without_text,
            long_texts=movers[0].long_texts,
            fingerprint=new.fingerprint,
            coverage=None if measured is None else measured.coverage,
            rotated_coverage=None if measured is None else measured.rotated_coverage,
        )


def _untouched(
    base: Backend, current: Backend, rotation: Rotation | Literal["auto"] | NotGiven | None
) -> ReindexReport:
    """Nothing to do.

    Raises:
        InvalidInput: another rotation was asked for, which needs no encoder.
    """
    there = (current.manifest.rotation or {}).get("fingerprint")
    if is_asked_for_another(rotation, there):
        raise InvalidInput(
            f"{base.address} was embedded with this encoder at these dims already, with the rotation {there}: "
            "rotate() (mrl rotate) stores it with another one and encodes nothing; force=True (--force) embeds it anew"
        )
    logger.info("%s was embedded with this encoder at these dims already", base.address)
    return ReindexReport(
        address=str(base.address),
        generation=current.address.collection,
        previous=base.manifest.previous,
        rows=current.count(),
        encoded=0,
        without_text=0,
        long_texts=0,
        untouched=True,
        fingerprint=there,
    )


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
            if manifest is not None and manifest.rotation and one.read_attachment(rotations.ATTACHMENT) is None:
                continue  # killed before its rotation was stored
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
    return next_generation_name(base.address.collection, names), False


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
    base: Backend,
    current: Backend,
    target: Backend,
    encoder: Encoder,
    dims: tuple[int, int, tuple[int, ...]],
    new: NewRotation,
) -> None:
    coarse, fine, funnel = dims
    made = Manifest(
        dim=encoder.dim,
        coarse_dims=coarse,
        fine_dims=fine,
        funnel_dims=funnel,
        encoder=encoder.identity,
        canaries=identity.make_canaries(encoder),
        rotation_measured=None if new.measurement is None else new.measurement.to_json(),
        origin={
            "base": base.address.collection,
            "source": str(current.address),
            "source_id": current.manifest.collection_id,
            "complete": False,
        },
        created_with=__version__,
    )
    if new.rotation is not None:
        made = replace(made, rotation=rotations.told(new.rotation))
    target.write_manifest(made, None)
    if new.rotation is not None:
        rotations.save(target, new.rotation)
    if target.address.collection not in base.collections():
        raise InvalidInput(
            f"{base.address} is a place that only this opening sees, so that a second collection in it would be lost: "
            "copy it to a folder or a server first"
        )


def _count_texts(current: Backend) -> tuple[int, int]:
    """Rows that have a document, and rows that have a vector but none."""
    texts = without = 0
    for batch in current.scan():
        for document, there in zip(batch.documents, batch.has_vector, strict=True):
            texts += document is not None
            without += document is None and bool(there)
    return texts, without
