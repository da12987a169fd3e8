"""Crashes, as Sentry gets them: over HTTP on a port, where it happened and nothing that anybody sent."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.errors import ConfigError
from relay.store import Database, schema
from relay.telemetry.sentry import reporting_crashes
from relay.web.server import listen, serving
from tests.support.deployment import API_KEY, SECRET, environment
from tests.support.parties import until
from tests.support.processes import serve

pytestmark = pytest.mark.anyio


@dataclass
class Sentry:
    """What Sentry has been told."""

    dsn: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    raw: bytes = b""

    async def take(self, request: Request) -> Response:
        body = await request.body()
        body = gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body
        self.raw += body
        _, *items = body.splitlines()
        for head, payload in zip(items[::2], items[1::2], strict=True):
            kind = json.loads(head)["type"]
            if kind == "event":
                self.events.append(json.loads(payload))
            else:
                self.others.append(kind)
        return JSONResponse({})


@pytest.fixture
async def sentry() -> AsyncIterator[Sentry]:
    found = Sentry()
    listener = listen("127.0.0.1", 0)
    found.dsn = f"http://public@127.0.0.1:{listener.getsockname()[1]}/1"
    async with serving(Starlette(routes=[Route("/api/1/envelope/", found.take, methods=["POST"])]), listener):
        yield found


async def test_a_crash_is_told_with_its_ids_and_nothing_that_anybody_sent(sentry: Sentry, tmp_path: Path) -> None:
    """A watch whose stored key does not open, a stored text that is no JSON: bugs, or somebody's hands in the rows."""
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    environ = environment(url, SENTRY_DSN=sentry.dsn, RELAY_PROVIDER="sandbox", LOG_FORMAT="json")
    async with serve(environ, tmp_path) as process:
        await process.ready()
        target = {"type": "webhook", "url": "https://app.example/hidden-path", "headers": {"x-key": "hidden-header"}}
        body = {"task_id": "sandbox:never", "targets": [target], "upstream_key": "hidden-key"}
        watch = (await process.http.post("/v1/watches", json=body | {"metadata": {"a": "hidden-data"}})).json()
        db = Database(url)
        broken = {"error": "{hidden-error", "metadata": "{hidden-data"}
        db.run_here(lambda tx: tx.execute(sa.update(schema.watches).values(**broken, next_poll_at=0)))
        head = {"X-Request-ID": "request-that-broke"}
        answer = await process.http.get(f"/v1/watches/{watch['id']}", headers=head)
        assert (answer.status_code, "hidden" in answer.text) == (500, False)
        await until(lambda: told_of(sentry, "bug", "claim failed"))
        db.close()
        assert await process.stop() == 0
    names = [event["transaction"] for event in sentry.events]
    assert sorted(names) == ["bug", "claim failed", "outcome not saved"], "each is told once"
    bug, claim = (next(one for one in sentry.events if one["transaction"] == name) for name in ("bug", "claim failed"))
    assert bug["tags"] == {"request_id": "request-that-broke", "path": f"/v1/watches/{watch['id']}"}
    assert claim["tags"] == {"claim": watch["id"]}
    for event in (bug, claim):
        error = event["exception"]["values"][-1]
        assert (error["type"], error.get("value")) == ("JSONDecodeError", None)
        assert any(frame["module"].startswith("relay.") for frame in error["stacktrace"]["frames"])
        assert not any("vars" in frame for frame in error["stacktrace"]["frames"])
        assert event["release"].startswith("relay@")
        assert not event.keys() & {"request", "user", "server_name", "breadcrumbs", "extra", "modules", "contexts"}
    assert sentry.others == []
    for word in ("hidden", API_KEY, SECRET, environ["RELAY_SECRET_KEY"], str(tmp_path)):
        assert word.encode() not in sentry.raw, word


async def told_of(sentry: Sentry, *names: str) -> bool:
    return {event["transaction"] for event in sentry.events} >= set(names)


async def test_what_has_no_traceback_is_not_told(sentry: Sentry) -> None:
    log = logging.getLogger("of-somebody")

    def work() -> None:
        with reporting_crashes(sentry.dsn):
            log.error("an error without an exception")
            log.warning("a warning with one", exc_info=ValueError("x"))
            log.error("an error with one", exc_info=ValueError("y"))
        log.error("after it", exc_info=ValueError("z"))
        with pytest.raises(ConfigError), reporting_crashes(sentry.dsn):
            raise ConfigError("of a user")
        with pytest.raises(ZeroDivisionError), reporting_crashes(sentry.dsn):
            raise ZeroDivisionError

    await asyncio.to_thread(work)  # each end waits until all has been told
    assert [event["transaction"] for event in sentry.events] == ["an error with one", "the process broke"]


def test_what_is_wrong_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("hidden", "https://hidden.example/1", "ftp://key@hidden.example/1"):
        with pytest.raises(ConfigError, match=r"^SENTRY_DSN: must be like") as caught, reporting_crashes(wrong):
            pass
        assert "hidden" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(ConfigError) as caught, reporting_crashes("https://key@sentry.example/1"):
        pass
    assert re.fullmatch(r"SENTRY_DSN is set.*pip install 'relay-bridge\[sentry\]'", str(caught.value))
