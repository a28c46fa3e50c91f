"""What the options of a command line mean."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from mrl_retrieval.cli.arguments import backend_option


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lock_timeout=5", "lock_timeout", 5),
        ("lock_timeout=0.5", "lock_timeout", 0.5),
        ("verify=true", "verify", True),
        ('index_fields={"year": "integer"}', "index_fields", {"year": "integer"}),
        ("fine_dtype=float16", "fine_dtype", "float16"),
        ("schema=", "schema", ""),
        ("dsn=a=b", "dsn", "a=b"),
        ("password=0123", "password", "0123"),
        ("password=1e9", "password", "1e9"),
        ("api_key=12345", "api_key", "12345"),
        ("api_key=true", "api_key", "true"),
        ('token="12345"', "token", "12345"),
        ('schema="5"', "schema", "5"),
    ],
)
def test_backend_option(text: str, name: str, value: Any) -> None:
    found = backend_option(text)
    assert found == (name, value) and type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["", "name", "=5", "two words=1", "a-b=1"])
def test_what_is_no_option(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
        backend_option(text)
