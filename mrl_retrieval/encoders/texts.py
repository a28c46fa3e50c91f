"""What is handed to an encoder as texts, checked before any of it is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl_retrieval.errors import InvalidInput

__all__ = ["check_texts", "check_unicode"]


def check_texts(texts: Any, numbers: Sequence[int] | None = None) -> None:
    """Hold ``texts`` to be a sequence of texts.

    Args:
        texts: N texts.
        numbers: what to call them in messages; None: their positions.

    Raises:
        InvalidInput: it is one text, whose letters would be taken for texts; or one of them is no text.
    """
    if isinstance(texts, str):
        raise InvalidInput("a single text was given where a list of texts is expected: write [text]")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            number = i if numbers is None else numbers[i]
            raise InvalidInput(f"texts[{number}] is {type(text).__name__}, expected str")


def check_unicode(text: str, number: int) -> None:
    """Hold a text to what UTF-8, and so a request, can carry.

    Raises:
        InvalidInput: it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"texts[{number}] is no valid Unicode ({error}); repair it, for example with "
            "text.encode('utf-8', 'replace').decode()"
        ) from error
