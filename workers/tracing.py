"""Tracing: spans of starts, runs and activities, sent to an OpenTelemetry collector where that is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.client import Interceptor

from workflows.errors import RefusedError

EXPORT_SECONDS = 3
"""How long a collector may take to take spans, tries included: a worker that stops waits for it."""


@contextmanager
def tracing(address: str | None) -> Iterator[list[Interceptor]]:
    """Send spans to a collector while the body runs.

    Args:
        address: The collector's OTLP/HTTP address, such as `http://127.0.0.1:4318`; null for no tracing.

    Yields:
        The client's interceptors, which its workers use too. Spans name workflow ids, and so users.

    Raises:
        RefusedError: The optional packages are not installed.
    """
    if address is None:
        yield []
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from temporalio.contrib.opentelemetry import TracingInterceptor
    except ImportError as error:
        raise RefusedError(
            f"JOURNEYS_TRACING is {address!r}, and a package that it needs is not installed: {error}",
            code="missing-package",
            hint="install the extra: pip install 'targeted-push[tracing]', or unset JOURNEYS_TRACING",
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "journeys-worker"}))
    # The path is the protocol's own (OpenTelemetry's specification "OTLP/HTTP").
    exporter = OTLPSpanExporter(endpoint=f"{address.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield [TracingInterceptor(provider.get_tracer("journeys"))]
    finally:
        provider.shutdown()  # sends what is waiting
