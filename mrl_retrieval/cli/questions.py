"""``--queries FILE`` of several commands: questions like those that will be asked, one a line."""

from __future__ import annotations

from pathlib import Path

from mrl_retrieval.errors import InvalidInput

__all__ = ["questions"]


def questions(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        InvalidInput: it cannot be read, or there are none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text in UTF-8 ({error}): pass a file with one question a line") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InvalidInput(f"{path} has no line that is not empty, expected one question a line")
    return found
