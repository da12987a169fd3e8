"""OpenTelemetry traces, where OTEL_EXPORTER_OTLP_ENDPOINT is set: from a registration to each attempt of its events.

A task ends long after the request that registered it, perhaps in another process. The W3C `traceparent` that is stored
with the watch connects the two; a caller may have sent it. Where tracing is off, nothing of it is imported or stored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from relay import __version__
from relay.errors import ConfigError
from relay.model.times import Millis

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

SpanKind = Literal["server", "client"]
Attributes = Mapping[str, str | int | None]

EXPORT_TIMEOUT = 5.0
"""Seconds that the collector may take to receive spans. An ending process waits no longer."""


class Span:
    """A piece of work. This one is not traced.

    Attributes:
        traceparent: names the span as the parent of others; None where tracing is off.
    """

    traceparent: str | None = None

    def note(self, attributes: Attributes, failed: str | None = None) -> None:
        """Add attributes, and the kind of failure if the work failed."""


class _RecordedSpan(Span):
    """A span that goes to the collector."""

    def __init__(self, span: OtelSpan) -> None:
        context = span.get_span_context()
        self._span = span
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, attributes: Attributes, failed: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if failed is not None:
            self._span.set_attribute("error.type", failed)
            self._span.set_status(Status(StatusCode.ERROR))


_UNTRACED = Span()


class Tracing:
    """Makes spans. This one traces nothing, because no collector is configured."""

    on = False

    @contextlib.contextmanager
    def span(self, name: str, kind: SpanKind, parent: str | None, since: Millis | None = None) -> Iterator[Span]:
        """Trace the work in this context.

        Args:
            parent: the `traceparent` of the span before it. Without a valid one a new trace begins.
            since: when the work began, if not now.
        """
        del name, kind, parent, since
        yield _UNTRACED

    def close(self) -> None:
        """Send the spans that are not sent yet."""


class _OtlpTracing(Tracing):
    """Sends spans to a collector."""

    on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("relay", __version__)

    @contextlib.contextmanager
    def span(self, name: str, kind: SpanKind, parent: str | None, since: Millis | None = None) -> Iterator[Span]:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent or ""}, Context())
        started = None if since is None else since * 1_000_000
        span = self._tracer.start_span(name, context, SpanKind[kind.upper()], start_time=started)
        recorded = _RecordedSpan(span)
        try:
            yield recorded
        except Exception as error:
            recorded.note({}, type(error).__name__)  # without its message, which may repeat what a caller sent
            raise
        finally:
            span.end()

    def close(self) -> None:
        self._provider.shutdown()


def open_tracing(endpoint: str | None) -> Tracing:
    """Return what traces to the collector at `endpoint` by OTLP over HTTP. Without an endpoint it traces nothing.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: pip install 'relay-bridge[otel]'"
        ) from None
    attributes = OTELResourceDetector().detect().attributes  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    resource = Resource.create({"service.name": "relay", "service.version": __version__, **attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    url = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT)))
    return _OtlpTracing(provider)
