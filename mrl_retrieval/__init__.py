"""Two-stage retrieval with Matryoshka embeddings: search short prefixes, rerank with full vectors.

>>> from mrl_retrieval import MatryoshkaRetriever
>>> with MatryoshkaRetriever(encoder="hashing", backend="memory:") as retriever:
...     _ = retriever.index(["the cat sat on the mat", "revenue grew in 2019"])
...     retriever.search("where did the cat sit?", top_k=1)[0].document
'the cat sat on the mat'
"""

from ._version import __version__
from .address import Address
from .backend import Backend, BackendStats, Capabilities
from .diagnosis import TruncationReport, diagnose
from .documents import Hit, Row, RowBatch, SearchResult
from .encoder import Encoder, EncoderCard, as_encoder
from .errors import MissingExtra, MRLError
from .filters import parse_filter
from .manifest import Manifest
from .matryoshka import normalize, prefix
from .moving.copying import CopyReport
from .moving.reindexing import ReindexReport, reindex
from .moving.rotating import RotateReport, rotate
from .moving.switching import rollback
from .reading import CollectionInfo
from .registry import backend_names, encoder_names, load_encoder, open_backend
from .reranking.depth import RerankDepthReport
from .retriever import MatryoshkaRetriever
from .rotation import Rotation
from .rotation_fitting import fit_rotation
from .two_stage import Stage
from .why_not import WhyNot

__all__ = [
    "Address",
    "Backend",
    "BackendStats",
    "Capabilities",
    "CollectionInfo",
    "CopyReport",
    "Encoder",
    "EncoderCard",
    "Hit",
    "MRLError",
    "Manifest",
    "MatryoshkaRetriever",
    "MissingExtra",
    "ReindexReport",
    "RerankDepthReport",
    "RotateReport",
    "Rotation",
    "Row",
    "RowBatch",
    "SearchResult",
    "Stage",
    "TruncationReport",
    "WhyNot",
    "__version__",
    "as_encoder",
    "backend_names",
    "diagnose",
    "encoder_names",
    "fit_rotation",
    "load_encoder",
    "normalize",
    "open_backend",
    "parse_filter",
    "prefix",
    "reindex",
    "rollback",
    "rotate",
]
