"""The collection that ``mrl index`` writes to, from files or from stored vectors: as its options say it is made."""

from __future__ import annotations

import argparse
from typing import Any

from mrl_retrieval.backend import Backend
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .output import Output
from .rotation import AUTO, measured_line, rotation_of

__all__ = ["finish", "print_rotation", "writing"]


def writing(arguments: argparse.Namespace, backend: Backend, **settings: Any) -> MatryoshkaRetriever:
    """A retriever for ``backend``, which is open at the address of ``arguments``; close it.

    Raises:
        InvalidInput, CorruptionError: the rotation cannot be used.
        CollectionMismatchError: the collection exists and was made otherwise.
    """
    rotation = None if arguments.rotation is None else rotation_of(arguments.rotation)
    where: dict[str, Any] = {"backend": backend}
    if rotation == AUTO:  # needs a place that it can open again
        where = {"backend": arguments.to, "backend_options": dict(arguments.option)}
    return MatryoshkaRetriever(
        coarse_dims=NOT_GIVEN if arguments.coarse_dims is None else arguments.coarse_dims,
        fine_dims=arguments.fine_dims,
        rotation=rotation,
        **where,
        **settings,
    )


def finish(arguments: argparse.Namespace, retriever: MatryoshkaRetriever) -> None:
    """At the end of a run that may have written nothing: an earlier one may have been killed before it rotated."""
    if arguments.rotation == AUTO:
        retriever.index([], vectors=[])


def print_rotation(output: Output, before: Manifest | None, now: Manifest | None) -> None:
    """A line, where a rotation was measured in this run."""
    measured = None if now is None else now.rotation_measured
    if now is not None and measured is not None and (before is None or measured != before.rotation_measured):
        done = "was rotated" if now.rotation else "was not rotated, since that does not help"
        output.line(f"It {done}: {measured_line(measured)}.")
