"""A machine at its limits: no descriptors, no room on the disk, no writes, no resolver. Nothing is lost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from relay.store import Database, invariants
from tests.support.deployment import environment
from tests.support.parties import Receiver, Upstream, done, until
from tests.support.processes import Serve, serve

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process are set as Linux has it"),
]

TASKS = 12

MACHINE = Path(__file__).parent / "machine"


@contextmanager
def limited(pid: int, kind: int, most: int) -> Iterator[None]:
    """Hold a process to a limit while inside."""
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, (soft, hard))


def no_descriptors(process: Serve, _database: Path) -> AbstractContextManager[None]:
    """Allow no number at all: below any other limit, one that relay closes meanwhile could be opened again."""
    return limited(process.process.pid, resource.RLIMIT_NOFILE, 0)


def no_room(process: Serve, database: Path) -> AbstractContextManager[None]:
    wal = database.with_name(f"{database.name}-wal")
    return limited(process.process.pid, resource.RLIMIT_FSIZE, min(wal.stat().st_size, database.stat().st_size))


@contextmanager
def no_writes(_process: Serve, database: Path) -> Iterator[None]:
    """Hold the lock of the writer, as a backup that hangs does."""
    db = Database(f"sqlite:///{database}")
    try:
        with db.engine.begin():
            yield
    finally:
        db.close()


@contextmanager
def told(database: Path, what: str) -> Iterator[None]:
    """Tell the machine (see `machine/sitecustomize.py`) to do something while inside."""
    file = database.with_name(what)
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def read_only(_process: Serve, database: Path) -> AbstractContextManager[None]:
    return told(database, "read_only")


def no_resolver(_process: Serve, database: Path) -> AbstractContextManager[None]:
    return told(database, "no_resolver")


Shortage = Callable[[Serve, Path], AbstractContextManager[None]]

MEANWHILE: dict[Shortage, set[int]] = {
    no_descriptors: {201, 503},  # it needs none, except to look for another process that registers
    no_room: {503},
    no_writes: set(),  # it is not asked for: each write waits for the lock, one after the other
    read_only: {503},
    no_resolver: {503},
}
"""How a registration is answered while it lasts."""


@pytest.mark.parametrize("shortage", MEANWHILE, ids=lambda one: one.__name__)
async def test_a_machine_at_its_limits_loses_nothing_and_goes_on_afterwards(
    shortage: Shortage, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """Tasks end while it lasts. Each is told once it is over, as its upstream says."""
    database = tmp_path / "relay.db"
    more = {
        "RELAY_RETRY_SCHEDULE": ",".join(["0s", *["0.3s"] * 60]),
        "RELAY_POLL_INTERVAL": "0.2",
        "UNIFIED_VIDEO_BASE_URL": upstream.url.replace("127.0.0.1", "upstream.example"),
        "PYTHONPATH": str(MACHINE),
        "RELAY_TEST_MACHINE": str(tmp_path),
    }
    async with serve(environment(f"sqlite:///{database}", **more), tmp_path) as process:
        await process.ready()
        for number in range(TASKS):
            answer = await register(process, number, receiver)
            assert answer.status_code == 201, answer.text
        await until(lambda: all_asked(upstream))  # over connections that are kept, so that tasks end while it lasts
        asked = sum(map(len, upstream.asked.values()))
        with shortage(process, database):
            upstream.default = done()
            await until(lambda: has_trouble(process))
            if MEANWHILE[shortage]:
                answer = await register(process, TASKS, receiver)
                assert answer.status_code in MEANWHILE[shortage], answer.text
                assert answer.status_code == 201 or int(answer.headers["Retry-After"]) >= 1
            assert receiver.posts == []

        async def is_registered() -> bool:
            return (await register(process, TASKS, receiver)).status_code in (200, 201)

        await until(is_registered)
        await receiver.wait_for(TASKS + 1)
        assert sum(map(len, upstream.asked.values())) > asked

        async def settled() -> bool:
            answer = await process.http.get("/v1/deliveries", params={"state": "pending"})
            return answer.json()["data"] == []

        await until(settled)
        listed = (await process.http.get("/v1/watches", params={"limit": 100})).json()["data"]
        assert [one["state"] for one in listed] == ["completed"] * (TASKS + 1)
        assert (await process.http.get("/healthz")).status_code == 200
        assert await process.stop() == 0, process.log.read_text("utf-8")
    assert {post.path for post in receiver.posts} == {f"/{number}" for number in range(TASKS + 1)}
    db = Database(f"sqlite:///{database}")
    assert db.run_here(invariants.find_violations) == []
    db.close()


async def register(process: Serve, number: int, receiver: Receiver) -> httpx.Response:
    """Register a task whose target is named, and is a host of its own."""
    url = receiver.url.replace("127.0.0.1", f"receiver-{number}.example")
    target = {"type": "webhook", "url": f"{url}/{number}"}
    return await process.http.post("/v1/watches", json={"task_id": f"task-{number}", "targets": [target]})


async def all_asked(upstream: Upstream) -> bool:
    return len(upstream.asked) == TASKS


async def has_trouble(process: Serve) -> bool:
    """Whether the shortage has been met: a delivery was not made for a second, or the log says the database is away."""
    if "database away" in process.log.read_text("utf-8"):
        return True
    pending = (await process.http.get("/v1/deliveries", params={"state": "pending"})).json()["data"]
    second_ago = datetime.now(UTC) - timedelta(seconds=1)
    return any(datetime.fromisoformat(one["created_at"]) < second_ago for one in pending)
