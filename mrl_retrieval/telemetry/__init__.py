"""Spans and metrics of searches by OpenTelemetry (extra ``otel``); nothing leaves unless an exporter is configured.

``MatryoshkaRetriever(..., telemetry=True)`` uses the providers that the program has set globally,
``telemetry=Telemetry(...)`` others. What is recorded are numbers, settings, the names of collections, backends and
stages, and the fields and operators of filters: never texts, ids, vectors or values of filters, nor the messages of
errors, which may hold such.
"""

from .recording import Telemetry, as_telemetry

__all__ = ["Telemetry", "as_telemetry"]
