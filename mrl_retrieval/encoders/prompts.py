"""The texts that a user puts in front of queries and documents, checked."""

from __future__ import annotations

from collections.abc import Mapping

from mrl_retrieval.errors import InvalidInput

__all__ = ["TASKS", "checked_prompts"]

TASKS = ("query", "document")


def checked_prompts(prompts: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of ``{"query": …, "document": …}``; either may be missing.

    Raises:
        InvalidInput: another key, or a value that is no text.

    >>> checked_prompts({"query": "query: "})
    {'query': 'query: '}
    """
    checked = dict(prompts or {})
    if not all(key in TASKS and isinstance(text, str) for key, text in checked.items()):
        raise InvalidInput(f"prompts are texts under the keys 'query' and 'document', got {checked!r}")
    return checked
