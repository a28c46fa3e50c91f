"""A process that is killed while it rotates: what it wrote is whole, and the next one finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors, rotate
from tests.moving.test_rotating import COUNT, made, vectors

ROOT = Path(__file__).parents[2]

STEPS = ["rotations.save", "Turn.freeze", "bring_over", "Turn.switch", "clear_up"]
"""Where to kill: before the matrix is stored, before the last pass, in it, before the switch, and just after it."""

KILLED = """
import os, sys
from mrl_retrieval import MatryoshkaRetriever, rotate, rotations
from mrl_retrieval.moving import rotating, switching

step, address = sys.argv[1:]

def killed(before):
    def instead(*arguments, **options):
        if before(*arguments, **options):
            os.kill(os.getpid(), 9)
        return original(*arguments, **options)
    place, name = {"rotations": rotations, "Turn": switching.Turn}.get(step.split(".")[0], switching), step.split(".")[-1]
    original = getattr(place, name)
    setattr(place, name, instead)

killed((lambda *a, **options: options.get("to_the_end", True)) if step == "bring_over" else lambda *_, **__: True)
rotate(address)
"""


def killed(step: str, address: str) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, step, address], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize("scheme", ["faiss", "lancedb"])
@pytest.mark.parametrize("step", STEPS)
def test_it_is_finished_by_running_it_again(step: str, scheme: str, tmp_path: Path) -> None:
    address = made(f"{scheme}:{tmp_path}/kb")
    killed(step, address)
    with MatryoshkaRetriever.open(address) as retriever:  # searches go on
        assert retriever.count() == COUNT + 1
        assert retriever.search_by_vector(vectors(COUNT)[7], 1).ids == ["7"]
    report = rotate(address)
    assert report.untouched is (step == "clear_up")
    with MatryoshkaRetriever.open(address) as retriever:
        manifest = retriever.manifest
        assert manifest is not None and manifest.rotation is not None
        assert manifest.origin is not None and manifest.origin["complete"]
        assert retriever.count() == COUNT + 1
        rows = retriever.get(range(COUNT), vectors=True)
        np.testing.assert_allclose([row.vector for row in rows if row], vectors(COUNT), atol=4e-3)
        retriever.index(["new"], ["new"], vectors=vectors(1, seed=9))
        assert len(retriever.backend.collections()) == 2


def test_a_reindexing_that_was_killed_is_left_to_its_owner(tmp_path: Path) -> None:
    address = made(f"faiss:{tmp_path}/kb")
    with MatryoshkaRetriever(None, address) as retriever:
        retriever.delete([str(COUNT)])
    code = (
        "import os, sys; from mrl_retrieval import reindex; from mrl_retrieval.moving import switching; "
        "switching.Turn.switch = lambda _: os.kill(os.getpid(), 9); reindex(sys.argv[1], 'hashing:32')"
    )
    process = subprocess.run([sys.executable, "-c", code, address], cwd=ROOT, capture_output=True)
    assert process.returncode == -signal.SIGKILL
    with (
        MatryoshkaRetriever(None, address, rotation="auto") as retriever,
        pytest.raises(errors.ConflictError, match="being reindexed into"),
    ):
        retriever.index(["new"], ["new"], vectors=vectors(1, seed=9))
