"""What an operator looks at: health, readiness, metrics, the effective configuration, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from typer.testing import CliRunner

from relay.app import LOOK_EVERY
from relay.cli import cli
from relay.model.delivery import DeliveryState, Verdict
from relay.model.reading import Kind
from relay.model.watch import State
from relay.security import signing
from relay.settings.options import Settings
from relay.store import Database, migrate
from relay.telemetry.logs import MAX_LINE
from relay.web import ops
from relay.worker.scheduler import LATE, Scheduler
from relay.worker.upkeep import PRUNE_EVERY
from tests.support import parties
from tests.support.deployment import API_KEY, SECRET, Deployment, deployment, environment
from tests.support.processes import Serve, serve
from tests.web.callers import problem

pytestmark = pytest.mark.anyio

TOKEN = "a-token-for-metrics"
AS_METRICS = {"Authorization": f"Bearer {TOKEN}"}
SAID = {
    "upstream key": "sk-of-one-watch",
    "task id": "task-of-a-customer",
    "path": "secret-path-of-a-hook",
    "header": "header-of-a-receiver",
    "metadata": "metadata-of-an-order",
    "failure": "words-of-an-upstream",
}
"""What the app of `busy` says, and an upstream answers: none of it belongs into a metric."""


@dataclass
class Busy:
    """A `relay serve` that has seen every kind of thing, in a process of its own because metrics are the process's."""

    process: Serve
    registered: dict[str, Any]
    request_id: str
    lines: list[dict[str, Any]]
    metrics: str


@pytest.fixture(scope="module")
async def busy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Busy]:
    folder = tmp_path_factory.mktemp("busy")
    async with parties.upstream() as upstream, parties.receiver() as receiver:
        upstream.scripts |= {
            SAID["task id"]: [parties.says("pending"), parties.done()],
            "fails": parties.says("failed", error=SAID["failure"]),
            "odd": [parties.Answer(b"<html>", 200), parties.Answer(b"", 502), parties.done()],
        }
        receiver.scripts["/gone"] = parties.Answer(b"", 410)
        environ = environment(
            f"sqlite:///{folder / 'relay.db'}",
            UNIFIED_VIDEO_BASE_URL=upstream.url,
            RELAY_METRICS_TOKEN=TOKEN,
            LOG_FORMAT="json",
            LOG_LEVEL="debug",
        )
        async with serve(environ, folder) as process:
            await process.ready()
            hook = {"type": "webhook", "url": f"{receiver.url}/{SAID['path']}", "headers": {"x-key": SAID["header"]}}
            more = {"metadata": {"order": SAID["metadata"]}, "upstream_key": SAID["upstream key"]}
            first = await process.http.post(
                "/v1/watches",
                json={"task_id": SAID["task id"], "targets": [hook], **more},
                headers={"X-Request-ID": "req-of-the-router"},
            )
            gone = {"type": "webhook", "url": f"{receiver.url}/gone"}
            for task_id in ("fails", "odd"):
                answer = await process.http.post("/v1/watches", json={"task_id": task_id, "targets": [gone]})
                assert answer.status_code == 201
            await receiver.wait_for(3)

            async def settled() -> bool:
                deliveries = (await process.http.get("/v1/deliveries")).json()["data"]
                return {one["state"] for one in deliveries} == {"delivered", "dead"}

            await parties.until(settled)
            metrics = (await process.http.get("/metrics", headers=AS_METRICS)).text
            lines = [json.loads(line) for line in process.log.read_text("utf-8").splitlines()]
            yield Busy(process, first.json(), first.headers["x-request-id"], lines, metrics)


# Health


async def test_healthz_says_that_the_process_answers(api: Deployment) -> None:
    for method in ("GET", "HEAD"):
        answer = await api.http.request(method, "/healthz", headers={"Authorization": ""})
        assert answer.status_code == 200
        assert method == "HEAD" or answer.json() == {"status": "ok"}


