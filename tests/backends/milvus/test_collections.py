"""The Milvus collection behind one of ours: its name, how it is made, whose it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus.collections import _escaped, _unescaped
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.errors import BackendError, BackendUnavailable, CollectionNotFound, ConflictError, NotACollection
from mrl_retrieval.manifest import Canaries
from mrl_retrieval.matryoshka import normalize
from tests.backends.common import DIM, batch_of
from tests.backends.milvus.helpers import MANIFEST, Opener, client_of, rows


def test_a_collection_dropped_by_another(backend: MilvusBackend, open_at: Opener) -> None:
    backend.upsert(batch_of(rows(2)))
    other = open_at()
    assert other.count() == 2
    backend.drop()
    for _ in range(2):
        with pytest.raises(CollectionNotFound, match="there"):
            other.count()
    backend.write_manifest(replace(MANIFEST, fine_dims=16), None)
    assert other.count() == 0 and other.manifest.fine_dims == 16


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_names_are_escaped_without_loss(one: str, other: str) -> None:
    assert re.fullmatch(r"mrl_[A-Za-z0-9_]+", _escaped(one)) and len(_escaped(one)) < 255
    assert _unescaped(_escaped(one)) == one and (_escaped(one) == _escaped(other)) == (one == other)


def test_collections_of_others_are_left_alone(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    client = client_of(backend)
    client.create_collection("theirs", dimension=4)
    client.create_collection("mrl_mine", dimension=4)
    assert backend.collections() == ["default"]
    mine = open_at(f"milvus:{tmp_path}/kb?collection=mine")
    for call in (mine.read_manifest, mine.drop, lambda: mine.write_manifest(MANIFEST, None)):
        with pytest.raises(NotACollection, match="mrl_mine"):
            call()
    assert sorted(client.list_collections()) == ["mrl_default", "mrl_mine", "theirs"]


def test_of_many_who_make_a_collection_one_wins(open_at: Opener) -> None:
    backends = [open_at() for _ in range(8)]
    manifests = [replace(MANIFEST, collection_id=str(i)) for i in range(8)]

    def make(i: int) -> bool:
        try:
            backends[i].write_manifest(manifests[i], None)
        except ConflictError:
            return False
        return True

    with futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(make, range(8)))
    assert sum(won) == 1 and backends[0].read_manifest() == manifests[won.index(True)]


def test_a_creation_that_was_interrupted_is_finished(open_at: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_at(index_type="HNSW")
    made = one._collections._schema(MANIFEST)
    client_of(one).create_collection(
        "mrl_default",
        schema=made,
        properties={"mrl_manifest": MANIFEST.dumps(), "mrl_index": '{"index_type": "HNSW", "params": {"M": 8}}'},
    )
    assert one.read_manifest() == MANIFEST
    assert sorted(client_of(one).list_indexes("mrl_default")) == ["coarse", "full"]
    one.upsert(batch_of(rows(3)))
    assert one.count() == 3


def test_a_creation_that_fails_leaves_nothing(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.drop()
    call = backend._connection.call

    def refuse(doing: str, method: str, **arguments: Any) -> Any:
        if method == "create_index":
            raise BackendError("out of memory")
        return call(doing, method, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend._connection, "call", refuse)
        with pytest.raises(BackendError, match="out of memory"):
            client_of(backend)
            backend.write_manifest(MANIFEST, None)
    assert backend.read_manifest() is None
    backend.write_manifest(MANIFEST, None)
    assert backend.collections() == ["default"]


def while_described(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> None:
    """Do something, as another thread would, once the collection was described and before the answer is here."""
    call = backend._connection.call

    def interrupted(doing: str, method: str, **arguments: Any) -> Any:
        answer = call(doing, method, **arguments)
        if method == "describe_collection":
            monkeypatch.setattr(backend._connection, "call", call)
            do()
        return answer

    monkeypatch.setattr(backend._connection, "call", interrupted)


def test_reading_the_manifest_takes_it_from_nobody(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads go on with what is known, where each would look at the indexes again, and so count all rows."""
    backend.upsert(batch_of(rows(3)))
    known = backend._collections.table()
    seen: list[Any] = []
    while_described(backend, monkeypatch, lambda: seen.append(backend._collections.table()))
    assert backend.read_manifest() == MANIFEST
    assert len(seen) == 1 and seen[0] is known is not None


def test_an_older_look_replaces_no_newer_one(
    backend: MilvusBackend, open_at: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replace(MANIFEST, plan={"k": 1}), replace(MANIFEST, plan={"k": 2})
    while_described(backend, monkeypatch, lambda: backend.write_manifest(first, MANIFEST))
    assert backend.read_manifest() == MANIFEST  # as it was described
    assert backend.manifest == first

    def changed_by_another() -> None:
        open_at().write_manifest(second, first)
        assert backend.read_manifest() == second

    while_described(backend, monkeypatch, changed_by_another)
    assert backend.read_manifest() == first
    assert backend.manifest == second
    while_described(backend, monkeypatch, backend.drop)
    assert backend.read_manifest() == second
    with pytest.raises(CollectionNotFound, match="index something first"):
        backend.count()


def test_a_collection_that_is_forgotten_while_it_is_looked_at(
    backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend._collections.forget()
    while_described(backend, monkeypatch, backend._collections.forget)
    assert backend.count() == 0


def test_after_a_look_that_failed_nothing_is_known(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(backend._connection, "exists", lambda: False)
        assert backend.read_manifest() is None
        with pytest.raises(CollectionNotFound):
            backend.count()
    assert backend.read_manifest() == MANIFEST
    call = backend._connection.call

    def unavailable(doing: str, method: str, **arguments: Any) -> Any:
        if method == "describe_collection":
            raise BackendUnavailable("down")
        return call(doing, method, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend._connection, "call", unavailable)
        for use in (backend.read_manifest, backend.count):
            with pytest.raises(BackendUnavailable):
                use()
    assert backend.count() == 0


def test_a_large_manifest(backend: MilvusBackend, open_at: Opener) -> None:
    many = normalize(np.random.default_rng(0).normal(size=(6, DIM)))
    large = replace(MANIFEST, canaries=Canaries(many, many), plan={"note": "ünï\x00\"'\\\n" * 20_000})
    backend.write_manifest(large, MANIFEST)
    backend.close()
    read = open_at().read_manifest()
    assert read is not None and read.checksum == large.checksum
