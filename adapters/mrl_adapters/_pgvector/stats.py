"""What a collection holds, and how many bytes that takes."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from mrl_retrieval.backend import BackendStats

from .client import Statement
from .layout import Layout

__all__ = ["read_stats", "stats_statement"]

_STATS = sql.SQL(
    "SELECT (SELECT count(*) FROM {table}), (SELECT count(fine) FROM {table}), "
    "(SELECT sum(pg_column_size(fine)) FROM {table})::int8, {prefixes}, pg_total_relation_size({name}::regclass), "
    "(SELECT COALESCE(sum(pg_relation_size(i.indexrelid)), 0) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = {name}::regclass AND a.amname = 'hnsw')::int8, "
    "(SELECT extversion FROM pg_extension WHERE extname = 'vector'), current_setting('server_version')"
)
_PREFIXES = sql.SQL("(SELECT COALESCE(sum(pg_column_size(coarse)), 0) FROM {table})::int8")


def stats_statement(layout: Layout) -> Statement:
    """What asks for it; :func:`read_stats` takes its one row."""
    prefixes = _PREFIXES.format(table=layout.table) if layout.settings.stored_prefix else sql.SQL("0::int8")
    return Statement(_STATS.format(table=layout.table, prefixes=prefixes, name=layout.table.as_string()))


def read_stats(row: tuple[Any, ...], layout: Layout) -> BackendStats:
    """As the core shows it."""
    rows, vectors, fine, prefixes, total, graph, extension, server = row
    settings, coarse = layout.settings, graph + prefixes
    return BackendStats(
        rows=rows,
        vectors=vectors,
        bytes={"coarse": coarse, "fine": fine, "rows": max(total - coarse - (fine or 0), 0) or None},
        details={
            "index": f"HNSW, m={settings.m}, ef_construction={settings.ef_construction}",
            "coarse_quantization": settings.coarse_quantization,
            "table": layout.table.as_string(),
            "pgvector": extension,
            "postgresql": server,
        },
    )
