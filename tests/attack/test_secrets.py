"""Secrets stay secret: whatever goes wrong, none is in the database, the log, an answer of the API, or a repr.

The first half plants secrets in a real `relay serve` that logs at debug, and has everybody around it fail and repeat
what they were sent. The second half rotates them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import os
import re
import secrets as random_secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.app import Relay, listen, serving
from relay.channels.base import Message
from relay.errors import BadSignature, ConfigError
from relay.security import app_keys, signing
from relay.security.reseal import reseal
from relay.security.vault import Vault
from relay.settings.sources import load
from relay.store import Database, migrate, schema
from relay.store import apps as store_apps
from relay.web.api.schemas import WatchIn
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Receiver, Upstream, done, until
from tests.support.processes import CONFIG, Serve, serve

pytestmark = pytest.mark.anyio


def planted(name: str) -> str:
    """A secret that is found wherever it is written."""
    return f"{name}-planted-{random_secrets.token_hex(12)}"


@dataclass
class Planted:
    """Every secret that relay is told."""

    api_key: str = field(default_factory=lambda: f"rly_{planted('api-key')}")
    signing: str = field(default_factory=signing.new_secret)
    vault: str = field(default_factory=lambda: planted("vault-key"))
    old_vault: str = field(default_factory=lambda: planted("old-vault-key"))
    deployment_key: str = field(default_factory=lambda: f"sk-{planted('deployment')}/&+=")
    watch_key: str = field(default_factory=lambda: f"sk-{planted('watch')}\"\\'<>/")
    header: str = field(default_factory=lambda: planted("header"))
    bearer: str = field(default_factory=lambda: planted("bearer"))
    path: str = field(default_factory=lambda: planted("path"))
    query: str = field(default_factory=lambda: planted("query"))
    hook: str = field(default_factory=lambda: planted("hook"))
    bot: str = field(default_factory=lambda: f"xoxb-{planted('bot')}")
    metrics: str = field(default_factory=lambda: planted("metrics"))
    database: str = field(default_factory=lambda: planted("database"))

    @functools.cached_property
    def spelt(self) -> dict[str, bytes]:
        """Every spelling of every secret, and what it is."""
        found = {}
        for name in self.__dataclass_fields__:
            secret = getattr(self, name)
            raw = secret.encode()
            spellings = {secret, json.dumps(secret)[1:-1], json.dumps(secret)[1:-1].replace("/", "\\/"), escape(secret)}
            spellings |= {quote(secret), quote(secret, safe=""), unquote(secret), raw.hex()}
            spellings |= {base64.b64encode(raw).decode(), repr(secret)[1:-1], repr(raw)[2:-1]}
            found |= {f"{name}: {one}": one.encode() for one in spellings}
        key = base64.b64decode(self.signing.removeprefix("whsec_"))
        return found | {
            "signing, bare": self.signing.removeprefix("whsec_").encode(),
            "signing, bytes": key,
            "signing, hex": key.hex().encode(),
        }

    def shown_in(self, text: bytes, *allowed: str) -> list[str]:
        """Which secrets a text shows, but for those that it may."""
        return [name for name, one in self.spelt.items() if one in text and name.partition(":")[0] not in allowed]


# The parties, who repeat whatever they are told


class Echo:
    """An upstream, a receiver and a Slack in one, each as indiscreet as they come."""

    def __init__(self, known: Planted) -> None:
        self.known = known
        self.url = ""
        self.asked: set[str] = set()

    async def query(self, request: Request) -> Response:
        """What it does stands in the id: a status and what its body is."""
        task_id = request.query_params["id"]
        self.asked.add(task_id)
        kind, status = task_id.split("#")[0].split("-")
        key = request.headers["authorization"]
        wrong = {"message": f"Incorrect API key provided: {key}", "code": key, "type": key}
        bodies: dict[str, bytes] = {
            "error": json.dumps({"error": wrong}).encode(),
            "slashed": json.dumps({"error": wrong}).replace("/", "\\/").replace("&", "\\u0026").encode(),
            "unicode": ("".join(f"\\u{ord(one):04x}" for one in key)).join(('{"error": "', '"}')).encode(),
            "text": f"<html>{escape(key)} {key} {quote(key)}".encode(),
            "nothing": b"",
            "pending": json.dumps({"id": task_id, "status": "processing", "key": key, "progress": 0.5}).encode(),
            "odd": json.dumps({"id": task_id, "status": key, "error": wrong}).encode(),
            "failed": json.dumps({"id": task_id, "status": "failed", "error": wrong, "headers": [key]}).encode(),
            "done": json.dumps(
                {"id": task_id, "status": "completed", "video_url": f"https://cdn.example/v.mp4?key={quote(key)}"}
                | {"enhanced_prompt": key, "detail": {"input": {"prompt": key}}}
            ).encode(),
        }
        headers = {"Location": f"https://login.example/?key={quote(key)}"} if status.startswith("3") else {}
        return Response(bodies[kind], int(status), headers)

    async def take(self, request: Request) -> Response:
        """A receiver that fails and says all it heard."""
        body = (await request.body()).decode()
        self.asked.add(request.url.path)
        status = int(request.path_params["status"])
        said = {"url": str(request.url), "path": unquote(request.url.path), "headers": dict(request.headers)}
        how = {
            "json": json.dumps(said),
            "slashed": json.dumps(said).replace("/", "\\/"),
            "html": f"<pre>Cannot POST {escape(request.url.path)}?{escape(request.url.query)} {escape(str(said))}",
            "long": "x" * (16 * 1024 - 40) + json.dumps(said),
            "body": json.dumps(said) + body,
        }
        headers = {"Location": f"{request.url}/", "Retry-After": "0"} if 300 <= status < 400 else {}
        return Response(how[request.path_params["how"]], status, headers)

    async def slack(self, request: Request) -> Response:
        """A Slack that answers with the token, and says no in a way that the channel's name asks for."""
        in_json = "json" in request.headers.get("content-type", "")
        body = json.loads(await request.body() or b"{}") if in_json else {}
        token = request.headers.get("authorization", "")
        how = body.get("channel", "#error")
        self.asked.add(how)
        said = {"ok": False, "error": "invalid_auth", "token": token, "response_metadata": {"messages": [token]}}
        if how == "#word":
            said["error"] = token.partition(" ")[2]
        if how == "#text":
            return Response(f"<html>{token} {self.known.bot}", 500, media_type="text/html")
        return Response(json.dumps(said), 200, media_type="application/json")

    async def hook(self, request: Request) -> Response:
        """An incoming webhook that repeats its own URL."""
        self.asked.add(request.url.path)
        return Response(f"no service at {request.url} {request.url.path} {unquote(str(request.url))}", 404)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        routes = [
            Route("/v1/video/query", self.query),
            Route("/hooks/{how}/{status}/{rest:path}", self.take, methods=["POST"]),
            Route("/api/chat.postMessage", self.slack, methods=["POST"]),
            Route("/services/{rest:path}", self.hook, methods=["POST"]),
        ]
        listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serving(Starlette(routes=routes), listener):
            yield


