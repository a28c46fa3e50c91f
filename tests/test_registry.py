import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mrl_retrieval import MatryoshkaRetriever, MissingExtra, load_encoder, open_backend, registry
from mrl_retrieval.errors import InvalidInput, PluginError, UnknownNameError


def test_options_of_a_wrong_kind_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fine_dtype"):
        open_backend(f"faiss:{tmp_path}/kb", fine_dtype=["a"])


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown backend 'fais'; known backends: .*chroma.*faiss.*memory.*qdrant"
    ):
        open_backend("fais:./kb")


def test_an_unknown_encoder_lists_the_known_ones_and_a_way_out() -> None:
    with pytest.raises(UnknownNameError, match="known encoders: .*hashing.*'sentence-transformers:all-MiniLM-L6-v2'"):
        MatryoshkaRetriever(encoder="all-MiniLM-L6-v2")
    with pytest.raises(LookupError):
        load_encoder("")


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("faiss", "faiss", "faiss"), ("chroma", "chromadb", "chroma"), ("qdrant", "qdrant_client", "qdrant")],
)
def test_a_missing_extra_names_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, extra: str
) -> None:
    for name in [n for n in sys.modules if n.startswith("mrl_adapters.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'mrl-retrieval\[{extra}\]'") as caught:
        open_backend(f"{scheme}:")
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("name", ["wordllama", "sentence-transformers"])
def test_a_missing_encoder_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = name.replace("-", "_")
    monkeypatch.delitem(sys.modules, f"mrl_retrieval.encoders.{module}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'mrl-retrieval\[{name}\]'"):
        load_encoder(f"{name}:x" if name == "sentence-transformers" else name)


def test_a_broken_plugin_is_told_apart_from_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_module_here:Backend", registry.BACKENDS)
    monkeypatch.setattr(registry, "_found", lambda group: {"broken": broken})
    with pytest.raises(PluginError, match="no_such_module_here:Backend, which fails to load"):
        open_backend("broken:")
