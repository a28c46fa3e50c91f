"""Argument types that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["filter_json", "positive"]


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def filter_json(text: str) -> dict[str, Any]:
    """A filter as a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f'not JSON ({error}): {text!r}; write it as in \'{{"year": {{"$gte": 2020}}}}\''
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"year\": 2020}}', got {text!r}")
    return value
