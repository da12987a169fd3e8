"""Deliveries per second, all due at the start, against a bare aiohttp loop that posts the same bodies.

`python -m tests.bench.deliveries [--deliveries 4000] [--hanging 1] [--postgresql] [--profile FILE]`

Both post to the same raw HTTP server, which has a core of its own. relay claims, signs, sends and records each; the
bare loop only sends. The rate is that of the middle of the arrivals, from the first tenth to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import uvloop

from relay import interpreter
from relay.app import Relay
from relay.channels.webhook import WebhookTarget
from relay.model.event import Event, EventType
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, transition
from relay.settings.sources import load
from relay.store import Database, apps, migrate, outbox, polling, registrations
from relay.store.schema import watches
from relay.telemetry import logs
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.receiver import running
from tests.bench.sizing import postgresql
from tests.support import rows
from tests.support.deployment import environment

COMPLETED = Path(__file__).parents[1] / "answers/unified-video/bodies/documented-completed.json"
RECEIVERS = 100
CONCURRENCY = 40


@dataclass(frozen=True)
class Speed:
    """Deliveries per second, and the CPU milliseconds of each."""

    rate: float
    cpu: float


def body(number: int) -> bytes:
    """Return an event of the usual size."""
    data = {"task_id": f"task_{number}", "state": "completed", "upstream": orjson.Fragment(COMPLETED.read_bytes())}
    return orjson.dumps({"type": "task.completed", "timestamp": "2026-01-01T00:00:00.000Z", "data": data})


def paths(hanging: int) -> list[str]:
    """Return the paths of the receivers, of which some hang."""
    return [f"/{'hang' if number < hanging else 'take'}/{number}" for number in range(RECEIVERS)]


async def _arrivals(session: aiohttp.ClientSession, url: str) -> list[float]:
    async with session.get(f"{url}/arrivals") as answer:
        return list(orjson.loads(await answer.read()))


def _rate(arrivals: Sequence[float]) -> float:
    middle = arrivals[len(arrivals) // 10 : len(arrivals) * 9 // 10]
    return (len(middle) - 1) / (middle[-1] - middle[0])


async def bare(url: str, count: int) -> Speed:
    """Post, and do nothing else."""
    bodies = iter([body(number) for number in range(count)])

    async def post(session: aiohttp.ClientSession) -> None:
        for content in bodies:
            async with session.post(f"{url}/take/1", data=content, headers={"content-type": "application/json"}) as got:
                await got.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        before = len(await _arrivals(session, url))
        cpu = time.process_time()
        await asyncio.gather(*(post(session) for _ in range(CONCURRENCY)))
        cpu = time.process_time() - cpu
        return Speed(_rate((await _arrivals(session, url))[before:]), cpu * 1000 / count)


async def whole(url: str, database_url: str, count: int, hanging: int) -> Speed:
    """Deliver as relay does."""
    interpreter.tune()
    relay = await asyncio.to_thread(_prepared, url, database_url, count, hanging)
    expected = sum(1 for number in range(count) if number % RECEIVERS >= hanging)
    async with aiohttp.ClientSession() as session:
        before = len(await _arrivals(session, url))
        cpu = time.process_time()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(relay.working())
            async with asyncio.timeout(150):
                while len(await _arrivals(session, url)) - before < expected:
                    await asyncio.sleep(0.2)
            cpu = time.process_time() - cpu
            arrivals = (await _arrivals(session, url))[before:]
            relay.settings = relay.settings.model_copy(update={"grace": 0.5})  # what hangs is not waited for
    await relay.aclose()
    return Speed(_rate(arrivals), cpu * 1000 / expected)


def _prepared(url: str, database_url: str, count: int, hanging: int) -> Relay:
    """Return relay with `count` deliveries that are due."""
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    db.close()
    environ = environment(database_url, RELAY_RETRY_SCHEDULE="0s,1h")
    with contextlib.redirect_stdout(Path("/dev/null").open("w")):  # the log keeps it
        logs.set_up("info", "text")
    relay = Relay(load(environ), environ)
    app = relay.db.run_here(apps.by_name, apps.DEFAULT)
    assert app is not None
    now = relay.context.clock() - 1000
    urls = [url + path for path in paths(hanging)]
    for start in range(0, count, 1000):
        new = [
            registrations.Registration(
                app.id,
                "unified-video",
                f"task_{number}",
                (relay.context.targets.seal(app.id, WebhookTarget(type="webhook", url=urls[number % RECEIVERS])),),
                "{}",
                None,
                now,
                now + 86_400_000,
            )
            for number in range(start, min(count, start + 1000))
        ]
        relay.db.run_here(registrations.register, new, now)
        polled = []
        for claim in rows.claim(relay.db, now, most=1000):
            after = transition(claim.watch, Reading(Kind.COMPLETED, "completed", result=rows.LINK), now, Caution())
            event = Event(EventType.COMPLETED, outbox.END, now, body(int(claim.task_id[5:])))
            polled.append(polling.Polled(claim, after, now, None, event=event))
        relay.db.run_here(polling.save, polled)
    assert relay.db.run_here(lambda tx: tx.execute(watches.select().where(watches.c.state == "watching")).all()) == []
    return relay


async def both(url: str, database_url: str, count: int, hanging: int) -> tuple[Speed, Speed]:
    """Return the speed of the bare loop, half of it before and half after relay, and that of relay."""
    before = await bare(url, count // 2)
    relay = await whole(url, database_url, count, hanging)
    after = await bare(url, count // 2)
    return Speed((before.rate + after.rate) / 2, (before.cpu + after.cpu) / 2), relay


RATE = Figure("deliveries/s on one core, SQLite; a bare aiohttp loop that posts the same", Direction.AT_LEAST, 0.3)
HANGING = Figure("deliveries/s with 1 % of the receivers hanging; without", Direction.AT_LEAST, 0.9)


def on_sqlite() -> Iterator[Sample]:
    with _receiver() as url, cores.pinned(cores.RELAY):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            loop, relay = uvloop.run(both(url, f"sqlite:///{folder}/bench.db", 4000, 0))
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            hanging = uvloop.run(whole(url, f"sqlite:///{folder}/bench.db", 4000, RECEIVERS // 100))
    yield Sample(RATE, relay.rate, loop.rate)
    yield Sample(HANGING, hanging.rate, relay.rate)


@contextlib.contextmanager
def _receiver() -> Iterator[str]:
    with cores.pinned(cores.OTHERS), running() as port:
        yield f"http://127.0.0.1:{port}"


BENCHES = (Bench("deliveries", (RATE, HANGING), on_sqlite),)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=4000)
    parser.add_argument("--hanging", type=int, default=0, help="of 100 receivers")
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        url = stack.enter_context(_receiver())
        stack.enter_context(cores.pinned(cores.RELAY))
        database_url = stack.enter_context(postgresql(folder)) if given.postgresql else f"sqlite:///{folder}/bench.db"
        loop, relay = uvloop.run(both(url, database_url, given.deliveries, given.hanging))
    print(f"bare aiohttp loop   {loop.rate:7,.0f} deliveries/s   {loop.cpu:.3f} ms CPU per delivery")
    print(f"relay               {relay.rate:7,.0f} deliveries/s   {relay.cpu:.3f} ms CPU per delivery")
    print(f"ratio               {relay.rate / loop.rate:7.2f}")


if __name__ == "__main__":
    main()
