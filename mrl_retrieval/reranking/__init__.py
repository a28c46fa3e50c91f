"""The third stage: a model that reads query and document together, over the first few hits by full vectors."""

from .depth import RerankDepth, RerankDepthReport
from .reranker import Reranker, as_reranker

__all__ = ["RerankDepth", "RerankDepthReport", "Reranker", "as_reranker"]
