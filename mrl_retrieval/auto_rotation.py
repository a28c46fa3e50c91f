"""``rotation="auto"``: a collection is rotated by itself once it has vectors enough, where that makes its prefixes find
more; until then it is searched exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .collection import Collection
from .encoder import Encoder
from .moving.rotating import rotate
from .rotation import PER_DIM

__all__ = ["AutoRotation"]

logger = logging.getLogger(__name__)

_GROWTH = 4
"""A rotation that did not help is tried again when there are so many times as many vectors."""


class AutoRotation:
    """Decides for one retriever.

    Args:
        address: of the collection, a place that can be opened twice.
        options: of its backend.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self._address, self._options = address, dict(options)
        self._declined_at = 0
        """Vectors when a rotation was last found not to help."""
        self._vectors: int | None = None
        self._wanted: bool | None = None

    def is_waiting(self, collection: Collection) -> bool:
        """Whether there are too few vectors to fit a rotation on: then prefixes are not to be trusted yet."""
        manifest = collection.manifest
        if manifest is None or manifest.rotation is not None or not self._is_wanted(collection.encoder):
            return False
        if self._vectors is None:
            self._vectors = collection.backend.stats().vectors
        return self._vectors < PER_DIM * manifest.dim

    def rotate_if_due(self, collection: Collection) -> bool:
        """After a write: rotate where it is time and helps. Whether the rows are in another generation now."""
        manifest = collection.manifest
        if manifest is None or manifest.rotation is not None or not self._is_wanted(collection.encoder):
            return False
        self._vectors = collection.backend.stats().vectors
        if self._vectors < max(PER_DIM * manifest.dim, _GROWTH * self._declined_at):
            return False
        report = rotate(self._address, backend_options=self._options)
        if report.untouched:
            self._declined_at = self._vectors
        told = (report.coverage or 0, report.rotated_coverage or 0, self._vectors)
        what = "stays as it is" if report.untouched else "was rotated"
        logger.info(
            "%s %s: %.4f of the true top 10 in 100 candidates, rotated %.4f, of %d vectors", self._address, what, *told
        )
        return not report.untouched

    def _is_wanted(self, encoder: Encoder | None) -> bool:
        """Whether the model was not trained for prefixes, as far as is known."""
        if self._wanted is None:
            from .encoders.models import detect  # here: most retrievers need no table of models

            self._wanted = encoder is None or detect(encoder).status in ("none", "unknown")
        return self._wanted
