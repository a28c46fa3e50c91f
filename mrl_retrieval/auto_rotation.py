"""``rotation="auto"``: a collection is rotated by itself once it has vectors enough, where that makes its prefixes find
more; until then it is searched exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from . import rotations
from .collection import Collection
from .errors import ConflictError, InvalidInput
from .manifest import Manifest
from .moving.rotating import rotate
from .registry import open_backend
from .rotation_fitting import PER_DIM

__all__ = ["AutoRotation"]

logger = logging.getLogger(__name__)

_GROWTH = 4
"""A rotation that did not help is measured again when there are so many times as many vectors."""
_LOOK_AGAIN = 1.0
"""Seconds after which a reader that waits counts again: others may have written."""


class AutoRotation:
    """Decides for one retriever. What was measured is kept in the manifest, where other processes find it.

    Args:
        address: of the collection, a place that can be opened twice.
        options: of its backend.

    Raises:
        InvalidInput: it cannot be opened twice.
    """

    def __init__(self, address: Any, options: Mapping[str, Any]) -> None:
        if not isinstance(address, str) or address.partition("?")[0] == "memory:":
            raise InvalidInput(
                'rotation="auto" needs an address that can be opened twice, such as faiss:./kb or memory:NAME, got '
                f"{address!r}: pass one, or a rotation of fit_rotation(encoder, texts)"
            )
        self._address, self._options = address, dict(options)
        self._vectors: int | None = None
        self._counted = 0.0
        self._wanted: bool | None = None

    def is_waiting(self, collection: Collection) -> bool:
        """Whether there are too few vectors to fit a rotation on: then prefixes are not to be trusted yet."""
        manifest = collection.manifest
        if manifest is None or not self._is_open(manifest) or not self._is_wanted(collection):
            return False
        enough, now = PER_DIM * manifest.dim, time.monotonic()
        if self._vectors is None or (self._vectors < enough and now - self._counted >= _LOOK_AGAIN):
            self._vectors, self._counted = collection.backend.stats().vectors, now
        return self._vectors < enough

    def rotate_if_due(self, collection: Collection) -> bool:
        """After a write: rotate where it is time and helps. Whether the rows are in another generation now."""
        manifest = collection.manifest
        if manifest is None or not self._is_open(manifest):
            return False
        self._vectors, self._counted = collection.backend.stats().vectors, time.monotonic()
        # Last whether it is wanted: to know that, the encoder may have to be loaded.
        if not self._is_due(manifest, self._vectors) or not self._is_wanted(collection):
            return False
        # Another process may have measured since this one has read the manifest.
        now = collection.backend.read_manifest()
        if now is None or now.moved_to is not None or not self._is_due(now, self._vectors):
            return False
        try:
            report = rotate(self._address, backend_options=self._options)
        except ConflictError as error:
            # The rows are in, and whoever is rotating or reindexing takes them along: nothing failed.
            logger.info("%s is not rotated now: %s", self._address, error)
            return False
        told = (report.coverage or 0, report.rotated_coverage or 0, self._vectors)
        what = "stays as it is" if report.untouched else "was rotated"
        logger.info(
            "%s %s: %.4f of the true top 10 in 100 candidates, rotated %.4f, of %d vectors", self._address, what, *told
        )
        return not report.untouched

    def finish(self, collection: Collection) -> bool:
        """Before a write: finish a rotating that was killed in its last pass, in which writes are refused. Nobody has
        asked for it, so nobody knows that it has to be run again. Whether the rows are in another generation now.
        """
        manifest = collection.manifest
        if manifest is None or not self._is_open(manifest):
            return False
        backend = collection.backend
        now = backend.read_manifest()
        if now is None or now.frozen is None:
            return False
        with open_backend(backend.address.with_collection(now.frozen), **self._options) as begun:
            made = begun.read_manifest()
        if made is None or not (made.origin or {}).get("rotating"):
            return False  # a reindexing: that is its owner's to finish
        try:
            return not rotate(self._address, backend_options=self._options).untouched
        except ConflictError as error:
            logger.info("%s is rotated by somebody else: %s", self._address, error)
            return False

    def _is_wanted(self, collection: Collection) -> bool:
        """Whether the model was not trained for prefixes, as far as is known."""
        if self._wanted is None:
            self._wanted = rotations.is_for(collection.encoder)
        return self._wanted

    @staticmethod
    def _is_open(manifest: Manifest) -> bool:
        """Whether this collection could be rotated one day."""
        return manifest.rotation is None and manifest.coarse_dims < manifest.dim == manifest.fine_dims

    @staticmethod
    def _is_due(manifest: Manifest, vectors: int) -> bool:
        measured_at = int((manifest.rotation_measured or {}).get("vectors", 0))
        return vectors >= max(PER_DIM * manifest.dim, _GROWTH * measured_at)
