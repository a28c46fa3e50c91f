"""A collection and its encoder: found or made, loaded when needed, and held to one another."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Literal

from . import identity, rotations
from ._version import __version__
from .backend import Backend
from .encoder import Encoder, as_encoder
from .errors import (
    CollectionMismatchError,
    ConflictError,
    DimensionError,
    EncoderRequired,
    InvalidInput,
    MissingExtra,
    UnknownNameError,
)
from .generations import check_stays
from .manifest import Manifest
from .matryoshka import FloatArray
from .registry import load_encoder
from .rotation import Rotation
from .settings import NOT_GIVEN, NotGiven, check_dims, check_positive, resolve_dims
from .two_stage import Stage

__all__ = ["Collection"]

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0
"""Seconds after which a read looks again whether the collection is still the same."""


class Collection:
    """One backend's collection, what the user said of it, and its encoder. Thread-safe.

    Args:
        backend: an open backend.
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it.
        coarse_dims, fine_dims, stages, dim: what the user gave; used when the collection is made, and held to it
            when it exists.
        strict: make no collection whose prefixes the encoder's model was not trained for.
        rotation: of a collection that is made; of one that exists, what it has to have. ``"auto"``: it will be rotated.

    Raises:
        CollectionMismatchError, ModelMismatchError: the collection exists and was made otherwise.
    """

    def __init__(
        self,
        backend: Backend,
        encoder: Any,
        *,
        coarse_dims: int | NotGiven,
        fine_dims: int | None,
        stages: tuple[Stage, ...] | NotGiven,
        dim: int | None,
        strict: bool = False,
        rotation: Rotation | Literal["auto"] | None = None,
    ) -> None:
        self.backend = backend
        self._strict = strict
        if not (
            rotation is None or isinstance(rotation, Rotation) or (isinstance(rotation, str) and rotation == "auto")
        ):
            raise InvalidInput(
                f"rotation is {type(rotation).__name__}; pass what fit_rotation(encoder, texts) gives, or 'auto'"
            )
        self._given_rotation = rotation if isinstance(rotation, Rotation) else None
        self._is_to_turn = rotation is not None
        self._rotation: Rotation | None = None
        self._lock = threading.RLock()
        self._encoder_is_given = encoder is not NOT_GIVEN
        self._encoder = as_encoder(encoder) if self._encoder_is_given and encoder is not None else None
        self._coarse_dims = (
            coarse_dims if isinstance(coarse_dims, NotGiven) else check_positive(coarse_dims, "coarse_dims")
        )
        self._fine_dims = None if fine_dims is None else check_positive(fine_dims, "fine_dims")
        self._dim = None if dim is None else check_positive(dim, "dim")
        self._stages = stages
        if self._encoder is not None and self._dim not in (None, self._encoder.dim):
            raise DimensionError(f"dim={self._dim} was given, the encoder's is {self._encoder.dim}: leave dim out")
        self._canaries_agree = False
        self._looked = time.monotonic()
        self._manifest = backend.read_manifest()
        if self._manifest is not None:
            self._hold_to(self._manifest)

    @property
    def where(self) -> str:
        """The address, for messages."""
        return str(self.backend.address)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, or None as long as nobody has made the collection."""
        if self._manifest is None:
            with self._lock:
                found = self.backend.read_manifest()
                if found is not None:
                    self._hold_to(found)
                    self._manifest = found
        return self._manifest

    @property
    def encoder(self) -> Encoder | None:
        """The encoder that was given, else the one the manifest names, else None."""
        manifest = self.manifest
        if self._encoder is None and not self._encoder_is_given and manifest is not None:
            card = manifest.encoder
            if card is not None and card.name is not None:
                with self._lock:
                    if self._encoder is None:
                        self._encoder = self._load(manifest, card.name)
        return self._encoder

    @property
    def vector_dim(self) -> int | None:
        """The length that given vectors must have, as far as it is known."""
        if self.manifest is not None:
            return self.manifest.dim
        return self._encoder.dim if self._encoder is not None else self._dim

    def verified_encoder(self) -> Encoder:
        """The encoder, once its canary vectors agree with the collection's.

        Raises:
            EncoderRequired: there is none.
            ModelMismatchError: it is not the one the collection was made with.
        """
        encoder = self.encoder
        if encoder is None:
            raise EncoderRequired(self._why_no_encoder())
        manifest = self.manifest
        if manifest is not None and not self._canaries_agree:
            with self._lock:
                if not self._canaries_agree:
                    identity.check_canaries(manifest, encoder, self.where)
                    self._canaries_agree = True
        return encoder

    def turned(self, vectors: FloatArray) -> FloatArray:
        """Full vectors (N, D) as the collection stores them: rotated, where it has a rotation."""
        manifest = self.manifest
        return vectors if manifest is None or manifest.rotation is None else self._rotation_of(manifest).apply(vectors)

    def turned_back(self, vectors: FloatArray) -> FloatArray:
        """Stored vectors (N, D) as they were given."""
        manifest = self.manifest
        return vectors if manifest is None or manifest.rotation is None else self._rotation_of(manifest).undo(vectors)

    def _rotation_of(self, manifest: Manifest) -> Rotation:
        if self._rotation is None:
            self._rotation = rotations.load(self.backend, manifest)
        return self._rotation

    def take_plan(self) -> None:
        """Go on with the plan that is stored now."""
        with self._lock:
            if self._manifest is not None:
                self._manifest = self._manifest.with_plan(self.backend.manifest.plan)

    def check_current(self, *, writing: bool) -> None:
        """Look whether the collection is still the one this object knows.

        That is done before every write, and for reads at most once a second, since a look may be a round trip.

        Raises:
            ConflictError: its rows have moved, or are about to, and something is to be written.
            CollectionMismatchError: it was dropped and made again.
        """
        known = self._manifest
        now = time.monotonic()
        if known is None or (not writing and now - self._looked < _LOOK_AGAIN):
            return
        found = self.backend.read_manifest()
        if found is None:
            return  # dropped: the backend says so in its own words
        self._looked = now
        if found.collection_id != known.collection_id:
            raise CollectionMismatchError(
                f"{self.where} was dropped and made again since it was opened here (its id is {found.collection_id}, "
                f"it was {known.collection_id}): open it again"
            )
        # A generation is kept for open readers until the one after the next has taken over.
        kept = found.previous in (None, self.backend.address.collection)
        if writing or (found.moved_to is not None and not kept):
            check_stays(found, self.where)

    def ensure(self, dim: int) -> Manifest:
        """The manifest; makes the collection, for vectors of length ``dim``, if it does not exist."""
        manifest = self.manifest
        if manifest is not None:
            return manifest
        with self._lock:
            if self._manifest is None:
                made = self._new_manifest(dim)
                try:
                    self.backend.write_manifest(made, None)
                    if self._given_rotation is not None:
                        rotations.save(self.backend, self._given_rotation)
                except ConflictError:
                    # Somebody else made it between our look and our write: then it has to fit, like any other.
                    found = self.backend.read_manifest()
                    if found is None:
                        raise
                    self._hold_to(found)
                    made = found
                self._manifest = made
            return self._manifest

    def _new_manifest(self, dim: int) -> Manifest:
        coarse, fine, funnel = resolve_dims(dim, self._coarse_dims, self._fine_dims, self._stages)
        if not isinstance(self._coarse_dims, NotGiven) and coarse < self._coarse_dims:
            logger.warning("coarse_dims=%d is beyond the vectors' %d dims and was clamped", self._coarse_dims, fine)
        encoder = self._encoder
        canaries = None
        if encoder is not None:
            from .encoders.models import check_truncation, detect  # here: most processes make no collection

            row = detect(encoder)
            # What a rotation orders by energy was not trained for anything.
            for dims in () if self._is_to_turn else sorted({coarse, *funnel, fine}):
                check_truncation(row, dims, strict=self._strict)
            canaries = identity.make_canaries(encoder)
            self._canaries_agree = True
        if self._given_rotation is not None:
            rotations.check_fits(self._given_rotation, self.backend, dim, fine)
        elif self._is_to_turn and rotations.is_for(encoder):
            rotations.check_possible(self.backend, dim, fine)
        return Manifest(
            dim=dim,
            coarse_dims=coarse,
            fine_dims=fine,
            funnel_dims=funnel,
            rotation=None if self._given_rotation is None else rotations.told(self._given_rotation),
            encoder=None if encoder is None else encoder.identity,
            canaries=canaries,
            created_with=__version__,
        )

    def _hold_to(self, manifest: Manifest) -> None:
        if manifest.moved_to is not None:
            check_stays(manifest, self.where)
        if manifest.origin is not None and not manifest.origin.get("complete", True):
            logger.warning(
                "%s is not finished: rows of %s are missing; run the command that makes it again",
                self.where,
                manifest.origin.get("source"),
            )
        check_dims(manifest, self._coarse_dims, self._fine_dims, self._stages, self._dim, self.where)
        if self._given_rotation is not None:
            rotations.hold_to(self._given_rotation, self.backend, manifest)
        if self._encoder is not None:
            identity.check_card(manifest, self._encoder, self.where)
            if manifest.encoder is None:
                logger.warning(
                    "%s holds vectors given by its maker; whether %s made them cannot be checked",
                    self.where,
                    self._encoder.identity.name or "this encoder",
                )

    def _load(self, manifest: Manifest, name: str) -> Encoder:
        try:
            loaded = load_encoder(name)
        except (UnknownNameError, MissingExtra) as error:
            error.add_note(f"{self.where} was made with the encoder {name!r}")
            raise
        identity.check_card(manifest, loaded, self.where)
        return loaded

    def _why_no_encoder(self) -> str:
        manifest = self.manifest
        if self._encoder_is_given:
            return "this retriever was made with encoder=None: give vectors (vectors=, search_by_vector), or an encoder"
        if manifest is None:
            return (
                "no encoder was given: pass encoder='wordllama', another name, an object, or encoder=None with vectors="
            )
        if manifest.encoder is None:
            return (
                f"{self.where} was made from given vectors and knows no encoder: pass encoder=, or use search_by_vector"
            )
        return (
            f"{self.where} was made with an encoder object that has no name (model {manifest.encoder.model!r}, "
            f"{manifest.dim} dims): pass it again as encoder="
        )


def check_known(dim: int | None) -> int:
    """The length of vectors, which has to be known before a row without one can be stored.

    Raises:
        InvalidInput: it is not.
    """
    if not dim:
        raise InvalidInput(
            "no row has a vector and the length of vectors is not known yet: index a row with a vector first, or "
            "give dim= to the retriever"
        )
    return dim
