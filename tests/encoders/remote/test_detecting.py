"""What is known of an encoder whose model is not in the table: its card, whatever its model's name looks like."""

import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.models import detect
from mrl_retrieval.encoders.ollama import OllamaEncoder
from mrl_retrieval.encoders.openai import OpenAIEncoder


@pytest.mark.parametrize("name", ["m", "/models/e5", "./e5", "~/e5", "tests", "my/model"])
def test_a_served_models_name_is_no_path_here(openai, name):
    """vLLM serves a model under its path on the server, unless it is told another name."""
    encoder = OpenAIEncoder(name, base_url=f"{openai().url}/v1", prompts={"query": "q: "})
    row = detect(encoder)
    assert (row.name, row.dim, row.status, row.query_prompt) == (name, 256, "unknown", "q: ")
    with MatryoshkaRetriever(encoder=encoder, backend="memory:", coarse_dims=256, strict=True) as retriever:
        retriever.index(["a cat", "a dog"])  # nothing is cut, so that there is nothing to object to
        assert retriever.search("cat", 1)[0].document == "a cat"


def test_a_model_of_ollama_and_one_behind_the_cache(ollama, openai, tmp_path):
    assert detect(OllamaEncoder("hashing", host=ollama().url)).dim == 256
    table = OpenAIEncoder("BAAI/bge-m3", base_url=f"{openai().url}/v1")
    assert detect(CachedEncoder(table, tmp_path / "c.sqlite")).name == "BAAI/bge-m3"
    assert detect(CachedEncoder(HashingEncoder(64), tmp_path / "c.sqlite")) == detect(HashingEncoder(64))
