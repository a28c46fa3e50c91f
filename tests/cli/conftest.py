"""Running ``mrl`` in this process, against collections that only this test knows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrl_retrieval.backend import Backend
from mrl_retrieval.cli import main
from mrl_retrieval.registry import open_backend

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MRL_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def uri() -> str:
    """A shared in-memory collection of its own."""
    return f"memory:cli-{next(_NUMBERS)}"


@pytest.fixture
def mrl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``mrl("search", uri, "x")`` gives status, out, err."""

    def run(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(status=status, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def index(mrl: Callable[..., Any], uri: str) -> Callable[..., Any]:
    """Index with the dependency-free encoder; it must succeed."""

    def run(*arguments: object) -> SimpleNamespace:
        done = mrl("index", *arguments, "--to", uri, "--encoder", "hashing")
        assert done.status == 0, done.err
        return done

    return run


@pytest.fixture
def rows(uri: str) -> Callable[[], dict[str, Any]]:
    """What the collection holds: id to row."""

    def read() -> dict[str, Any]:
        backend: Backend
        with open_backend(uri) as backend:
            if backend.read_manifest() is None:
                return {}
            return {row.id: row for batch in backend.scan() for row in batch.rows()}

    return read


def write_jsonl(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``jsonl("a.jsonl", {...}, {...})`` writes a file."""
    yield lambda name, *records: write_jsonl(tmp_path / name, *records)
