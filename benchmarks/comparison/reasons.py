"""Why two stages do not win, by backend and by what is compared.

The report shows a sentence only where the figures of that run say that they do not.
"""

from __future__ import annotations

__all__ = ["reason"]

_CHROMA = (
    "Chroma cannot rescore candidates in the same query, so that two-stage asks three times: for candidates, for their "
    "full vectors, which come as lists of numbers, and for the hits' rows",
    "looking up which rows match takes most of the time on both sides; two-stage asks for the filter through the terms "
    "that say it exactly, and then reads the candidates' full vectors and the hits' rows in requests of their own",
    "Chroma holds a graph in memory for each of the two collections, and the full vectors are in one of them",
)
_REASONS: dict[str, tuple[str, str, str]] = {
    "faiss, flat": (
        "at this size the full vectors are scored in about the time that two-stage takes to look up candidates "
        "and to read the hits' documents",
        "the filter leaves so few vectors that scoring them takes less than what two-stage does for every search:"
        " the candidates are compared with their checksums, and the hits' documents are read from SQLite; plain "
        "has the column in an array, and returns no documents",
        "so few vectors take less than the store around them",
    ),
    "faiss": (
        "two-stage reads every prefix, which is exact and needs no building, where the graph looks at some "
        "hundreds of vectors; and it reads the hits' documents from SQLite, which plain FAISS does not hold",
        "a graph finds 10 % easily, and plain has the filtered column in an array and returns no documents, where"
        " two-stage scores every prefix that the filter leaves, and reads the documents from SQLite",
        "so few vectors take less than the store around them",
    ),
    "chroma": _CHROMA,
    "chroma-server": _CHROMA,
    "qdrant": (
        "local mode is Python, and hands out the candidates' vectors as lists of numbers; plain is one product of "
        "matrices",
        "local mode checks the filter on the payload of every point in Python, and two-stage has more to look at in "
        "each, the tags that say the filter exactly",
        "local mode holds everything in memory, the full vectors too, and the prefixes come on top",
    ),
    "qdrant-edge": (
        "a graph over full vectors visits few of them, and two-stage rescores more than that from vectors on disk",
        "the coarse stage scores the prefixes of all that match, which alone takes about as long as the whole plain "
        "search over a graph; the rest is reading full vectors, from disk, and payloads that hold the metadata twice, "
        "and what is done in Python around it",
        "the prefixes and their graph come on top; the full vectors are mapped from disk on both sides, and their"
        " pages count as far as searches touched them",
    ),
    "pgvector": (
        "the graph looks at about as many rows with short vectors as with long ones, and where all are in memory "
        "it is that which takes the time; two-stage then reads the full vectors of its candidates, each of them "
        "from where PostgreSQL keeps long values, apart from the row",
        "by the index on its column plain reads only the rows that match and scores them; two-stage asks the GIN "
        "index on metadata, of any key, plans each search anew, because the best plan depends on the filter, and "
        "sends its settings with it",
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
        "LanceDB has no search within a search, so that two-stage asks twice, for candidates with their vectors and for"
        " the hits' rows, after looking for the newest version; plain holds one version open and asks once",
        "two-stage asks the label list of the filter's terms how many rows match, on any key, then for candidates or, "
        "where few match, for all their vectors, and then for the hits' rows; each query costs LanceDB a millisecond "
        "or more before it has read a row, and plain asks once, through an index made for this column",
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
