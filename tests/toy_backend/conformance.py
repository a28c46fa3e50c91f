"""The shipped suite on the toy: what an outsider would write. In a package of its own it would be named test_*.py."""

import pytest

from mrl_retrieval.testing import BackendConformance


class TestShelf(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path):
        return f"shelf:{tmp_path}/kb"
