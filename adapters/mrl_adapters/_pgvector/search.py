"""All stages of a search as one SQL statement.

::

    graph   the nearest prefixes by the HNSW index             (approximate, may come back short)
    flat    the same by reading every row that matches          (only where graph came back short)
    stage1  the one or the other, scored in float32
    stage2… longer prefixes of what is left, each best first
            the rows of the last

A graph cut up by a filter may not reach every row that matches, nor does one with many deleted rows; then, and where
fewer rows match than were asked for, the second part is run, else PostgreSQL does not even begin it.

The text is the same for all searches that have the same stages, but for the filter's condition: it is put together
once, and PostgreSQL parses it once for each connection. It plans every search anew, for what is best depends on the
filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from psycopg import sql
from psycopg.adapt import PyFormat
from psycopg.types.numeric import Int8

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.two_stage import Stage

from .client import Statement
from .filters import Parameters, condition
from .layout import Layout
from .options import Options
from .values import as_vector

__all__ = ["search_settings", "search_statements"]

_LIMIT = 2**62
_WIDEST = 1000
"""The most that ``hnsw.ef_search`` takes."""

_CONDITION = sql.SQL("\0")
"""Stands for the filter's condition in a text that is kept: no SQL has this character."""

_GRAPH = sql.SQL(
    "graph AS MATERIALIZED (SELECT t.ctid AS place, t.id, t.fine, {distance} AS distance FROM {table} AS t "
    "WHERE t.fine IS NOT NULL AND {condition} ORDER BY {near} LIMIT {wide})"
)
# Adding 0 keeps the planner from the graph, which would answer with too few again. The condition that lets it run
# stands outside, where it also keeps parallel workers from being started for nothing.
_FLAT = sql.SQL(
    "flat AS MATERIALIZED (SELECT f.place, f.id, f.fine, f.distance FROM ("
    "SELECT t.ctid AS place, t.id, t.fine, {distance} + 0 AS distance FROM {table} AS t "
    "WHERE t.fine IS NOT NULL AND {condition} ORDER BY 4, 2 LIMIT {limit}) AS f WHERE {when})"
)
_FIRST = sql.SQL(
    "stage1 AS MATERIALIZED (SELECT place, id, fine, distance FROM graph "
    "WHERE (SELECT count(*) FROM graph) >= {limit} UNION ALL SELECT place, id, fine, distance FROM flat "
    "ORDER BY 4, 2 LIMIT {limit})"
)
_NEXT = sql.SQL(
    "{name} AS MATERIALIZED (SELECT t.place, t.id, t.fine, {distance} AS distance FROM {before} AS t "
    "ORDER BY 4, 2 LIMIT {limit})"
)
# A statement sees the table at one instant, in which a row stays in its place.
_ROWS = sql.SQL(
    "SELECT l.id, 0 - l.distance, t.document, t.metadata_text FROM {last} AS l JOIN {table} AS t ON t.ctid = l.place "
    "ORDER BY l.distance, l.id"
)
_IDS = sql.SQL("SELECT l.id, 0 - l.distance FROM {last} AS l ORDER BY l.distance, l.id")


def search_statements(
    layout: Layout,
    vectors: Iterable[FloatArray],
    stages: Sequence[Stage],
    filter: Filter | None,
    *,
    graph: int,
    rows: bool,
) -> Iterator[Statement]:
    """The statement for each query, made when it is asked for. They have one text, and the filter's values, together.

    Args:
        layout: of the collection.
        vectors: the queries, each of unit length, at least as long as the longest stage.
        stages: of which the first looks at all rows, each further one at what the one before it kept.
        filter: pushed down into the first stage.
        graph: how many the first stage takes from the HNSW index, for float32 to choose from; its dims are the
            collection's ``coarse_dims`` then. 0: it does not use the index.
        rows: columns ``id, score, document, metadata_text``; else only the first two.
    """
    parameters = Parameters()
    where = condition(filter, parameters).as_bytes(None)
    values = parameters.values | {f"limit{i}": Int8(min(stage.limit, _LIMIT)) for i, stage in enumerate(stages)}
    values["wide"] = Int8(min(graph, _LIMIT))
    dims = tuple(stage.dims for stage in stages)
    cuts = {*dims, layout.coarse_dims} if graph else set(dims)
    text = where.join(_pieces(layout, dims, graph=graph > 0, rows=rows))
    for vector in vectors:
        query = {f"q{each}": as_vector(prefix(vector[None, :], each)[0]) for each in cuts}
        yield Statement(text, values | query, prepare=True)


