"""All stages of a search as one SQL statement.

::

    graph   the nearest prefixes by the HNSW index             (approximate, may come back short)
    flat    the same by reading every row that matches          (only where graph came back short)
    stage1  the one or the other, scored in float32
    stage2… longer prefixes of what is left, each best first
            the rows of the last

A graph cut up by a filter may not reach every row that matches, nor does one with many deleted rows; then, and where
fewer rows match than were asked for, the second part is run, else PostgreSQL does not even begin it.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.two_stage import Stage

from ._pgvector_client import Statement
from ._pgvector_filters import Parameters, condition
from ._pgvector_layout import Layout
from ._pgvector_values import as_vector

__all__ = ["search_statement"]

_LIMIT = 2**62

_FINE = sql.Identifier("t", "fine")

_GRAPH = sql.SQL(
    "graph AS MATERIALIZED (SELECT t.key, t.id, t.fine FROM {table} AS t WHERE t.fine IS NOT NULL AND {condition} "
    "ORDER BY {distance} LIMIT {wide})"
)
# Adding 0 keeps the planner from the graph, which would answer with too few again. The condition that lets it run
# stands outside, where it also keeps parallel workers from being started for nothing.
_FLAT = sql.SQL(
    "flat AS MATERIALIZED (SELECT f.key, f.id, f.fine, f.distance FROM ("
    "SELECT t.key, t.id, t.fine, {distance} + 0 AS distance FROM {table} AS t "
    "WHERE t.fine IS NOT NULL AND {condition} ORDER BY 4, 2 LIMIT {limit}) AS f WHERE {when})"
)
_FIRST = sql.SQL(
    "stage1 AS MATERIALIZED (SELECT t.key, t.id, t.fine, {distance} AS distance FROM graph AS t "
    "WHERE (SELECT count(*) FROM graph) >= {limit} UNION ALL SELECT key, id, fine, distance FROM flat "
    "ORDER BY 4, 2 LIMIT {limit})"
)
_NEXT = sql.SQL(
    "{name} AS MATERIALIZED (SELECT t.key, t.id, t.fine, {distance} AS distance FROM {before} AS t "
    "ORDER BY 4, 2 LIMIT {limit})"
)
_ROWS = sql.SQL(
    "SELECT l.id, 0 - l.distance, t.document, t.metadata_text FROM {last} AS l JOIN {table} AS t ON t.key = l.key "
    "ORDER BY l.distance, l.id"
)
_IDS = sql.SQL("SELECT l.id, 0 - l.distance FROM {last} AS l ORDER BY l.distance, l.id")


def search_statement(
    layout: Layout,
    vector: FloatArray,
    stages: Sequence[Stage],
    filter: Filter | None,
    *,
    graph: int,
    rows: bool,
) -> Statement:
    """The statement for one query.

    Args:
        layout: of the collection.
        vector: the query, unit length, at least as long as the longest stage.
        stages: of which the first looks at all rows, each further one at what the one before it kept.
        filter: pushed down into the first stage.
        graph: how many the first stage takes from the HNSW index, for float32 to choose from; its dims are the
            collection's ``coarse_dims`` then. 0: it does not use the index.
        rows: columns ``id, score, document, metadata_text``; else only the first two.
    """
    parameters = Parameters()
    where = condition(filter, parameters)
    distances = [_distance(layout, stage.dims, vector, parameters) for stage in stages]
    limits = [parameters.add(min(stage.limit, _LIMIT)) for stage in stages]
    limit = sql.SQL("{}::bigint").format(limits[0])
    parts = []
    when: sql.Composable = sql.SQL("TRUE")
    if graph:
        wide = parameters.add(min(graph, _LIMIT))
        near = _graph_distance(layout, vector, parameters)
        parts.append(_GRAPH.format(table=layout.table, condition=where, distance=near, wide=wide))
        when = sql.SQL("(SELECT count(*) FROM graph) < {}").format(limit)
    parts.append(_FLAT.format(distance=distances[0], table=layout.table, when=when, condition=where, limit=limit))
    last = sql.Identifier("flat")
    if graph:
        parts.append(_FIRST.format(distance=distances[0], limit=limit))
        last = sql.Identifier("stage1")
    for i in range(1, len(stages)):
        name = sql.Identifier(f"stage{i + 1}")
        parts.append(_NEXT.format(name=name, distance=distances[i], before=last, limit=limits[i]))
        last = name
    answer = (_ROWS if rows else _IDS).format(last=last, table=layout.table)
    return Statement(sql.SQL("WITH {} {}").format(sql.SQL(", ").join(parts), answer), parameters.values)


def _distance(layout: Layout, dims: int, vector: FloatArray, parameters: Parameters) -> sql.Composable:
    """The negative inner product of unit vectors, and so the negative cosine; 0 for zero vectors."""
    short = parameters.add(as_vector(prefix(vector[None, :], dims)[0]), binary=True)
    return sql.SQL("({} <#> {}::vector)").format(layout.prefix(dims, _FINE), short)


def _graph_distance(layout: Layout, vector: FloatArray, parameters: Parameters) -> sql.Composable:
    """What the graph's order is by."""
    dims, kind = layout.coarse_dims, layout.settings.coarse_quantization
    short = sql.SQL("{}::vector").format(parameters.add(as_vector(prefix(vector[None, :], dims)[0]), binary=True))
    found = layout.indexed(_FINE)
    if kind == "binary":
        return sql.SQL("{} <~> binary_quantize({})::bit({})").format(found, short, dims)
    kind_of = sql.SQL("halfvec" if kind == "halfvec" else "vector")
    return sql.SQL("{} <#> {}::{}({})").format(found, short, kind_of, dims)
