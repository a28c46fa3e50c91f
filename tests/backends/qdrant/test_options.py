"""Options of both Qdrant backends, and which of them the installed client knows."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from mrl_adapters._qdrant import installed
from mrl_adapters._qdrant.layout import vectors_config
from mrl_adapters._qdrant.options import Options, ServerOptions
from mrl_retrieval.errors import (
    AddressError,
    InvalidInput,
)
from mrl_retrieval.registry import open_backend
from tests.backends.common import DIM, manifest
from tests.backends.nobody import reachable_folder, without_privileges
from tests.backends.qdrant.helpers import BACKENDS, filled

SERVER = "qdrant+http://h:1"


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("qdrant:", {"hnsw": 1}, "no option 'hnsw'; known: api_key"),
        ("qdrant:", {"api_key": "k"}, "api_key= is for a Qdrant server"),
        (SERVER, {"timeout": 0}, "timeout=0"),
        (SERVER, {"coarse_quantization": "ternary"}, "coarse_quantization='ternary'"),
        (SERVER, {"index_fields": {"year": "int"}}, "known types"),
        ("qdrant:", {"lock_timeout": "soon"}, "lock_timeout='soon'"),
        ("qdrant-edge:", {"api_key": "k"}, "no option 'api_key'"),
        ("qdrant-edge:", {"coarse_quantization": "product"}, "use one of 'none', 'scalar'"),
        ("qdrant-edge:", {"coarse_quantization": None}, "coarse_quantization=None"),
        ("qdrant-edge:", {"oversampling": 0.5}, "oversampling=0.5"),
        ("qdrant-edge:", {"hnsw_ef": 0}, "hnsw_ef=0"),
        ("qdrant-edge:", {"on_disk": "yes"}, "on_disk='yes'"),
        ("qdrant-edge:", {"index_fields": {"year": "int"}}, "known types"),
    ],
)
def test_wrong_options(address: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        open_backend(address, **options)


def test_the_address_of_a_server_is_not_for_the_engine_in_process() -> None:
    with pytest.raises(AddressError, match=r"use qdrant\+http://localhost:6333"):
        open_backend("qdrant-edge+http://localhost:6333")


ANYTHING = [12345, 1.5, math.nan, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object()]
WRONG = {
    "lock_timeout": [math.nan, -1, None, True, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object()],
    "on_disk": [*ANYTHING, None, 1],
    "coarse_quantization": [*ANYTHING, True],
    "oversampling": [math.nan, math.inf, 10**30, -1, True, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object()],
    "hnsw_ef": [1.5, math.nan, 10**30, -1, True, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object()],
    "index_fields": [*ANYTHING, None, {1: "float"}, {"a": ["float"]}, {"": "float"}, {"a..b": "float"}, {'"': "float"}],
}
WRONG_AT_A_SERVER = {
    "api_key": [12345, True, b"x", ["a"], {"a": 1}, object(), "with a line break\n", "clé", "\0"],
    "verify": [3, 0, None, 1.5, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object(), Path("nowhere")],
    "prefer_grpc": [*ANYTHING, None, 1, 0],
    **{
        name: [1.5, math.nan, 0, -1, 10**30, True, "x", b"x", ["a"], {"a": 1}, np.array([1, 2]), object()]
        for name in ("grpc_port", "timeout", "shard_number", "replication_factor", "write_consistency_factor")
    },
}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        *[(address, name) for address in ("qdrant:", SERVER, "qdrant-edge:") for name in WRONG],
        *[(SERVER, name) for name in WRONG_AT_A_SERVER],
    ],
)
def test_a_value_of_a_wrong_kind_is_named_at_opening(address: str, name: str) -> None:
    for value in {**WRONG, **WRONG_AT_A_SERVER}[name]:
        with pytest.raises(InvalidInput, match=rf"^{name}(=|\[| has )") as caught:
            open_backend(address, **{name: value})
        assert name != "api_key" or repr(value) not in str(caught.value)


def test_every_option_has_its_wrong_values() -> None:
    assert {*WRONG, *WRONG_AT_A_SERVER} == {f.name for f in fields(ServerOptions)}
    assert set(WRONG) == {f.name for f in fields(Options)}


def test_a_key_of_the_environment_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_QDRANT_API_KEY", "top-secret\n")
    with pytest.raises(InvalidInput, match="MRL_QDRANT_API_KEY.*line break") as caught:
        open_backend(SERVER)
    assert "top-secret" not in str(caught.value)
    open_backend("qdrant:").close()  # where no key is sent, none is looked at


@pytest.mark.parametrize("scheme", BACKENDS)
@pytest.mark.parametrize("seconds", [0, math.inf, 10**30])
def test_any_number_of_seconds_will_do_as_a_lock_timeout(scheme: str, seconds: float, tmp_path: Path) -> None:
    with filled(f"{scheme}:{tmp_path}/kb", 3, lock_timeout=seconds) as backend:
        assert backend.count() == 3


def test_wrong_tls_options() -> None:
    for options, words in (
        ({"verify": "/nowhere/ca.pem"}, "path of a file with CA certificates"),
        ({"verify": False, "prefer_grpc": True}, "gRPC always checks"),
    ):
        with pytest.raises(InvalidInput, match=words):
            open_backend("qdrant+https://h:1", **options)
    with pytest.raises(InvalidInput, match="verify= is for a Qdrant server"):
        open_backend("qdrant:", verify=False)


def test_certificates_that_cannot_be_looked_at() -> None:
    text = "-----BEGIN CERTIFICATE-----\n" + "MIIDdzCCAl+gAwIBAgIE" * 20
    for given in (text, f"{text}\n".replace("g", "/") * 20):
        with pytest.raises(InvalidInput, match="File name too long.*give .* the path of a file") as caught:
            open_backend("qdrant+https://h:1", verify=given)
        assert len(str(caught.value)) < 400
    with reachable_folder() as reachable:
        (reachable / "closed").mkdir(mode=0)
        with (
            without_privileges(),
            pytest.raises(InvalidInput, match=r"closed/ca\.pem'\)?: Permission denied; give") as caught,
        ):
            open_backend("qdrant+https://h:1", verify=reachable / "closed" / "ca.pem")
        assert isinstance(caught.value.__cause__, PermissionError)


def test_a_client_without_turboquant_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(models, "TurboQuantization")
    with pytest.raises(InvalidInput, match="upgrade it"):
        open_backend("qdrant+http://h:1", coarse_quantization="turbo")
    with open_backend("qdrant+http://h:1", coarse_quantization="binary") as backend:
        assert backend.capabilities.quantization == {"none", "scalar", "binary"}
    with open_backend("qdrant:") as local:
        assert local.capabilities.quantization == frozenset()


def test_a_client_without_memory_is_told_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_config(manifest((12,)), on_disk=True, coarse_quantization="scalar")
    assert config["full"]["memory"] == "cold"
    assert installed.known(config["full"]) == config["full"]
    fields = {name: field for name, field in models.VectorParams.model_fields.items() if name != "memory"}
    monkeypatch.setattr(models.VectorParams, "__pydantic_fields__", fields)
    assert installed.known(config["full"]) == {
        "size": DIM, "distance": "Dot", "hnsw_config": {"m": 0, "payload_m": 0}, "on_disk": True,
    }  # fmt: skip
    assert installed.known(config["coarse"])["quantization_config"] == {
        "scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}
    }
