"""``kill -9`` of a writer on backends other than the embedded store, in short; ``make crash`` is the long form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash import run
from tests.places import Place


@pytest.mark.parametrize(
    "scheme",
    [
        "chroma",
        *(
            pytest.param(scheme, marks=pytest.mark.slow)
            for scheme in ("qdrant", "qdrant-edge", "pgvector", "milvus", "lancedb")
        ),
    ],
)
def test_nothing_acknowledged_is_lost(new_place: Callable[[str], Place], scheme: str) -> None:
    address, options = new_place(scheme)
    for log in run(address, 3, seed=11, options=options):
        assert log.done


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_on_a_chroma_server(chroma_server: str) -> None:
    for log in run(f"chroma+{chroma_server}?collection=crash", 3, seed=12):
        assert log.done
