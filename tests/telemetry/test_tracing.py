"""Traces, as a collector gets them: over OTLP on a port, from a registration to every attempt."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.errors import ConfigError
from relay.store import schema
from relay.telemetry.tracing import open_tracing
from relay.web.server import listen, serving
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until

pytestmark = pytest.mark.anyio

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass(frozen=True)
class Told:
    """A span, as it came."""

    name: str
    trace: str
    id: str
    parent: str
    seconds: float
    failed: bool
    attributes: dict[str, Any]

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.id}-01"


@dataclass
class Collector:
    """What an OpenTelemetry collector has been told."""

    url: str = ""
    spans: list[Told] = field(default_factory=list)
    service: set[str] = field(default_factory=set)
    raw: bytes = b""

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.raw += body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            self.service.add(resource["service.name"])
            for span in (span for scope in of_resource.scope_spans for span in scope.spans):
                values = {one.key: one.value for one in span.attributes}
                self.spans.append(
                    Told(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        span.status.code == 2,
                        {key: value.string_value or value.int_value for key, value in values.items()},
                    )
                )
        return Response(b"", media_type="application/x-protobuf")

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    listener = listen("127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(Starlette(routes=[Route("/v1/traces", found.take, methods=["POST"])]), listener):
        yield found


@contextlib.asynccontextmanager
async def traced(url: str, to: str, upstream: Upstream, *, working: bool) -> AsyncIterator[Deployment]:
    """A relay that traces; what it has to tell is told when it ends."""
    environ = environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url, OTEL_EXPORTER_OTLP_ENDPOINT=to)
    async with deployment(environ, working=working) as relay:
        yield relay


async def test_one_trace_from_the_caller_to_the_last_attempt(
    database_url: str, collector: Collector, upstream: Upstream, receiver: Receiver
) -> None:
    """Through two processes: who registers is not who polls and delivers."""
    upstream.scripts["task"] = [says("pending"), Answer(done().body, after=0.2)]
    receiver.scripts["/hook-with-a-secret"] = [Answer(b"", 503), Answer(b"ok")]
    hook = {"type": "webhook", "url": f"{receiver.url}/hook-with-a-secret", "headers": {"x-shop": "secret-header"}}
    body = {"task_id": "task", "targets": [hook], "upstream_key": "sk-secret", "metadata": {"order": "secret-order"}}
    async with traced(database_url, collector.url, upstream, working=False) as relay:
        head = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        watch = (await relay.http.post("/v1/watches", json=body, headers=head)).json()
    async with traced(database_url, collector.url, upstream, working=True) as relay:
        await receiver.wait_for(2)
        await until(lambda: relay.deliveries(state="delivered"))

    assert {span.trace for span in collector.spans} == {TRACE}
    (register,), (poll,) = collector.named("register"), collector.named("poll")
    first, second = sorted(collector.named("deliver"), key=lambda span: int(span.attributes["attempt"]))
    assert len(collector.spans) == 4
    assert register.parent == CALLER
    assert {poll.parent, first.parent, second.parent} == {register.id}
    assert register.attributes["watch_id"] == poll.attributes["watch_id"] == watch["id"]
    assert (poll.attributes["state"], poll.attributes["polls"]) == ("completed", 2)
    assert poll.seconds > 0.15, "from the question on"
    assert (first.failed, first.attributes["error.type"], first.attributes["status"]) == (True, "http_503", 503)
    assert (second.failed, second.attributes["verdict"]) == (False, "delivered")
    assert [post.headers["traceparent"] for post in receiver.posts] == [first.traceparent, second.traceparent]
    assert {first.attributes["webhook_id"], second.attributes["webhook_id"]} == {receiver.posts[0].webhook_id}
    assert collector.service == {"relay"}
    assert b"secret" not in collector.raw


async def test_a_trace_begins_where_the_caller_has_none(
    collector: Collector, upstream: Upstream, receiver: Receiver, database_url: str
) -> None:
    """Or sends nonsense; one that is not sampled is passed on and not told."""
    upstream.default = done()
    async with traced(database_url, collector.url, upstream, working=True) as relay:
        heads = {"a": {}, "b": {"traceparent": "nonsense"}, "c": {"traceparent": f"00-{TRACE}-{CALLER}-00"}}
        for name, head in heads.items():
            target = {"type": "webhook", "url": f"{receiver.url}/{name}"}
            batch = {"watches": [{"task_id": name, "targets": [target]}, {"task_id": f"{name}2", "targets": [target]}]}
            answer = await relay.http.post("/v1/watches/batch", json=batch, headers=head)
            assert [one["status"] for one in answer.json()["data"]] == [201, 201]
        await receiver.wait_for(6)
        tested = await relay.http.post("/v1/targets/test", json={"type": "webhook", "url": f"{receiver.url}/test"})
        assert tested.json()["delivered"]
    got = {name: [post.headers["traceparent"] for post in receiver.to(f"/{name}")] for name in (*heads, "test")}
    traces = {name: {one.split("-")[1] for one in all_} for name, all_ in got.items()}
    assert [len(found) for found in traces.values()] == [1, 1, 1, 1], "a batch is one trace"
    assert len(set.union(*traces.values())) == 4
    assert traces["c"] == {TRACE}
    assert all(one.endswith("-00") for one in got["c"])
    assert {span.trace for span in collector.spans} == traces["a"] | traces["b"] | traces["test"]
    assert {(span.name, bool(span.parent)) for span in collector.spans if span.trace not in traces["test"]} == {
        ("register", False),
        ("poll", True),
        ("deliver", True),
    }


async def test_nothing_is_traced_unless_it_is_asked_for(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    async with deployment(environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as relay:
        hook = {"type": "webhook", "url": f"{receiver.url}/a"}
        head = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        await relay.http.post("/v1/watches", json={"task_id": "task", "targets": [hook]}, headers=head)
        (post,) = await receiver.wait_for(1)
        query = sa.select(schema.watches.c.traceparent)
        assert await relay.relay.db.read(lambda tx: list(tx.execute(query).scalars())) == [None]
    assert "traceparent" not in post.headers


def test_without_it_nothing_of_it_is_imported() -> None:
    code = "import sys, relay.app; print([m for m in sys.modules if m.startswith(('opentelemetry', 'sentry'))])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stdout + ran.stderr


def test_what_is_not_installed_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError) as caught:
        open_tracing("http://127.0.0.1:4318")
    assert re.fullmatch(r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*pip install 'relay-bridge\[otel\]'", str(caught.value))


async def test_a_collector_that_is_away_delays_nobody(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    async with traced(database_url, "http://127.0.0.1:9", upstream, working=True) as relay:
        await relay.register("task", f"{receiver.url}/a")
        await receiver.wait_for(1, within=5)
        ending = time.monotonic()
    assert time.monotonic() - ending < 8