ASKED = """
    error-401 error-403 error-429 error-500 error-404 error-400 slashed-401 unicode-401 text-401 text-200 text-302
    text-500 nothing-301 pending-200 odd-200 failed-200 done-200
"""


FORGED = "#\u0085\u2028\u009b31m2026-01-01T00:00:00Z [info] forged"
"""What would be a line of its own in a log that is written as it comes."""


CHANNELS = ("#error", "#word", "#text")


def targets(known: Planted, url: str) -> list[dict[str, Any]]:
    """Targets of every kind, with every secret that a target can have; the last ones are channels."""
    headers = {"Authorization": f"Bearer {known.bearer}", "X-Shop-Token": known.header, "X-Env": "prod"}
    ways = ("json/500", "slashed/401", "html/404", "long/503", "body/200", "json/307", "html/302", "json/410")
    hooks = [
        {"type": "webhook", "url": f"{url}/hooks/{way}/{known.path}?token={known.query}&a=b", "headers": headers}
        for way in ways
    ]
    return [
        *hooks,
        {"type": "webhook", "url": f"http://127.0.0.1:9/{known.path}?{known.query}", "headers": headers},
        {"type": "slack", "webhook_url": f"{url}/services/T0/B0/{known.hook}"},
        {"type": "slack", "webhook_url": f"{url}/services/T0/B0/{known.hook}/?also={known.query}"},
        *({"type": "slack", "channel": channel} for channel in CHANNELS),
    ]


