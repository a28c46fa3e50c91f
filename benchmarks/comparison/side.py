"""One way of using one database, as ``measuring.py`` sees it, and which there are."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_retrieval.matryoshka import FloatArray

__all__ = ["PLAIN", "SIDES", "TWO_STAGE", "Batch", "Equal", "Place", "Setting", "Side", "open_side"]

TWO_STAGE, PLAIN = "two-stage", "plain"

Setting = Mapping[str, int]
"""Values of the knobs that trade time for recall; what the report shows."""


@dataclass(frozen=True)
class Equal:
    """Only rows whose metadata ``key`` is ``value``."""

    key: str
    value: int


@dataclass(frozen=True)
class Batch:
    """Rows to be written."""

    ids: list[str]
    """Row numbers in decimal."""
    documents: list[str]
    metadatas: list[dict[str, Any]]
    vectors: FloatArray
    """``(n, dims)`` unit rows."""


@dataclass(frozen=True)
class Place:
    """Where the data lie."""

    folder: Path
    url: str = ""
    """Of the server, if there is one that is reached by URL."""


class Side(ABC):
    """One way of using one database. Loaded by one process, then opened and searched by another one."""

    note: str = ""
    """What this way is, in a few words."""

    def __init__(self, backend: str, place: Place, dims: int, coarse_dims: int) -> None:
        self.backend = backend
        self.place = place
        self.dims = dims
        self.coarse_dims = coarse_dims

    @abstractmethod
    def create(self) -> None:
        """Make the collection."""

    @abstractmethod
    def upsert(self, batch: Batch) -> None:
        """Write rows."""

    def finish(self) -> None:
        """Build the index, where the database wants to be told."""

    @abstractmethod
    def open(self) -> None:
        """Open what was loaded."""

    @abstractmethod
    def settings(self, k: int) -> Sequence[Setting]:
        """Of the knobs, the cheapest first."""

    @abstractmethod
    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        """Row numbers, best first. Documents and metadata are read too, where the database holds them."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""


SIDES: dict[str, dict[str, str]] = {
    "faiss": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.faiss:Hnsw", "plain, flat": "plain.faiss:Flat"},
    "chroma": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.chroma:Chroma"},
    "chroma-server": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.chroma:ChromaServer"},
    "qdrant": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.qdrant:QdrantLocal"},
    "qdrant-edge": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.qdrant_edge:QdrantEdge"},
    "pgvector": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.pgvector:Pgvector"},
    "milvus": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.milvus:Milvus"},
    "lancedb": {TWO_STAGE: "comparison.two_stage:TwoStage", PLAIN: "plain.lancedb:LanceDB"},
}
"""Per backend the ways of using it, and the module and class of each. Nothing is imported before it is asked for."""


def open_side(backend: str, way: str) -> type[Side]:
    """The class of one way of using one backend."""
    module, _, name = SIDES[backend][way].partition(":")
    found: type[Side] = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    return found
