"""One file a library, one class a way of using it. ``PEERS`` says where each is; the order is that of the tables."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from benchmarks.peers.contract import Peer

__all__ = ["PEERS", "load", "missing", "versions"]

PEERS = {
    "mrl": "mrl:Library",
    "engine": "engine:Engine",
    "numpy": "numpy_scan:Tutorial",
    "faiss-flat": "faiss_flat:Flat",
    "faiss-panorama": "faiss_flat:Panorama",
    "faiss-hnsw": "faiss_hnsw:Hnsw",
    "faiss-ivf": "faiss_ivf:Ivf",
    "faiss-rabitq": "faiss_ivf:RaBitQ",
    "faiss-two-stage-ivf": "faiss_two_stage:TwoStageIvf",
    "faiss-two-stage-hnsw": "faiss_two_stage:TwoStageHnsw",
    "hnswlib": "hnswlib_graph:Hnswlib",
    "usearch": "usearch_graph:USearch",
    "svs": "svs_vamana:Svs",
    "symphonyqg": "rabitqlib_graph:SymphonyQG",
    "symphonyqg-prefix": "rabitqlib_graph:SymphonyQGPrefix",
    "rabitq-ivf": "rabitqlib_ivf:RaBitQIvf",
    "turbovec": "turbovec_scan:Turbovec",
    "qdrant-edge": "qdrant_edge_shard:Plain",
    "qdrant-edge-prefetch": "qdrant_edge_shard:Prefetch",
    "chroma": "chroma_collection:Chroma",
    "lancedb": "lancedb_table:LanceDB",
}
"""Name to ``file:class``."""

_PACKAGES = {"faiss": "faiss-cpu", "qdrant_edge": "qdrant-edge-py", "svs": "scalable-vs"}
"""Of modules that are named otherwise."""


def load(name: str) -> type[Peer]:
    """The class of a peer; an address ``package.module:Class`` names one from elsewhere."""
    address = PEERS.get(name, name)
    file, _, attribute = address.partition(":")
    found: type[Peer] = getattr(importlib.import_module(f"{__name__}.{file}" if name in PEERS else file), attribute)
    return found


def missing(peer: type[Peer]) -> list[str]:
    """The packages that a peer needs and that are not here."""
    return [_package(module) for module in peer.needs if importlib.util.find_spec(module) is None]


def versions(peer: type[Peer]) -> dict[str, str]:
    """Of the packages that a peer needs."""
    return {_package(module): importlib.metadata.version(_package(module)) for module in peer.needs}


def _package(module: str) -> str:
    return _PACKAGES.get(module, module)
