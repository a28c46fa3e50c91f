"""A collection in memory, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def memory() -> Iterator[Any]:
    from tests.backends.lancedb.helpers import made  # where lancedb is not installed, the tests are skipped before

    with made("lancedb:", index="flat") as backend:
        yield backend
