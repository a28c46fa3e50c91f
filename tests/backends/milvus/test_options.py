"""Options: checked at opening, and passed on to the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_retrieval.errors import BackendError, BackendUnavailable, InvalidInput
from tests.backends.milvus.helpers import Opener


def test_options_are_checked(open_at: Opener) -> None:
    with pytest.raises(InvalidInput, match="index_type.*got colour"):
        open_at(colour="red")
    wrong: list[dict[str, Any]] = [
        {"token": "x"}, {"db_name": "x"}, {"num_shards": 2}, {"tls": {"ca_pem_path": "x"}},
        {"timeout": 0}, {"timeout": "1"}, {"lock_timeout": -1}, {"index_params": 3}, {"index_type": 3},
        {"coarse_quantization": "int4"}, {"coarse_quantization": "sq8", "index_type": "FLAT"},
        {"index_type": "DISKANN"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(InvalidInput, match=next(iter(options))):
            open_at(**options)
    for options in ({"num_shards": 0}, {"replica_number": True}, {"user": "me"}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            open_at("milvus+http://127.0.0.1:1", **options)


def test_options_reach_the_client(open_at: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Client:
        def __init__(self, uri: str, **arguments: Any) -> None:
            seen.append({"uri": uri, **arguments})

        def get_server_version(self, timeout: float) -> str:
            return "2.6.0"

        def close(self) -> None:
            pass

    monkeypatch.setattr("mrl_adapters._milvus.client.MilvusClient", Client)
    monkeypatch.setenv("MILVUS_TOKEN", "from-the-environment")
    for options in (
        {"token": "given", "db_name": "shop", "timeout": 5, "tls": {"ca_pem_path": "/ca"}},
        {"user": "me", "password": "secret"},
        {},
    ):
        one = open_at("milvus+https://host:1234", **options)
        assert not one._connection.lite
    common = {"uri": "https://host:1234", "dedicated": True}
    assert seen == [
        {**common, "timeout": 5, "token": "given", "db_name": "shop", "ca_pem_path": "/ca"},
        {**common, "timeout": 60.0, "token": "me:secret"},
        {**common, "timeout": 60.0, "token": "from-the-environment"},
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("token", 12345), ("token", b"key"), ("password", 12345), ("user", ["me"]), ("db_name", 7), ("db_name", True),
        ("timeout", "x"), ("timeout", True), ("timeout", float("nan")), ("timeout", float("inf")), ("timeout", [1]),
        ("lock_timeout", "10"), ("lock_timeout", float("nan")),
        ("index_type", ["HNSW"]), ("coarse_quantization", ["sq8"]), ("coarse_quantization", 8),
        ("index_params", [16]), ("index_params", {"M": None}), ("index_params", {16: 16}), ("index_params", {"M": "x"}),
        ("search_params", "ef"), ("search_params", {"ef": "wide"}), ("search_params", {"nprobe": 0}),
        ("search_params", {"ef": 2.5}), ("num_shards", "2"), ("replica_number", 1.5),
        ("tls", ["ca.pem"]), ("tls", {"ca_pem_path": 3}), ("tls", {"secure": "yes"}), ("tls", {"timeout": 3}),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type(open_at: Opener, option: str, value: Any) -> None:
    others = {"user": {"password": "x"}, "password": {"user": "x"}}.get(option, {})
    with pytest.raises(InvalidInput, match=option) as caught:
        open_at("milvus+http://127.0.0.1:1", **{option: value}, **others)
    assert option not in ("token", "password") or "12345" not in str(caught.value)


def test_a_password_belongs_to_a_user(open_at: Opener) -> None:
    with pytest.raises(InvalidInput, match="without user="):
        open_at("milvus+http://127.0.0.1:1", password="secret")


def test_certificates_that_are_not_there(open_at: Opener, tmp_path: Path) -> None:
    one = open_at("milvus+https://127.0.0.1:1", tls={"server_pem_path": f"{tmp_path}/none.pem"}, timeout=1)
    with pytest.raises(BackendError, match=r"none\.pem.*tls=") as caught:
        one.read_manifest()
    assert not isinstance(caught.value, BackendUnavailable)
