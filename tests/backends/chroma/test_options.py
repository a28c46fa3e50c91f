"""Options: known, of the right type, held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters._chroma.client import Connection
from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    AddressError,
    CollectionMismatchError,
    InvalidInput,
)
from mrl_retrieval.registry import open_backend
from tests.backends.chroma.helpers import made
from tests.servers import free_port


def test_unknown_options() -> None:
    with pytest.raises(InvalidInput, match="takes .*ef_search.*; got ef_serach"):
        open_backend("chroma:", ef_serach=3)
    with pytest.raises(AddressError, match="api_key"):
        open_backend("chroma:", api_key="secret")


def test_graph_settings_are_kept_and_held_to(tmp_path: Path) -> None:
    with made(f"chroma:{tmp_path}", ef_search=77) as backend:
        assert backend.stats().details["ef_search"] == 77
    with open_backend(f"chroma:{tmp_path}", ef_search=77) as backend:
        assert backend.read_manifest() is not None
    with open_backend(f"chroma:{tmp_path}", ef_search=78) as backend, pytest.raises(CollectionMismatchError):
        backend.read_manifest()
    with pytest.raises(InvalidInput, match="ef_search is 0"):
        open_backend(f"chroma:{tmp_path}", ef_search=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key": 12345}, "api_key is of type int; give a string"),
        ({"api_key": b"key"}, "api_key is of type bytes; give a string"),
        ({"api_key": "from a file\n"}, "api_key has a character that cannot be sent"),
        ({"tenant": 7}, "tenant is of type int; give a string"),
        ({"tenant": ["a"]}, "tenant is of type list; give a string"),
        ({"database": True}, "database is of type bool; give a string"),
        ({"headers": "x"}, "headers is of type str; give a dict"),
        ({"headers": [("a", "b")]}, "headers is of type list; give a dict"),
        ({"headers": {1: "x"}}, "headers has the name 1, of type int; give a string"),
        ({"headers": {"X-Number": 1}}, "headers.'X-Number'. is of type int; give a string"),
        ({"headers": {"X-None": None}}, "headers.'X-None'. is None; give a string"),
        ({"headers": {"X-Lines": "a\r\nb"}}, "headers.'X-Lines'. has a character that cannot be sent"),
        ({"headers": {"X-Line\n": "a"}}, "headers has a character that cannot be sent"),
        ({"headers": {"Ünï": "a"}}, "headers has a character that cannot be sent"),
        ({"timeout": "5"}, "timeout is '5', of type str; give seconds as a number above 0"),
        ({"timeout": True}, "timeout is True, of type bool; give seconds"),
        ({"timeout": 0}, "timeout is 0, of type int; give seconds"),
        ({"timeout": float("nan")}, "timeout is nan, of type float; give seconds"),
        ({"ef_search": "400"}, "ef_search is '400'; give a whole number"),
        ({"ef_search": 1.5}, "ef_search is 1.5; give a whole number"),
        ({"ef_construction": True}, "ef_construction is True; give a whole number"),
        ({"max_neighbors": 2**70}, f"max_neighbors is {2**70}; give a whole number"),
    ],
)
def test_a_wrong_type_is_found_at_opening(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        open_backend(f"chroma+http://127.0.0.1:{free_port()}", **options)
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "tenant", "database"])
def test_what_the_environment_gives_is_checked_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HTTP cannot send, its library would show."""
    address = f"chroma+http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(f"CHROMA_{name.upper()}", "s3cret\n")
    with pytest.raises(InvalidInput, match=f"CHROMA_{name.upper()} has a character that cannot be sent") as caught:
        open_backend(address)
    assert "s3cret" not in str(caught.value)
    open_backend(address, **{name: "given"}).close()
    open_backend("chroma:").close()


def test_unknown_options_of_a_connection(tmp_path: Path) -> None:
    """An import has a connection and no graph."""
    for name in ("ef_search", "apikey"):
        with pytest.raises(InvalidInput, match=f"takes api_key, .*timeout; got {name}"):
            Connection(Address.parse(f"chroma:{tmp_path}"), **{name: 5})


@pytest.mark.parametrize("timeout", [1, 0.5, 1e300, float("inf"), 10**30])
def test_any_number_of_seconds_will_do(chroma_server: str, timeout: float) -> None:
    with open_backend(f"chroma+{chroma_server}?collection=none", timeout=timeout) as backend:
        assert backend.read_manifest() is None


def test_an_option_that_is_none_is_not_given(chroma_server: str) -> None:
    options = dict.fromkeys(ChromaBackend.options)
    with open_backend(f"chroma+{chroma_server}?collection=none", **options) as backend:
        assert backend.read_manifest() is None
