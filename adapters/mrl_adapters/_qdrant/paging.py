"""Reading a Qdrant collection to its end, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

__all__ = ["scrolled"]


def scrolled(run: Callable[[Callable[[QdrantClient], Any]], Any], **wanted: Any) -> Iterator[list[models.Record]]:
    """The pages of ``QdrantClient.scroll``, those without a point left out.

    Args:
        run: does one call with the client, and maps its errors.
        wanted: the arguments of ``scroll``, bar ``offset``.
    """
    offset: Any = None
    while True:
        page, offset = run(partial(QdrantClient.scroll, offset=offset, **wanted))
        if page:
            yield page
        if offset is None:
            return
