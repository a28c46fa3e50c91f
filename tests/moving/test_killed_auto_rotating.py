"""A process that is killed within an automatic rotating does not leave a collection that refuses writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl_retrieval import MatryoshkaRetriever
from tests.moving.test_killed_rotating import STEPS, killed
from tests.moving.test_rotating import COUNT, made, vectors


@pytest.mark.parametrize("step", STEPS)
def test_with_auto_the_next_write_finishes_it(step: str, tmp_path: Path) -> None:
    """Nobody asked for the rotating, so nobody knows that it has to be run again."""
    address = made(f"faiss:{tmp_path}/kb")
    killed(step, address)
    with MatryoshkaRetriever(None, address, rotation="auto") as retriever:
        retriever.index(["new"], ["new"], vectors=vectors(1, seed=9))
        assert retriever.count() == COUNT + 2
        assert retriever.search_by_vector(vectors(1, seed=9)[0], 1).ids == ["new"]
        assert retriever.manifest is not None and retriever.manifest.rotation is not None
