"""A backend of somebody else's package comes in by its entry point, and the shipped suite holds it to the contract."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package, installed into a folder of its own, offline."""
    place = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(ROOT / "tests" / "toy_backend", place / "source")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--target", str(place / "site"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return place


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed / "site")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )


def test_it_is_found_by_its_scheme(installed: Path) -> None:
    found = run(installed, "-c", "import mrl_retrieval; print(mrl_retrieval.backend_names())")
    assert "'shelf'" in found.stdout, found.stderr
    text = installed / "notes.txt"
    text.write_text("git revert undoes a commit", encoding="utf-8")
    assert run(installed, "-m", "mrl_retrieval.cli", "index", str(text), "--to", "shelf:kb", "--encoder", "hashing").returncode == 0  # fmt: skip
    hits = run(installed, "-m", "mrl_retrieval.cli", "search", "shelf:kb", "undo a commit", "--json")
    assert "git revert" in hits.stdout, hits.stderr


def test_it_passes_the_suite(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "source/conformance.py")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "failed" not in done.stdout