async def test_readyz_says_that_it_can_work(relay: Deployment, api: Deployment) -> None:
    for one in (relay, api):
        answer = await one.http.get("/readyz", headers={"Authorization": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reasons": []})


async def test_readyz_says_when_the_clock_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with deployment(environment(f"sqlite:///{tmp_path / 'relay.db'}")) as running:
        monkeypatch.setattr(running.relay.scheduler, "unwell", lambda: "'poll' is 35 s late")
        answer = await running.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "unavailable", "reasons": ["'poll' is 35 s late"]},
        )
        assert (await running.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("interval", [1.0, PRUNE_EVERY])
def test_a_job_is_late_when_its_interval_is_long_over(interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not while that lasts, however long it is."""

    async def tick() -> None:
        raise AssertionError("the clock is not started")

    clock, now = Scheduler(), time.monotonic()
    assert clock.unwell() is None
    clock.add("job", tick, interval)
    monkeypatch.setattr("relay.worker.scheduler.time", SimpleNamespace(monotonic=lambda: now + interval + LATE - 5))
    assert clock.unwell() is None
    monkeypatch.setattr("relay.worker.scheduler.time", SimpleNamespace(monotonic=lambda: now + interval + LATE + 5))
    assert clock.unwell() == "the clock is not well: 'job' is 35 s late"


async def test_readyz_says_that_the_schema_is_behind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    async with deployment(environment(url), working=False) as running:
        db = Database(url)
        db.run_here(lambda tx: tx.exec_driver_sql("DELETE FROM alembic_version"))
        answer = await running.http.get("/readyz")
        assert answer.status_code == 503
        assert "run 'relay migrate'" in answer.json()["reasons"][0]
        # A newer release has migrated already, and this one still runs.
        db.run_here(lambda tx: tx.exec_driver_sql("INSERT INTO alembic_version VALUES ('9999_later')"))
        assert db.run_here(migrate.behind) is None
        await parties.until(lambda: is_ready(running))
        db.close()


async def is_ready(running: Deployment) -> bool:
    return (await running.http.get("/readyz")).status_code == 200


async def test_readyz_costs_one_look_a_second_however_often_it_is_asked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    unready = migrate.unready

    def counted(tx: sa.Connection) -> str | None:
        looks.append(time.monotonic())
        return unready(tx)

    monkeypatch.setattr(migrate, "unready", counted)
    async with deployment(environment(database_url), working=False) as running:
        started = time.monotonic()
        answers = [await asyncio.gather(*(running.http.get("/readyz") for _ in range(20))) for _ in range(10)]
        took = time.monotonic() - started
    assert {answer.status_code for many in answers for answer in many} == {200}
    assert len(looks) <= 1 + took / LOOK_EVERY


# Metrics


async def test_metrics_want_their_token(busy: Busy) -> None:
    for wrong in (None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {API_KEY}", TOKEN[:-1], "Bearer " + "ö"):
        headers = {} if wrong is None else {"Authorization": wrong.encode("utf-8")}
        answer = await busy.process.http.request("GET", "/metrics", headers={"Authorization": b"", **headers})
        assert "RELAY_METRICS_TOKEN" in problem(answer, 401)["detail"]
        assert "relay_" not in answer.text
    answer = await busy.process.http.get("/metrics", headers=AS_METRICS)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


async def test_without_a_token_metrics_are_open_here_and_closed_on_a_platform(tmp_path: Path, api: Deployment) -> None:
    assert (await api.http.get("/metrics", headers={"Authorization": ""})).status_code == 200
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", DYNO="web.1", RELAY_EPHEMERAL="1")
    async with deployment(environ, working=False) as running:
        assert "RELAY_METRICS_TOKEN" in problem(await running.http.get("/metrics"), 404)["detail"]
    async with deployment({**environ, "RELAY_METRICS_TOKEN": TOKEN}, working=False) as running:
        assert (await running.http.get("/metrics", headers=AS_METRICS)).status_code == 200


CLOSED: dict[str, set[str]] = {
    "provider": {file.stem for file in (Path(__file__).parents[2] / "config/providers").glob("*.toml")},
    "kind": set(Kind),
    "state": set(State) | set(DeliveryState),
    "verdict": set(Verdict),
    "type": {"webhook", "slack"},
    "what": {"poll", "delivery"},
    "loop": {"poll", "deliver", "edit", "erase", "clock"},
}


async def test_every_label_has_a_closed_set_of_values(busy: Busy) -> None:
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(busy.metrics):
        assert family.documentation, family.name
        for sample in family.samples:
            for label, value in sample.labels.items():
                seen.setdefault(label, set()).add(value)
    del seen["le"]
    assert seen.keys() == CLOSED.keys()
    for label, values in seen.items():
        assert values <= CLOSED[label], label
    assert seen["kind"] >= {"pending", "completed", "failed", "not_understood", "not_answered"}
    assert seen["verdict"] == {"delivered", "give_up"}


async def test_metrics_count_what_has_been(busy: Busy) -> None:
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(busy.metrics)
        for sample in family.samples
    }
    assert samples["relay_ends_total", "completed", "unified-video"] == 2
    assert samples["relay_ends_total", "failed", "unified-video"] == 1
    assert samples.get(("relay_watches", "completed", "unified-video"), 0) <= 2, "counted once a minute"
    assert samples["relay_attempts_total", "delivered", "webhook"] == 1
    assert samples["relay_delivery_lag_seconds_count", "webhook"] == 1
    assert samples["relay_detection_lag_seconds_count", "unified-video"] == 3
    assert samples[("relay_invariant_violations",)] == 0
    assert samples["relay_oldest_due_seconds", "poll"] < 10


async def test_metrics_hold_no_secret_and_nothing_that_a_caller_said(busy: Busy) -> None:
    for what, word in {**SAID, "token": TOKEN, "API key": API_KEY, "secret": SECRET, "key": "sk-upstream"}.items():
        assert word not in busy.metrics, what
    assert "127.0.0.1" not in busy.metrics


# The effective configuration

HIDDEN = {
    "DATABASE_URL": "postgres://relay:hidden-word@db.example:5432/relay?sslmode=require",
    "RELAY_SECRET_KEY": "hidden-key-hidden-key,hidden-old-hidden-old",
    "RELAY_API_KEY": "rly_hidden",
    "RELAY_SIGNING_SECRET": signing.new_secret(),
    "SLACK_BOT_TOKEN": "xoxb-hidden",
    "RELAY_METRICS_TOKEN": "hidden-metrics",
    "RELAY_EGRESS_PROXY": "http://user:hidden@proxy.example:4750",
    "UNIFIED_VIDEO_API_KEY": "sk-hidden",
}


def effective(*words: str, **environ: str | None) -> str:
    unset = dict.fromkeys(field.alias for field in Settings.model_fields.values() if field.alias)
    ran = CliRunner().invoke(cli, ["config", *words], env={**unset, "COLUMNS": "200", **environ})
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_config_shows_each_value_and_where_it_is_from(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "relay.toml").write_text('log_level = "warning"\nrate_limit = 7\n', "utf-8")
    rows = json.loads(effective("--json", RELAY_CONFIG=str(tmp_path), PORT="8123", RELAY_POLL_INTERVAL="0.5-2"))
    shown = {row["variable"]: (row["value"], row["from"]) for row in rows}
    options = {field.alias for name, field in Settings.model_fields.items() if name != "deployed"}
    assert shown.keys() == options - {None}
    assert shown["RELAY_CONFIG"] == (str(tmp_path), "environment")
    assert shown["PORT"] == (8123, "environment")
    assert shown["LOG_LEVEL"] == ("warning", "file")
    assert shown["RELAY_RATE_LIMIT"] == (7, "file")
    assert shown["RELAY_GRACE"] == (20, "default")
    assert shown["RELAY_POLL_INTERVAL"] == ("0.5-2", "environment")


def test_config_says_what_holds_in_the_words_of_the_file_and_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/papyrus.toml").write_text(PAPYRUS, "utf-8")
    (tmp_path / "relay.toml").write_text('provider = "papyrus"\nretention = "7d"\n', "utf-8")
    (tmp_path / "relay.key").write_text("hidden-key-of-the-vault", "utf-8")
    database = f"sqlite:///{tmp_path}/{'a-long-name-' * 8}.db"
    said = effective(RELAY_CONFIG=str(tmp_path), DATABASE_URL=database)
    shown = {words[0]: words[1:] for line in said.splitlines() if (words := line.split())}
    assert shown["RELAY_EXPIRES_IN"] == ["24h", "default"]
    assert shown["RELAY_RETENTION"] == ["7d", str(tmp_path / "relay.toml")]
    assert shown["RELAY_SANDBOX"] == ["true", "default"]
    assert shown["RELAY_HOST"] == ["127.0.0.1", "default"]
    assert shown["RELAY_SECRET_KEY"] == ["********", str(tmp_path / "relay.key")]
    assert shown["PAPYRUS_BASE_URL"] == ["https://papyrus.example", "papyrus.toml"]
    assert "hidden" not in said
    narrow = effective(RELAY_CONFIG=str(tmp_path), DATABASE_URL=database, COLUMNS="80")
    assert "…" not in narrow
    assert narrow.count("a-long-name-") >= 1


PAPYRUS = """
[request]
base_url = "https://papyrus.example"
path = "/jobs/{task_id}"
[read]
status = "status"
[statuses]
completed = ["done"]
"""


def test_config_shows_of_providers_what_is_set_and_the_default(tmp_path: Path) -> None:
    config = str(Path(__file__).parents[2] / "config")
    (tmp_path / "key").write_text("sk-hidden", "utf-8")
    given = {"KIE_VEO_BASE_URL": "https://u:hidden@kie.example", "RUNWAY_API_KEY_FILE": str(tmp_path / "key")}
    rows = json.loads(effective("--json", RELAY_CONFIG=config, UNIFIED_VIDEO_API_KEY=None, **given))
    options = {field.alias for field in Settings.model_fields.values()}
    assert [tuple(row.values()) for row in rows if row["variable"] not in options] == [
        ("KIE_VEO_BASE_URL", "https://********@kie.example", "environment"),
        ("RUNWAY_API_KEY", "********", "RUNWAY_API_KEY_FILE"),
        ("UNIFIED_VIDEO_BASE_URL", None, "default"),
        ("UNIFIED_VIDEO_API_KEY", None, "default"),
    ]


def test_config_masks_every_secret(tmp_path: Path) -> None:
    for said in (effective(**HIDDEN), effective("--json", **HIDDEN)):
        assert "hidden" not in said
        assert HIDDEN["RELAY_SIGNING_SECRET"].removeprefix("whsec_")[:12] not in said
        assert "db.example" in said, "where the database is is no secret"
    file = tmp_path / "key"
    file.write_text("hidden-in-a-file-hidden", "utf-8")
    assert "hidden" not in effective("--json", RELAY_SECRET_KEY_FILE=str(file)).replace(str(file), "")


# The log


async def test_each_line_of_the_log_is_an_object_that_says_when_and_what(busy: Busy) -> None:
    assert len(busy.lines) > 5
    for line in busy.lines:
        assert line["event"], line
        assert line["level"] in ("debug", "info", "warning", "error")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])


async def test_the_log_follows_a_watch_from_its_request_to_its_delivery(busy: Busy) -> None:
    of_watch = [line for line in busy.lines if line.get("watch_id") == busy.registered["id"]]
    registered, ended, delivered = of_watch
    assert [line["event"] for line in of_watch] == ["registered", "completed", "delivered"]
    assert busy.request_id == "req-of-the-router"
    assert registered["request_id"] == busy.request_id
    assert registered["task_id"] == ended["task_id"] == SAID["task id"]
    assert (ended["provider"], ended["polls"]) == ("unified-video", 2)
    assert (delivered["event_type"], delivered["status"], delivered["attempts"]) == ("task.completed", 200, 1)
    assert delivered["delivery_id"].startswith("dlv_")
    died = [line for line in busy.lines if line["event"] == "dead"]
    assert {(line["level"], line["status"]) for line in died} == {("warning", 410)}


async def test_the_log_holds_no_secret_at_any_level(busy: Busy) -> None:
    text = busy.process.log.read_text("utf-8")
    for what in ("upstream key", "path", "header", "metadata"):
        assert SAID[what] not in text, what
    for word in (TOKEN, API_KEY, SECRET, "sk-upstream"):
        assert word not in text


def test_a_line_that_is_too_long_is_still_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own would be slow."""
    import structlog

    from relay.telemetry import logs

    logs.set_up("info", "json")
    try:
        raise RuntimeError("ü" * 5000 + "the end")
    except RuntimeError:
        structlog.stdlib.get_logger("test").exception("broke", task_id="t" * 30_000)
    logging.getLogger().handlers[0].flush()
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line.encode()) <= MAX_LINE
    read = json.loads(line)
    assert read["event"] == "broke"
    assert read["exception"].endswith("the end")


def test_a_clock_that_is_stopped_while_it_fires_does_not_complain(caplog: pytest.LogCaptureFixture) -> None:
    async def stop_while_firing() -> None:
        async def tick() -> None:
            await asyncio.sleep(0.001)

        clock = Scheduler()
        for name in "abcde":
            clock.add(name, tick, 0.01)
        clock.start()
        await asyncio.sleep(0.02)
        time.sleep(0.012)  # noqa: ASYNC251 - as on a machine that is busy
        await asyncio.sleep(0)
        await clock.stop()

    for _ in range(20):
        uvloop.run(stop_while_firing())
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_documentation_is_made_once_and_not_for_each_request(
    api: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [(await api.http.get(path)).content for path in ("/docs", "/openapi.json", "/docs.css")]

    def work(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(ops._templates, "get_template", work)
    monkeypatch.setattr(ops, "orjson", SimpleNamespace(dumps=work))
    monkeypatch.setattr(ops, "Path", work)
    assert [(await api.http.get(path)).content for path in ("/docs", "/openapi.json", "/docs.css")] == pages


@pytest.mark.parametrize(("key", "warned"), [("rly_" + "x" * 19, True), ("rly_" + "x" * 20, False)])
async def test_a_short_api_key_is_warned_of_at_the_start_without_its_value(
    tmp_path: Path, key: str, warned: bool
) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", RELAY_API_KEY=key)
    with capture_logs() as lines:
        async with deployment(environ, working=False):
            pass
    said = [line for line in lines if "RELAY_API_KEY" in line["event"]]
    assert [line["log_level"] for line in said] == ["warning"] * warned
    assert all(key not in str(line) for line in said)
