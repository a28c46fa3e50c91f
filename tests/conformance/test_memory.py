"""The shipped suite on the ``memory`` backend: the oracle of the others."""

from __future__ import annotations

import uuid

import pytest

from mrl_retrieval.testing import BackendConformance


class TestMemory(BackendConformance):
    @pytest.fixture
    def address(self) -> str:
        return f"memory:{uuid.uuid4().hex}"
