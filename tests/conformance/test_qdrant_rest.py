"""The shipped suite on the ``qdrant`` backend through its REST client, against Qdrant's engine behind a small server.

The server is ours (``tests/qdrant_server.py``), the engine is Qdrant's. A real server: ``MRL_QDRANT_URL``, in
``test_qdrant.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from mrl_retrieval.testing import BackendConformance
from tests.qdrant_server import QdrantServer, run_qdrant


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantServer]:
    with run_qdrant() as running:
        yield running


@pytest.mark.slow
class TestQdrantRest(BackendConformance):
    options: ClassVar[dict[str, str]] = {"coarse_quantization": "scalar"}

    @pytest.fixture
    def address(self, server: QdrantServer) -> str:
        for name in list(server.collections):
            server.collections.pop(name).close()
        return f"qdrant+{server.url}"
