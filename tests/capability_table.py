"""The table of docs/backends.md, made from what the backends declare.

``python -m tests.capability_table`` writes it into the page; a test fails where the page says something else.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from mrl_retrieval import backend_names
from mrl_retrieval.backend import Capabilities
from mrl_retrieval.filters import OPERATORS
from mrl_retrieval.registry import open_backend

PAGE = Path(__file__).parent.parent / "docs" / "backends.md"
BEGIN, END = "<!-- capabilities: begin -->\n", "<!-- capabilities: end -->"
_REWRITTEN = {"$ne", "$nin"}  # parsing makes $not of them, so no backend ever sees one
_AT = {"memory": "memory:table", "pgvector": "pgvector:"}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _listed(names: frozenset[str]) -> str:
    return " ".join(f"`{name}`" for name in sorted(names)) or "none"


ROWS: list[tuple[str, Callable[[Capabilities], str]]] = [
    ("rows outlive the process", lambda c: _yes(c.persistent)),
    ("a batch is a transaction", lambda c: _yes(c.transactions)),
    ("several processes may write", lambda c: _yes(c.concurrent_writers)),
    ("only one opening at a time", lambda c: _yes(c.exclusive_open)),
    ("both stages in one round trip", lambda c: _yes(c.server_side_rerank)),
    ("a whole funnel in one round trip", lambda c: _yes(c.server_side_funnel)),
    ("exact search inside", lambda c: _yes(c.exact_search)),
    ("coarse stage may miss some", lambda c: _yes(c.approximate_coarse)),
    ("`recall=` in a search", lambda c: _yes(c.depth_by_query)),
    ("full vectors stored as", lambda c: c.vector_dtype),
    ("attachments", lambda c: _yes(c.attachments)),
    ("coarse vectors quantised", lambda c: _listed(c.quantization - {"none"})),
    ("filters resolved outside", lambda c: _listed(OPERATORS - _REWRITTEN - c.filter_operators)),
]


def declared() -> dict[str, Capabilities]:
    """What each registered backend declares, opened with its defaults on a folder where it takes one."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in backend_names():
            with open_backend(_AT.get(name, f"{name}:{folder}/{name}")) as backend:
                found[name] = backend.capabilities
    return found


def table() -> str:
    """The table in Markdown: one column a backend."""
    backends = declared()
    lines = ["| | " + " | ".join(f"`{name}`" for name in backends) + " |", "|---" * (len(backends) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(map(cell, backends.values())) + " |" for title, cell in ROWS]
    return "\n".join(lines) + "\n"


def in_page(text: str, new: str | None = None) -> str:
    """The table that a page holds, or the page with ``new`` in its place."""
    pattern = re.compile(re.escape(BEGIN) + "(.*?)" + re.escape(END), re.DOTALL)
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"the page has no {BEGIN.strip()} … {END}")
    return match[1] if new is None else text[: match.start(1)] + new + text[match.end(1) :]


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
