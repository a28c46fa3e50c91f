"""Repeating what is safe to repeat when a database, or another server, is away for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import BackendUnavailable, MRLError

__all__ = ["PAUSES", "repeated"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES: Sequence[float] = (0.1, 0.4, 1.6, 6.4)
"""Seconds between the attempts: a server that is restarted gets about eight."""


def repeated(
    call: Callable[[], T],
    what: str,
    pauses: Sequence[float] | None = None,
    *,
    passing: type[MRLError] = BackendUnavailable,
) -> T:
    """The result of ``call``, which may be done twice without harm, such as an upsert.

    Only ``passing`` is worth another attempt: whatever else went wrong would go wrong again.

    Raises:
        MRLError: ``passing`` of the last attempt, with a note that says how many there were.
    """
    pauses = PAUSES if pauses is None else pauses
    for attempt, pause in enumerate(pauses, 1):
        try:
            return call()
        except passing as error:
            logger.warning(
                "%s: attempt %d of %d failed, again in %g s: %s", what, attempt, len(pauses) + 1, pause, error
            )
            time.sleep(pause)
    try:
        return call()
    except passing as error:
        error.add_note(f"{what} was tried {len(pauses) + 1} times")
        raise
