"""Suites that hold a backend or an encoder to its contract, shipped so that others can run them on theirs.

::

    from mrl_retrieval.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def address(self, tmp_path):
            return f"mine:{tmp_path}/db"

They need pytest. What a backend declares it cannot do (:class:`~mrl_retrieval.backend.Capabilities`) is skipped,
visibly.
"""

from .backend import BackendConformance
from .encoder import EncoderConformance

__all__ = ["BackendConformance", "EncoderConformance"]
