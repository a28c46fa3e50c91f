"""Conformance: attachments are kept beside the rows, exactly, and are never rows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from ..attachments import LONGEST_NAME, MOST_BYTES
from ..backend import Capabilities
from ..errors import CollectionNotFound, InvalidInput, NotSupported
from ..retriever import MatryoshkaRetriever
from .base import SuiteBase, clustered

Opener = Callable[..., MatryoshkaRetriever]


def noise(size: int, seed: int) -> bytes:
    """Bytes that nothing can compress."""
    return np.random.default_rng(seed).integers(256, size=size, dtype=np.uint8).tobytes()


def needs_attachments(capabilities: Capabilities) -> None:
    """Skip a test where the backend keeps none."""
    if not capabilities.attachments:
        pytest.skip("the backend declares that it keeps no attachments")


class AttachmentSuite(SuiteBase):
    """Attachments."""

    def test_attachments_are_refused_where_none_are_kept(
        self, open_retriever: Opener, capabilities: Capabilities
    ) -> None:
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        if capabilities.attachments:
            assert retriever.backend.read_attachment("rotation") is None
            return
        with pytest.raises(NotSupported, match="no attachments"):
            retriever.backend.write_attachment("rotation", b"1")
        with pytest.raises(NotSupported, match="no attachments"):
            retriever.backend.read_attachment("rotation")

    @pytest.mark.parametrize("size", [0, 1, 100_000, 5 * 2**20])
    def test_attachments_come_back_exactly(self, open_retriever: Opener, capabilities: Capabilities, size: int) -> None:
        needs_attachments(capabilities)
        content, shorter = noise(size, 1), noise(size // 3, 2)
        first = open_retriever()
        first.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        backend = first.backend
        backend.write_attachment("rotation", content)
        assert backend.read_attachment("rotation") == content
        if capabilities.persistent:
            if capabilities.exclusive_open:
                first.close()
            backend = open_retriever().backend
            assert backend.read_attachment("rotation") == content
        backend.write_attachment("rotation", shorter)
        assert backend.read_attachment("rotation") == shorter
        if capabilities.persistent and not capabilities.exclusive_open:
            assert first.backend.read_attachment("rotation") == shorter

    def test_attachments_are_no_rows(self, open_retriever: Opener, capabilities: Capabilities) -> None:
        needs_attachments(capabilities)
        retriever = open_retriever(coarse_dims=4)
        vectors = clustered(20, 8)
        retriever.index([f"d{i}" for i in range(20)], range(20), [{"i": i} for i in range(20)], vectors)
        retriever.backend.write_attachment("rotation", noise(70_000, 3))
        retriever.backend.write_attachment("Other-2", b"two")
        assert retriever.backend.read_attachment("rotation") == noise(70_000, 3)
        assert retriever.backend.read_attachment("Other-2") == b"two"
        assert retriever.backend.read_attachment("other-2") is None
        assert retriever.backend.collections() == [retriever.backend.address.collection]
        assert retriever.count() == 20 and retriever.count({"i": {"$ne": 5}}) == 19
        assert retriever.count({"i": {"$exists": False}}) == 0
        stats = retriever.backend.stats()
        assert (stats.rows, stats.vectors) == (20, 20)
        scanned = [id for batch in retriever.backend.scan() for id in batch.ids]
        assert sorted(scanned) == sorted(map(str, range(20)))
        assert retriever.get(["rotation", "Other-2"]) == [None, None]
        for query in vectors[:3]:
            for found in (retriever.search_by_vector(query, 50), retriever.search_by_vector(query, 50, exact=True)):
                assert sorted(found.ids) == sorted(map(str, range(20)))
        assert retriever.delete(["rotation"]) == 0
        retriever.delete([str(i) for i in range(20)])
        retriever.backend.repair()
        assert retriever.count() == 0
        assert retriever.backend.read_attachment("rotation") == noise(70_000, 3)

    def test_attachments_go_with_the_collection(self, open_retriever: Opener, capabilities: Capabilities) -> None:
        needs_attachments(capabilities)
        retriever = open_retriever()
        backend = retriever.backend
        assert backend.read_attachment("rotation") is None
        with pytest.raises(CollectionNotFound):
            backend.write_attachment("rotation", b"1")
        assert backend.collections() == []
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        assert backend.read_attachment("rotation") is None
        backend.write_attachment("rotation", noise(100_000, 4))
        backend.drop()
        assert backend.read_attachment("rotation") is None
        with pytest.raises(CollectionNotFound):
            backend.write_attachment("rotation", b"1")
        again = MatryoshkaRetriever(None, backend)
        again.index(["b"], ["b"], vectors=[[1.0, 2.0, 3.0]])
        assert backend.read_attachment("rotation") is None
        backend.write_attachment("rotation", b"new")
        assert backend.read_attachment("rotation") == b"new" and again.count() == 1

    def test_attachments_with_wrong_names_or_sizes(self, open_retriever: Opener, capabilities: Capabilities) -> None:
        needs_attachments(capabilities)
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        backend = retriever.backend
        for name in ("", "a b", "../a", "a.b", "ä", "a_b", "a\n", "x" * (LONGEST_NAME + 1)):
            with pytest.raises(InvalidInput, match="attachment name"):
                backend.write_attachment(name, b"1")
            with pytest.raises(InvalidInput, match="attachment name"):
                backend.read_attachment(name)
        with pytest.raises(InvalidInput, match=f"{MOST_BYTES:,}"):
            backend.write_attachment("big", bytes(MOST_BYTES + 1))
        with pytest.raises(InvalidInput, match="expected bytes"):
            backend.write_attachment("text", "no bytes")  # type: ignore[arg-type]
        assert backend.read_attachment("big") is None and backend.read_attachment("text") is None
        longest = "x" * LONGEST_NAME
        backend.write_attachment(longest, b"1")
        assert backend.read_attachment(longest) == b"1"

    def test_attachments_are_read_whole_while_they_are_replaced(
        self, open_retriever: Opener, capabilities: Capabilities
    ) -> None:
        needs_attachments(capabilities)
        writer = open_retriever()
        writer.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        apart = capabilities.persistent and not capabilities.exclusive_open
        reader = open_retriever().backend if apart else writer.backend
        versions = [noise(size, size) for size in (300_000, 150_000)]
        writer.backend.write_attachment("rotation", versions[0])
        seen: list[bytes | Exception | None] = []
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                try:
                    seen.append(reader.read_attachment("rotation"))
                except Exception as error:  # noqa: BLE001 - looked at below
                    seen.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for i in range(1, 9):
                writer.backend.write_attachment("rotation", versions[i % 2])
        finally:
            over.set()
            thread.join()
        assert seen and all(one in versions for one in seen), [one for one in seen if one not in versions][:3]
        assert reader.read_attachment("rotation") == versions[0]
