"""The table of docs/models.md, made from the registry of models.

``python -m tests.model_table`` writes it into the page; a test fails where the page says something else.
"""

from __future__ import annotations

import re
from pathlib import Path

from mrl_retrieval.encoders.models import MODELS, ModelRow

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- models: begin -->\n", "<!-- models: end -->"
_HEADER = ("model", "dims", "status", "may be cut to", "context", "pooling", "length 1")


def table() -> str:
    """The table in Markdown: one row a model."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|---" * len(_HEADER) + "|"]
    lines += ["| " + " | ".join((f"`{row.name}`", *cells(row))) + " |" for row in MODELS]
    return "\n".join(lines) + "\n"


def cells(row: ModelRow) -> tuple[str, ...]:
    """Everything but the name."""
    length = {True: "yes", False: "no", None: ""}[row.unit_length]
    if row.shortened_unit_length is False:
        length += ", shortened no"
    ladder = ", ".join(map(str, row.ladder))
    if row.any_dim:
        ladder = f"any of {row.any_dim[0]} to {row.any_dim[1]}"
    context = f"{row.context:,}" if row.context else "" if "context" in row.unverified else "no limit"
    values = {
        "dim": str(row.dim),
        "status": row.status,
        "ladder": ladder,
        "context": context,
        "pooling": row.pooling or "",
        "unit_length": length,
    }
    return tuple(f"{text} ?".strip() if field in row.unverified else text or "–" for field, text in values.items())


def in_page(text: str, new: str | None = None) -> str:
    """The table that a page holds, or the page with ``new`` in its place."""
    match = re.search(re.escape(BEGIN) + "(.*?)" + re.escape(END), text, re.DOTALL)
    if match is None:
        raise ValueError(f"the page has no {BEGIN.strip()} … {END}")
    return match[1] if new is None else text[: match.start(1)] + new + text[match.end(1) :]


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