def search_settings(options: Options, graph: int) -> dict[str, str]:
    """Of the server, for one search: the graph is searched at least as widely as it is asked for rows."""
    return {
        "hnsw.ef_search": str(max(options.ef_search, min(graph, _WIDEST))),
        "hnsw.iterative_scan": options.iterative_scan,
        "hnsw.max_scan_tuples": str(options.max_scan_tuples),
        "jit": "off",  # it costs more than any of these statements takes
        # A graph is of use only where it is in memory; the default is that of a turning disk, and would have the
        # planner read thousands of rows rather than walk the graph.
        "random_page_cost": "1.1",
    }


@lru_cache(maxsize=256)
def _pieces(layout: Layout, dims: tuple[int, ...], *, graph: bool, rows: bool) -> tuple[bytes, ...]:
    """The text before, between and after the places of the condition."""
    limits = [sql.Placeholder(f"limit{i}") for i in range(len(dims))]
    first = _distance(layout.coarse("t") if dims[0] == layout.coarse_dims else layout.prefix(dims[0], "t"), dims[0])
    parts = []
    when: sql.Composable = sql.SQL("TRUE")
    if graph:
        # The same words twice are computed once for each row.
        near = _graph_distance(layout)
        distance = near if layout.settings.coarse_quantization == "none" else first
        wide = sql.Placeholder("wide")
        parts.append(_GRAPH.format(table=layout.table, condition=_CONDITION, distance=distance, near=near, wide=wide))
        when = sql.SQL("(SELECT count(*) FROM graph) < {}").format(limits[0])
    parts.append(_FLAT.format(distance=first, table=layout.table, when=when, condition=_CONDITION, limit=limits[0]))
    last = sql.Identifier("flat")
    if graph:
        parts.append(_FIRST.format(limit=limits[0]))
        last = sql.Identifier("stage1")
    for i in range(1, len(dims)):
        name = sql.Identifier(f"stage{i + 1}")
        distance = _distance(layout.prefix(dims[i], "t"), dims[i])
        parts.append(_NEXT.format(name=name, distance=distance, before=last, limit=limits[i]))
        last = name
    answer = (_ROWS if rows else _IDS).format(last=last, table=layout.table)
    whole = sql.SQL("WITH {} {}").format(sql.SQL(", ").join(parts), answer)
    return tuple(whole.as_bytes(None).split(_CONDITION.as_bytes(None)))


def _query(dims: int) -> sql.Composed:
    """The query's prefix."""
    return sql.SQL("{}::vector").format(sql.Placeholder(f"q{dims}", format=PyFormat.BINARY))


def _distance(prefix: sql.Composable, dims: int) -> sql.Composable:
    """The negative inner product of unit vectors, and so the negative cosine; 0 for zero vectors."""
    return sql.SQL("({} <#> {})").format(prefix, _query(dims))


def _graph_distance(layout: Layout) -> sql.Composable:
    """What the graph's order is by."""
    dims, kind, found = layout.coarse_dims, layout.settings.coarse_quantization, layout.graph_key("t")
    if kind == "binary":
        return sql.SQL("({} <~> binary_quantize({})::bit({}))").format(found, _query(dims), dims)
    kind_of = sql.SQL("halfvec" if kind == "halfvec" else "vector")
    return sql.SQL("({} <#> {}::{}({}))").format(found, _query(dims), kind_of, dims)
