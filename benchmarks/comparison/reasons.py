"""Why two stages do not win, by backend and by what is compared.

The report shows a sentence only where the figures of that run say that they do not.
"""

from __future__ import annotations

__all__ = ["reason"]

_CHROMA = (
    "Chroma cannot rescore candidates in the same query, and handing out the full vectors of the candidates "
    "through its API takes longer than a shorter vector saves in the graph",
    "the graph's search is not what takes the time, but looking up which rows match; two-stage then reads the "
    "candidates' full vectors in a second request, and asks for the filter through the terms that say it exactly",
    "Chroma holds a graph in memory for each of the two collections, and the full vectors are in one of them",
)
_REASONS: dict[str, tuple[str, str, str]] = {
    "faiss, flat": (
        "at this size the full vectors are scored in about the time that two-stage takes to look up candidates "
        "and to read the hits' documents",
        "the filter leaves so few vectors that scoring them takes less than what two-stage does for every search:"
        " the filter is asked of SQLite, on any key, and the hits' documents are read from there; plain has the "
        "column in an array, and returns no documents",
        "so few vectors take less than the store around them",
    ),
    "faiss": (
        "two-stage reads every prefix, which is exact and needs no building, where the graph looks at some "
        "hundreds of vectors; and it reads the hits' documents from SQLite, which plain FAISS does not hold",
        "a graph finds 10 % easily, and plain has the filtered column in an array and returns no documents, where"
        " two-stage asks SQLite, on any key",
        "so few vectors take less than the store around them",
    ),
    "chroma": _CHROMA,
    "chroma-server": _CHROMA,
    "qdrant": (
        "local mode is Python, and goes through all points once more to find the candidates by their ids; plain "
        "is one product of matrices",
        "local mode checks the filter on the payload of every point in Python, and two-stage makes it go through "
        "them twice",
        "local mode holds everything in memory, the full vectors too, and the prefixes come on top",
    ),
    "qdrant-edge": (
        "a graph over full vectors visits few of them, and two-stage rescores more than that from vectors on disk",
        "the coarse stage alone takes about as long as the whole plain search, which a payload index makes short;"
        " the rest is the second stage of the nested query, and what is done in Python around it",
        "the prefixes and their graph come on top; the full vectors are mapped from disk on both sides, and their"
        " pages count as far as searches touched them",
    ),
    "pgvector": (
        "a two-stage search is a transaction with settings of its own, which takes some ten exchanges with the "
        "server; the statement itself is about half of the time. Plain is one statement on a connection that was "
        "set up once",
        "by the index on its column plain reads only the rows that match and scores them; two-stage asks the GIN "
        "index on metadata, of any key, in a transaction with settings of its own, and where fewer rows match "
        "than candidates are asked for it reads all that match",
        "PostgreSQL keeps what was read: full vectors of all candidates of all queries, which at this size is "
        "most of the table",
    ),
    "milvus": (
        "Milvus Lite is written in Python and puts together every row that comes back, about 0.1 ms each, so that"
        " candidates cost more than a short vector saves; two-stage is for the server that comes after it",
        "Milvus Lite is written in Python and puts together every row that comes back, about 0.1 ms each",
        "Milvus Lite holds all vectors in memory, and the prefixes come on top",
    ),
    "lancedb": (
        "LanceDB has no search within a search, so that two-stage asks three times: for candidates, their vectors"
        " with them, and the hits' rows, each time for the newest version first; plain holds one version open and"
        " asks once",
        "two-stage asks for the filter's terms through a label list, on any key, and then for the hits' rows, "
        "each time for the newest version first; plain asks once, through an index made for this column",
        "the index of the plain table keeps product-quantised codes, a small part of the vectors' bytes, the one "
        "over prefixes keeps them whole",
    ),
}


def reason(backend: str, way: str, what: str) -> str:
    """A clause; says so where none is known.

    Args:
        backend: its name.
        way: the plain one.
        what: ``"p50"``, ``"p50 (10 %)"``, … or ``"resident"``.
    """
    kind = 2 if what == "resident" else 0 if what == "p50" else 1
    found = _REASONS.get("faiss, flat" if way == "plain, flat" else backend)
    return "no reason is known" if found is None else found[kind]
