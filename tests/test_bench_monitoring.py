"""The benchmark of watching runs, on tiny data; no figure is judged."""

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
from benchmarks import monitoring
from tests.monitoring.common import vectors


def test_every_way_is_measured(tmp_path):
    printed = monitoring.compare(tmp_path, vectors(300), list(vectors(10)), 1, 0.05)
    for words in (
        "nothing, once more",
        "monitor, rate 0.01",
        "telemetry, spans and metrics",
        "of the time",
        "is drawn",
    ):
        assert words in printed