def wrong_requests(known: Planted) -> Iterator[tuple[str, str, Any]]:
    """Requests that are refused, each with a secret in it."""
    hook = {"type": "webhook", "url": "https://app.example/"}
    good = {"task_id": "x", "targets": [hook]}
    for body in (
        {**good, "upstream_key": [known.watch_key]},
        {**good, "upstream_key": known.watch_key + " with spaces"},
        {**good, "upstream_key": known.watch_key * 100},
        {**good, "upstream-key": known.watch_key},
        {**good, "metadata": known.watch_key},
        {**good, "task_id": {"key": known.watch_key}},
        {**good, "expires_in": known.watch_key},
        {**good, "targets": [{**hook, "headers": {"X-A": known.header + "\n"}}]},
        {**good, "targets": [{**hook, "headers": {"X-A": {"x": known.header}}}]},
        {**good, "targets": [{**hook, "headers": known.header}]},
        {**good, "targets": [{**hook, "url": f"https://user:{known.path}@app.example/"}]},
        {**good, "targets": [{**hook, "url": f"ftp://app.example/{known.path}"}]},
        {**good, "targets": [{**hook, "url": f"https://10.0.0.1/{known.path}"}]},
        {**good, "targets": [{**hook, "url": {"path": known.path}}]},
        {**good, "targets": [{"type": "slack", "webhook_url": f"https://evil.example/{known.hook}"}]},
        {**good, "targets": [{"type": known.hook}]},
        {**good, "targets": [{"type": "slack", "channel": f"#{known.hook} {known.hook}"}]},
    ):
        yield "POST", "/v1/watches", body
        yield "POST", "/v1/watches/batch", {"watches": [body]}
        if body["targets"] != [hook]:
            yield "POST", "/v1/targets/test", body["targets"][0]
    yield "POST", "/v1/watches", f'{{"upstream_key": "{known.watch_key}'
    yield "POST", "/v1/watches", f'{{"upstream_key": "{known.header}", "upstream_key": "{known.header}"}}'
    yield "POST", "/v1/deliveries/retry", {"since": known.watch_key, "state": known.header}


class Talk:
    """A client of the API that remembers all it was told."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.told: list[tuple[str, bytes]] = []

    async def say(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        content = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        response = await self.http.request(
            method, path, content=content, headers={"Content-Type": "application/json", **headers}
        )
        heads = b"\n".join(name + b": " + value for name, value in response.headers.raw)
        self.told.append((f"{response.status_code} {method} {path} {body}", heads + b"\n\n" + response.content))
        return response


async def drive(process: Serve, echo: Echo, known: Planted) -> Talk:
    """Everything that can be done, and much of what can go wrong."""
    process.http.headers["Authorization"] = f"Bearer {known.api_key}"
    talk = Talk(process.http)
    wanted = targets(known, echo.url)
    for number, kind in enumerate(ASKED.split()):
        for who, key in (("deployment", None), ("watch", known.watch_key)):
            # One with channels, because edits in Slack take turns that last.
            some = wanted[:1] if number else wanted if key is None else wanted[: -len(CHANNELS)]
            body: dict[str, Any] = {"task_id": f"{kind}#{who}", "targets": some}
            body |= {"expires_in": 1} if number == 0 else {}
            if key is not None:
                body["upstream_key"] = key
            response = await talk.say("POST", "/v1/watches", body)
            assert response.status_code == 201, response.text
    forged = {"task_id": f"pending-200{FORGED}", "targets": wanted[:1]}
    assert (await talk.say("POST", "/v1/watches", forged)).status_code == 201
    ended = {"task_id": "done-200#all", "targets": wanted[: -len(CHANNELS)], "upstream_key": known.watch_key}
    response = await talk.say("POST", "/v1/watches/batch", {"watches": [ended, {**ended, "task_id": "failed-200#all"}]})
    assert [item["status"] for item in response.json()["data"]] == [201, 201]
    for target in wanted:
        assert (await talk.say("POST", "/v1/targets/test", target)).status_code == 200
    for method, path, body in wrong_requests(known):
        response = await talk.say(method, path, body)
        assert response.status_code in (400, 422) or "error" in response.json()["data"][0]
    for key in (known.watch_key, f"Bearer {known.watch_key}", f"Basic {known.watch_key}"):
        assert (await talk.say("GET", "/v1/watches", Authorization=key)).status_code == 401
        assert (await talk.say("GET", "/metrics", Authorization=key)).status_code == 401

    async def all_told() -> bool:
        response = await talk.http.get("/v1/deliveries?limit=200")
        states = [delivery["state"] for delivery in response.json()["data"]]
        return len(states) > 2 * len(wanted) and "pending" not in states

    await until(all_told)
    assert {f"{kind}#{who}" for kind in ASKED.split() for who in ("deployment", "watch")} <= echo.asked
    return talk


async def look_around(talk: Talk, known: Planted) -> list[str]:
    """Every page that there is; returns the ids of the watches."""
    ids = {}
    for what in ("watches", "deliveries"):
        response = await talk.say("GET", f"/v1/{what}?limit=200")
        ids[what] = [one["id"] for one in response.json()["data"]]
        for one in ids[what]:
            assert (await talk.say("GET", f"/v1/{what}/{one}")).status_code == 200
    for path in ("/v1/providers", "/v1/nowhere"):
        await talk.say("GET", path)
    for path in ("/openapi.json", "/docs", "/healthz", "/readyz", "/nowhere"):
        await talk.say("GET", path)
    await talk.say("GET", "/metrics", Authorization=f"Bearer {known.metrics}")
    return ids["watches"]


def break_claims(db: Database) -> None:
    """Sealed values of somebody else's row: the next claims of these end with an exception."""
    t, w = schema.targets.c, schema.watches.c

    def swap(tx: sa.Connection) -> None:
        rows = list(tx.execute(sa.select(t.id, t.address).order_by(t.id).limit(2)))
        for row, other in zip(rows, rows[::-1], strict=True):
            tx.execute(sa.update(schema.targets).where(t.id == row.id).values(address=other.address))
        tx.execute(sa.update(schema.watches).where(w.upstream_key.is_not(None)).values(upstream_key=rows[0].address))
        tx.execute(sa.update(schema.watches).where(w.task_id == "pending-200#deployment").values(metadata="{"))

    db.run_here(swap)


