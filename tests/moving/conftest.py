"""Places for collections that are reindexed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.moving.sixty import made
from tests.places import SCHEMES, Place, drop_all

NUMBERS = itertools.count()


@pytest.fixture(params=SCHEMES)
def place(
    request: pytest.FixtureRequest, new_place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An address that needs no options: those of PostgreSQL come from its environment."""
    address, options = new_place(request.param)
    if request.param == "pgvector":
        monkeypatch.setenv("PGUSER", options["user"])
        monkeypatch.setenv("PGPASSWORD", options["password"])
    yield address
    drop_all(address)


@pytest.fixture
def memory() -> str:
    return made(f"memory:reindex-{next(NUMBERS)}")
