"""Traces for whoever collects OpenTelemetry: one from a registration to every attempt to tell its end.

On where OTEL_EXPORTER_OTLP_ENDPOINT is set. Everywhere else nothing of it is imported, made or stored. A task ends long
after the request that registered it, in another process perhaps: what belongs together is told by the W3C `traceparent`
that is stored with the watch, and that a caller may have begun.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from relay import __version__
from relay.errors import ConfigError
from relay.model import Millis

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

Kind = Literal["server", "client"]
Attributes = Mapping[str, str | int | None]

EXPORT_TIMEOUT = 5.0
"""Seconds that the collector may take for spans: a process that ends waits no longer for it."""


class Span:
    """A piece of work that is traced, or not.

    Attributes:
        traceparent: how what follows from it names it; None where nothing is traced.
    """

    traceparent: str | None = None

    def note(self, attributes: Attributes, failed: str | None = None) -> None:
        """Adds what is known now, and why it failed if it did."""


class _Recorded(Span):
    def __init__(self, span: OtelSpan) -> None:
        self._span, at = span, span.get_span_context()
        self.traceparent = f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"

    def note(self, attributes: Attributes, failed: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if failed is not None:
            self._span.set_attribute("error.type", failed)
            self._span.set_status(Status(StatusCode.ERROR))


_UNTRACED = Span()


class Tracing:
    """Traces nothing."""

    on = False

    @contextlib.contextmanager
    def span(self, name: str, kind: Kind, parent: str | None, since: Millis | None = None) -> Iterator[Span]:
        """Traces what is inside.

        Args:
            parent: the `traceparent` of what it follows from; another trace begins where there is none, or no sane one.
            since: when it began, if not now.
        """
        del name, kind, parent, since
        yield _UNTRACED

    def close(self) -> None:
        """Sends what has not been sent."""


class _Exporting(Tracing):
    on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._provider, self._tracer = provider, provider.get_tracer("relay", __version__)

    @contextlib.contextmanager
    def span(self, name: str, kind: Kind, parent: str | None, since: Millis | None = None) -> Iterator[Span]:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        before = TraceContextTextMapPropagator().extract({"traceparent": parent or ""}, Context())
        started = None if since is None else since * 1_000_000
        span = self._tracer.start_span(name, before, SpanKind[kind.upper()], start_time=started)
        recorded = _Recorded(span)
        try:
            yield recorded
        except Exception as error:
            recorded.note({}, type(error).__name__)  # not its words, which may hold what a caller said
            raise
        finally:
            span.end()

    def close(self) -> None:
        self._provider.shutdown()


def open_tracing(endpoint: str | None) -> Tracing:
    """Traces to the collector at `endpoint` (OTLP over HTTP), or to nowhere.

    Raises:
        ConfigError: the extra is not installed.
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
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but what traces is not installed: pip install 'relay-bridge[otel]'"
        ) from None
    named = OTELResourceDetector().detect().attributes  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    resource = Resource.create({"service.name": "relay", "service.version": __version__, **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    url = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT)))
    return _Exporting(provider)