def break_schema(db: Database) -> None:
    """A table is gone: what is written there next ends with an error of the database's."""
    db.run_here(lambda tx: tx.exec_driver_sql("ALTER TABLE attempts RENAME TO attempts_away"))


def mend_schema(db: Database) -> None:
    db.run_here(lambda tx: tx.exec_driver_sql("ALTER TABLE attempts_away RENAME TO attempts"))


def everything_stored(db: Database) -> Iterator[tuple[str, bytes]]:
    """Every value of every column of every table, as bytes; and the files, where there are any."""
    database = sa.make_url(db.url).database or ""
    if db.embedded:
        for file in sorted(Path(database).parent.glob(Path(database).name + "*")):
            yield file.name, file.read_bytes()
    with db.engine.connect() as tx:
        for table in sa.inspect(tx).get_table_names():
            for row in tx.exec_driver_sql(f'SELECT * FROM "{table}"'):
                for column, value in row._mapping.items():
                    raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    yield f"{table}.{column}", raw


@pytest.mark.parametrize(
    ("form", "kind"), [("text", "sqlite"), ("json", "postgresql")], ids=["sqlite, text", "postgresql, json"]
)
async def test_no_secret_is_stored_logged_or_shown(
    form: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    known = Planted()
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgres:@", f"postgres:{known.database}@")
        assert known.database in url
    db = Database(url)
    db.run_here(migrate.upgrade)
    echo = Echo(known)
    try:
        async with echo.serving():
            environ = environment(
                url,
                RELAY_SECRET_KEY=f"{known.vault},{known.old_vault}",
                RELAY_API_KEY=known.api_key,
                RELAY_SIGNING_SECRET=known.signing,
                RELAY_METRICS_TOKEN=known.metrics,
                UNIFIED_VIDEO_API_KEY=known.deployment_key,
                UNIFIED_VIDEO_BASE_URL=echo.url,
                SLACK_BOT_TOKEN=known.bot,
                SLACK_API_URL=f"{echo.url}/api/",
                SLACK_HOOK_HOSTS=echo.url.removeprefix("http://"),
                RELAY_RETRY_SCHEDULE="0s,0.1s",
                RELAY_RATE_LIMIT="1000",
                LOG_LEVEL="debug",
                LOG_FORMAT=form,
            )
            async with serve(environ, tmp_path) as process:
                await process.ready()
                talk = await drive(process, echo, known)
                watches = await look_around(talk, known)
                stored = list(everything_stored(db))

                break_claims(db)
                assert (await talk.say("POST", "/v1/deliveries/retry", {})).json()["retried"] > 0
                await until(lambda: in_log(process, "claim failed"))
                await until(lambda: in_log(process, '"loop": "poll"', "loop=poll"))
                for watch in watches:
                    await talk.say("GET", f"/v1/watches/{watch}")
                break_schema(db)
                await talk.say("POST", "/v1/deliveries/retry", {"state": "delivered"})
                await until(lambda: in_log(process, "no such table: attempts", "UndefinedTable"))
                mend_schema(db)
            logs = [process.log.read_bytes()]
            # The upstream and the receivers are gone: the rest of the schedule meets closed ports.
        async with serve(environ, tmp_path) as process:
            await process.ready()
            process.http.headers["Authorization"] = f"Bearer {known.api_key}"
            again = Talk(process.http)
            await again.say("POST", "/v1/watches", {"task_id": "down", "targets": targets(known, echo.url)[:2]})
            await again.say("POST", "/v1/targets/test", targets(known, echo.url)[0])

            async def refused() -> bool:
                response = await again.say("GET", "/v1/watches?task_id=down")
                return any(one["error"] and one["error"]["code"] == "connect" for one in response.json()["data"])

            await until(refused)
            assert await process.stop() == 0
            logs.append(process.log.read_bytes())
        stored += everything_stored(db)
    finally:
        db.close()

    for where, value in stored:
        assert known.shown_in(value) == [], where
    for asked, told in (*talk.told, *again.told):
        # An app's own webhook URL comes back in its own watch.
        own = ("path", "query") if re.match(r"20\d (GET|POST) /v1/watches", asked) else ()
        assert known.shown_in(told, *own) == [], (asked, told)
    assert b"Traceback" in logs[0]
    for log in logs:
        assert known.shown_in(log) == []
        for line in log.splitlines() if form == "json" else ():
            assert {"level", "timestamp", "event"} <= set(json.loads(line)), line
    lines = logs[0].decode().splitlines()
    assert any("forged" in line for line in lines)
    assert not any(line.startswith("2026-01-01") or "\u009b" in line for line in lines)


async def in_log(process: Serve, *words: str) -> bool:
    text = process.log.read_text("utf-8").replace('\\"', '"')
    return any(one in text for one in words)


async def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    known = Planted()
    environ = environment(
        f"sqlite:///{tmp_path / 'relay.db'}",
        RELAY_SECRET_KEY=f"{known.vault},{known.old_vault}",
        RELAY_API_KEY=known.api_key,
        RELAY_SIGNING_SECRET=known.signing,
        RELAY_METRICS_TOKEN=known.metrics,
        RELAY_EGRESS_PROXY=f"http://relay:{known.database}@proxy.example:3128",
        UNIFIED_VIDEO_API_KEY=known.deployment_key,
        UNIFIED_VIDEO_BASE_URL="https://upstream.example",
        SLACK_BOT_TOKEN=known.bot,
    )
    relay = await asyncio.to_thread(Relay, load(environ), environ)
    try:
        url = f"https://app.example/{known.path}?{known.query}"
        hook = {"type": "slack", "webhook_url": f"https://hooks.slack.com/services/T/B/{known.hook}"}
        webhook = {"type": "webhook", "url": url, "headers": {"X-A": known.header, "X-B": known.bearer}}
        registration = WatchIn.model_validate(
            {"task_id": "t", "targets": [webhook, hook], "upstream_key": known.watch_key}
        )
        sealed = [relay.context.targets.seal("app_1", target) for target in registration.targets]
        message = Message("evt_1", "relay.test", b"{}", webhook, [known.signing], 0)
        postgres = load({**environ, "DATABASE_URL": f"postgres://relay:{known.database}@db.example/relay"})
        objects: list[Any] = [relay, message, registration, *registration.targets, *sealed, postgres, postgres.sources]
        for one in (
            relay,
            relay.context,
            relay.context.targets,
            relay.context.actions,
            *relay.channels.values(),
            relay.dispatcher,
            relay.poller,
            relay.slack,
        ):
            parts = vars(one).values() if hasattr(one, "__dict__") else [getattr(one, name) for name in one.__slots__]
            objects += [one, *(part for part in parts if not isinstance(part, str | bytes))]
        objects += [*relay.upstreams.values(), Database(f"postgres://relay:{known.database}@db.example/x").engine]
        for one in objects:
            for text in (repr(one), str(one), f"{one!a}"):
                assert known.shown_in(text.encode()) == [], type(one)
    finally:
        await relay.aclose()


WRONG = (
    {"RELAY_SIGNING_SECRET": "whsec_{}"},
    {"RELAY_SECRET_KEY": "{},short"},
    {"RELAY_API_KEY_FILE": "/nowhere/{}", "RELAY_API_KEY": ""},
    {"RELAY_EGRESS_PROXY": "socks5://relay:{}@proxy.example"},
    {"RELAY_METRICS_TOKEN": "short"},
    {"DATABASE_URL": "postgres://relay:{}@db.example:99x/relay"},
    {"DATABASE_URL": "postgres://relay:{}@[::1/relay"},
    {"DATABASE_URL": "postgres://relay:p@{}:x@db.example/relay"},
    {"DATABASE_URL": "postgres://relay:x@db.example:{}/relay"},
    {"DATABASE_URL": "postgresql+asyncpg://relay:{}@db.example/relay"},
    {"DATABASE_URL": "mysql://relay:{}@db.example/relay"},
    {"DATABASE_URL": "{}"},
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(next(iter(wrong.items()))))
def test_a_wrong_value_is_refused_in_one_line_without_it(wrong: dict[str, str]) -> None:
    known = planted("wrong")
    environ = {"RELAY_CONFIG": CONFIG, "RELAY_API_KEY": f"rly_{known}", "RELAY_SIGNING_SECRET": signing.new_secret()}
    environ |= {name: value.format(known) for name, value in wrong.items()}
    with pytest.raises(ConfigError) as caught:
        load(environ)
    (line,) = str(caught.value).splitlines()
    assert known not in line or "_FILE" in line  # which names the file


async def test_the_command_line_shows_no_secret(tmp_path: Path) -> None:
    """Asked for the configuration, or without its database."""
    known = Planted()
    environ = {
        "RELAY_SECRET_KEY": known.vault,
        "RELAY_API_KEY": known.api_key,
        "RELAY_SIGNING_SECRET": known.signing,
        "RELAY_METRICS_TOKEN": known.metrics,
        "RELAY_EGRESS_PROXY": f"http://relay:{known.bearer}@proxy.example:3128",
        "UNIFIED_VIDEO_API_KEY": known.deployment_key,
        "SLACK_BOT_TOKEN": known.bot,
        "DATABASE_URL": f"postgres://relay:{known.database}@127.0.0.1:1/relay?password={known.database}",
    }

    async def run(expected: int, *arguments: str) -> None:
        code, said = await command(*arguments, **environ)
        assert code == expected, (arguments, said)
        assert known.shown_in(said.encode()) == [], (arguments, said)
        assert "Traceback" not in said
        assert not code or len(said.strip().splitlines()) == 1, said

    async def wait_in_vain() -> None:
        async with serve(environ, tmp_path) as process:
            await until(lambda: in_log(process, "waiting for the database"))
            assert await process.stop() == 1
            said = process.log.read_bytes()
            assert b"Connection refused" in said
            assert known.shown_in(said) == [], said

    await asyncio.gather(run(0, "config"), run(1, "migrate"), wait_in_vain())


async def command(*arguments: str, **environ: str) -> tuple[int, str]:
    """Runs `relay …` and returns its exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relay",
        *arguments,
        env={"PATH": os.environ["PATH"], "RELAY_CONFIG": CONFIG, "COLUMNS": "500", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, said.decode()


# Rotating an app's signing secret


def verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        signing.verify(secret, headers, body, time.time())
    except BadSignature:
        return False
    return True


async def test_a_rotated_secret_signs_along_until_its_overlap_is_over(tmp_path: Path, receiver: Receiver) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", RELAY_PROVIDER="sandbox")
    code, said = await command("apps", "create", "shop", "--json", **environ)
    assert code == 0, said
    app = json.loads(said)
    code, said = await command("apps", "rotate-secret", "shop", "--overlap", "24h", "--json", **environ)
    assert code == 0, said
    assert len(json.loads(said)["old_secrets_sign_until"]) == 1
    secrets = [app["signing_secret"], json.loads(said)["signing_secret"], signing.new_secret()]

    async def signed_by(relay: Deployment) -> list[int]:
        """Sends an event; which of the secrets it is signed by, and by no other."""
        target = {"type": "webhook", "url": f"{receiver.url}/rotated"}
        who = {"Authorization": f"Bearer {app['api_key']}"}
        response = await relay.http.post("/v1/targets/test", json=target, headers=who)
        assert response.json()["delivered"] is True
        post = receiver.posts[-1]
        found = [number for number, one in enumerate(secrets) if verifies(one, post.headers, post.body)]
        assert len(post.headers["webhook-signature"].split()) == len(found)
        return found

    async with deployment(environ, working=False) as relay:
        assert await signed_by(relay) == [0, 1]
    async with deployment(environ, working=False) as relay:
        stored = await relay.relay.db.read(store_apps.by_name, "shop")
        assert stored is not None
        vault = relay.relay.vault
        rotated = app_keys.rotated(app_keys.opened(vault, stored), secrets[2], relay.relay.context.clock(), 1500)
        sealed = app_keys.sealed(vault, stored.id, rotated)
        await relay.relay.db.run(lambda tx: store_apps.change(tx, stored.id, secrets=sealed))
        assert await signed_by(relay) == [0, 1, 2]

        async def only_the_new() -> bool:
            return await signed_by(relay) == [2]

        await until(only_the_new)


async def test_a_default_secret_that_the_environment_replaces_signs_along(
    database_url: str, receiver: Receiver
) -> None:
    secrets = [signing.new_secret() for _ in range(3)]
    target = {"type": "webhook", "url": f"{receiver.url}/rotated"}
    ends: list[int | None] = []
    for number, secret in enumerate([secrets[0], secrets[1], secrets[1], secrets[2]]):
        async with deployment(
            environment(database_url, RELAY_PROVIDER="sandbox", RELAY_SIGNING_SECRET=secret), working=False
        ) as relay:
            assert (await relay.http.post("/v1/targets/test", json=target)).json()["delivered"] is True
            post = receiver.posts[-1]
            valid = [verifies(one, post.headers, post.body) for one in secrets]
            assert valid == [True, number > 0, number > 2]
            assert len(post.headers["webhook-signature"].split()) == sum(valid)
            app = await relay.relay.db.read(store_apps.by_name, store_apps.DEFAULT)
            assert app is not None
            kept = {one["secret"]: one["expires_at"] for one in app_keys.opened(relay.relay.vault, app)}
            assert kept[secret] is None
            ends.append(kept[secrets[0]])
            assert all(end is None or 0 < end - relay.relay.context.clock() <= app_keys.OVERLAP for end in ends)
    assert ends[1] == ends[2] == ends[3]  # a restart, or another rotation, does not prolong it


def test_an_overlap_is_never_prolonged_and_the_old_go_away() -> None:
    now, day = 1_800_000_000_000, app_keys.OVERLAP
    first = app_keys.rotated([], "a", now, day)
    second = app_keys.rotated(first, "b", now, day)
    third = app_keys.rotated(second, "c", now + day // 2, day)
    assert [one["secret"] for one in app_keys.valid(third, now + day // 2)] == ["c", "b", "a"]
    assert [one["secret"] for one in app_keys.valid(third, now + day)] == ["c", "b"]
    assert [one["secret"] for one in app_keys.valid(third, now + day * 3 // 2)] == ["c"]
    assert [one["secret"] for one in app_keys.rotated(third, "d", now + 2 * day, day)] == ["d", "c"]
    assert [one["secret"] for one in app_keys.rotated(third, "a", now + day // 2, day)] == ["a", "c", "b"]
    assert app_keys.rotated(third, "d", now, 0) == [{"secret": "d", "expires_at": None}]


# Rotating the key that seals


async def test_after_secrets_rotate_the_old_key_is_not_needed(
    database_url: str, upstream: Upstream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more rows than a batch has, of every kind that is sealed."""
    old, new = planted("old"), planted("new")
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_SECRET_KEY=old)
    kept = {"type": "webhook", "url": f"{receiver.url}/kept?token=1", "headers": {"X-Kept": "header-of-before"}}
    hook = {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T/B/x", "events": ["task.lost"]}
    watch = {"targets": [kept, hook], "upstream_key": "sk-of-before"}
    async with deployment(environ, working=False) as relay:
        body = {"watches": [{"task_id": f"kept-{number}", **watch} for number in range(10)]}
        response = await relay.http.post("/v1/watches/batch", json=body)
        found = response.json()["data"][9]["watch"]
        assert (await relay.http.delete(f"/v1/watches/{found['id']}")).status_code == 204  # two of one task
        await relay.register("kept-9", kept, hook, upstream_key="sk-of-before")
        await relay.register("without-a-key", kept, hook)

    monkeypatch.setattr("relay.security.reseal.BATCH", 4)
    db = Database(database_url)
    try:
        assert reseal(db, Vault([new, old])) == 1 + 12 * 2 + 11
        newest = Vault([new])
        sealed = (schema.apps.c.secrets, schema.targets.c.address, schema.watches.c.upstream_key)
        values = [value for one in sealed for value in column(db, one)]
        assert len(values) == 1 + 12 * 2 + 11
        assert all(newest.is_newest(value) for value in values)
        app = db.run_here(store_apps.by_name, store_apps.DEFAULT)
        assert app is not None
        with pytest.raises(ConfigError, match="another RELAY_SECRET_KEY"):
            app_keys.opened(Vault([old]), app)
    finally:
        db.close()
    code, said = await command("secrets", "rotate", **{**environ, "RELAY_SECRET_KEY": f"{new},{old}"})
    assert (code, said.split()[0]) == (0, "0"), said

    upstream.default = done()
    async with deployment({**environ, "RELAY_SECRET_KEY": new}) as relay:
        posts = await receiver.wait_for(11, "/kept")
        assert {post.headers["x-kept"] for post in posts} == {"header-of-before"}
        receiver.verify(environ["RELAY_SIGNING_SECRET"])
        keys = {(url.rpartition("=")[2], head["authorization"]) for url, head in upstream.heads}
        assert keys == {(f"kept-{n}", "Bearer sk-of-before") for n in range(10)} | {
            ("without-a-key", "Bearer sk-upstream")
        }
        assert (await relay.http.get("/v1/watches")).status_code == 200


def column(db: Database, one: sa.Column[Any]) -> Sequence[bytes]:
    query = sa.select(one).where(one.is_not(None))
    return [bytes(value) for value in db.run_here(lambda tx: list(tx.execute(query).scalars()))]


async def test_a_rotation_without_the_old_key_says_so_and_changes_nothing(database_url: str) -> None:
    old, new = planted("old"), planted("new")
    environ = environment(database_url, RELAY_SECRET_KEY=old)
    async with deployment(environ, working=False) as relay:
        await relay.register("sandbox:never", "https://app.example/", provider="sandbox")
    db = Database(database_url)
    try:
        before = column(db, schema.targets.c.address)
        code, said = await command("secrets", "rotate", **{**environ, "RELAY_SECRET_KEY": new})
        assert (code, "add that key" in said, "Traceback" in said) == (1, True, False)
        assert column(db, schema.targets.c.address) == before
    finally:
        db.close()


async def test_a_sealed_value_in_another_row_does_not_open(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    """Who can write the database cannot have relay use one app's secrets for another, or send them elsewhere."""
    upstream.default = done()
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ, working=False) as relay:
        for name in ("mine", "theirs"):
            target = {"type": "webhook", "url": f"{receiver.url}/{name}", "headers": {"X-Secret": f"of-{name}"}}
            await relay.register(name, target, upstream_key=f"sk-of-{name}")
        await relay.register("good", f"{receiver.url}/good")
        app = await relay.relay.db.read(store_apps.by_name, store_apps.DEFAULT)
        assert app is not None
        w, t = schema.watches.c, schema.targets.c

        def swap(tx: sa.Connection) -> None:
            keys = {row.task_id: row for row in tx.execute(sa.select(w.task_id, w.id, w.upstream_key))}
            query = sa.select(w.task_id, t.id, t.address).join(schema.watches, w.id == t.watch_id)
            places = {row.task_id: row for row in tx.execute(query)}
            for name, other in (("mine", "theirs"), ("theirs", "mine")):
                change = sa.update(schema.watches).where(w.id == keys[name].id)
                tx.execute(change.values(upstream_key=keys[other].upstream_key if name == "mine" else None))
                change = sa.update(schema.targets).where(t.id == places[name].id)
                tx.execute(change.values(address=places[other].address))

        await relay.relay.db.run(swap)
        vault = relay.relay.vault
        for wrong in ("app_other", app.id.lower(), ""):
            with pytest.raises(ConfigError, match="belongs to another row"):
                vault.open(app.secrets, wrong)
    async with deployment(environ) as relay:
        await receiver.wait_for(1, "/good")

        async def theirs_ended() -> bool:
            return bool(await relay.deliveries(watch_id=ids["theirs"]))

        query = sa.select(w.task_id, w.id)
        ids = {row.task_id: row.id for row in await relay.relay.db.read(lambda tx: list(tx.execute(query)))}
        await until(theirs_ended)
        response = await relay.http.get(f"/v1/watches/{ids['mine']}")
        assert (response.status_code, "of-" in response.text) == (500, False)
    assert {post.path for post in receiver.posts} == {"/good"}
    assert "mine" not in upstream.asked
    assert {head.get("authorization") for _, head in upstream.heads} == {"Bearer sk-upstream"}
