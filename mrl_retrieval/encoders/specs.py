"""What a user says of a model, checked: what stands after the colon of an encoder's name, and request parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mrl_retrieval.errors import InvalidInput

__all__ = ["as_json", "model_and_options", "model_or_folder"]


def model_and_options(
    family: str, argument: str, example: str, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The model's name, and the options with those of the argument.

    Raises:
        InvalidInput: there is no model, the part after ``?`` is not ``dimensions=N``, or dimensions are given twice.

    >>> model_and_options("openai", "m?dimensions=64", "m", {"timeout": 5})
    ('m', {'timeout': 5, 'dimensions': 64})
    """
    model, asked, rest = argument.partition("?")
    if not model:
        raise InvalidInput(f"'{family}' needs a model: write '{family}:{example}'")
    if not asked:
        return model, dict(options)
    found = re.fullmatch(r"dimensions=([1-9][0-9]{0,6})", rest)
    if not found or "dimensions" in options:
        raise InvalidInput(
            f"'{family}:{argument}': after the model only '?dimensions=N' may stand, and not also the option "
            "dimensions=; give everything else as options"
        )
    return model, {**options, "dimensions": int(found[1])}


def model_or_folder(family: str, argument: str, example: str, where: str = "the hub") -> str:
    """The argument of a family whose models are names or folders.

    Raises:
        InvalidInput: it is empty.

    >>> model_or_folder("model2vec", "./folder", "minishlab/potion-base-8M")
    './folder'
    """
    if not argument:
        raise InvalidInput(
            f"'{family}' needs a model: write '{family}:{example}' for one of {where}, or '{family}:./folder'"
        )
    return argument


def as_json(value: Any, what: str) -> str:
    """The parameters of a request in JSON, always the same text for the same ones.

    Raises:
        InvalidInput: JSON cannot hold them; ``what`` names them.

    >>> as_json({"b": 1, "a": "x"}, "options")
    '{"a": "x", "b": 1}'
    """
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} is sent as JSON, which cannot hold it: {error}") from error
