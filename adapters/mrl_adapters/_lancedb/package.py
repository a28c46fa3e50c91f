"""The packages behind the extra, imported here alone, so that one that is missing is said in one way."""

from __future__ import annotations

from mrl_retrieval.errors import MissingExtra

try:
    import lancedb
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]
    from lancedb import index as kinds
except ImportError as error:
    raise MissingExtra("the lancedb backend", "lancedb") from error

__all__ = ["kinds", "lancedb", "pa", "pc"]
