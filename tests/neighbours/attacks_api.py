"""Attacks by what relay is asked through its API: large, many, slow, unread."""

from __future__ import annotations

import asyncio
import itertools
import json

from tests.neighbours.attack import attack, hosts, hundreds, watch
from tests.neighbours.stage import Stage
from tests.neighbours.wire import Answer, Line


def batch_of(watches: int, targets: int, stage: Stage) -> bytes:
    """Return the body of a batch, for hosts that nobody asks."""
    urls = [f"https://h{number}.example/{{}}" for number in range(targets)]
    first = stage.number()
    batch = [watch(f"pending-{first}-{n}", *(url.format(n) for url in urls)) for n in range(watches)]
    return json.dumps({"watches": batch}).encode()


@attack(both=True)
async def the_largest_batch(stage: Stage) -> None:
    """A thousand watches with a hundred targets each, in one request."""
    body = batch_of(1000, 100, stage)
    await stage.together(1, lambda line: line.ask("POST", "/v1/watches/batch", body))


@attack(both=True)
async def full_batches(stage: Stage) -> None:
    """Batches of ten thousand targets, four at a time."""

    async def register(line: Line) -> Answer:
        return await line.ask("POST", "/v1/watches/batch", batch_of(100, 100, stage))

    await stage.together(4, register)


@attack()
async def wrong_batches(stage: Stage) -> None:
    """Batches of which each item is wrong in a hundred places."""
    item = {"task_id": "", "targets": [{"type": "webhook", "url": "http://user@10.0.0.1/", "x": 1}] * 100}
    body = json.dumps({"watches": [item] * 1000}).encode()
    await stage.together(4, lambda line: line.ask("POST", "/v1/watches/batch", body))


@attack()
async def unfinished_bodies(stage: Stage) -> None:
    """Batches of 16 MB that all but end."""
    size = 16 * 1024 * 1024
    piece = b" " * 65536

    async def one(line: Line) -> None:
        headers = f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
        await line.send("POST", "/v1/watches/batch", headers=headers)
        for _ in range(size // len(piece) - 1):
            await line.write(piece)
        await asyncio.sleep(20)

    await stage.each(25, one)


@attack()
async def trickling_bodies(stage: Stage) -> None:
    """Hundreds of bodies that come byte by byte."""

    async def one(line: Line) -> None:
        await line.send("POST", "/v1/watches", headers="Content-Type: application/json\r\nContent-Length: 9999\r\n")
        for _ in range(100):
            await line.write(b" ")
            await asyncio.sleep(0.3)

    await stage.each(300, one)


@attack(options={"RELAY_RETRY_SCHEDULE": "0s,0.1s,0.1s,0.1s,0.1s,0.1s,0.1s,0.1s,0.1s,0.1s"})
async def large_lists(stage: Stage) -> None:
    """Pages of two hundred deliveries, each with ten answers that are all binary."""
    urls = [stage.url("/binary", host) for host in hosts(200)]
    await stage.batch(hundreds(urls, "done", stage))
    await stage.together(8, lambda line: line.ask("GET", "/v1/deliveries?limit=200"))


@attack(prepares=True, both=True)
async def lists_of_many_targets(stage: Stage) -> None:
    """Pages of two hundred watches with a hundred targets each."""
    await stage.ask("POST", "/v1/watches/batch", json.loads(batch_of(100, 100, stage)))
    await stage.ask("POST", "/v1/watches/batch", json.loads(batch_of(100, 100, stage)))
    stage.prepared.set()
    await stage.together(16, lambda line: line.ask("GET", "/v1/watches?limit=200"))


@attack(prepares=True, both=True)
async def searches(stage: Stage) -> None:
    """Searches among thousands of rows for what is not there."""
    for _ in range(10):
        await stage.batch([watch(f"done-{stage.number()}", stage.url("/ok", "127.0.0.2")) for _ in range(1000)])
    paths = itertools.cycle(
        (
            "/v1/watches?state=lost",
            "/v1/watches?provider=none",
            "/v1/watches?task_id=none",
            "/v1/deliveries?state=dead",
            "/v1/deliveries?watch_id=none",
        )
    )
    stage.prepared.set()
    await stage.together(32, lambda line: line.ask("GET", next(paths)))


@attack(prepares=True, both=True)
async def metrics(stage: Stage) -> None:
    """Figures, asked for as fast as they come, with thousands of rows behind them."""
    for _ in range(5):
        await stage.batch([watch(f"done-{stage.number()}", stage.url("/ok", "127.0.0.2")) for _ in range(1000)])
    stage.prepared.set()
    await stage.together(32, lambda line: line.ask("GET", "/metrics"))


@attack()
async def streams(stage: Stage) -> None:
    """Hundreds of streams of a watch with a hundred targets that changes all the time; half of them are not read."""
    urls = [f"https://h{n}.example/{'x' * 200}" for n in range(100)]
    followed = (await stage.ask("POST", "/v1/watches", watch("moving-followed", *urls))).json["id"]

    path = f"/v1/watches/{followed}/events"

    async def read(line: Line) -> None:
        reader = await line.send("GET", path)
        while await reader.read(65536):
            pass

    async def ignore(line: Line) -> None:
        await line.send("GET", path)
        await asyncio.sleep(30)

    await asyncio.gather(stage.each(260, read), stage.each(260, ignore))


@attack()
async def waiting_requests(stage: Stage) -> None:
    """Hundreds of requests that wait for a change."""
    held = (await stage.ask("POST", "/v1/watches", watch("pending-held", stage.url("/ok")))).json["id"]
    path = f"/v1/watches/{held}"
    await stage.together(520, lambda line: line.ask("GET", path, headers="Prefer: wait=25\r\n"))


@attack()
async def idle_connections(stage: Stage) -> None:
    """More connections than there are descriptors, on which nothing is asked."""

    async def one(line: Line) -> None:
        await line.open()
        await asyncio.sleep(30)

    await stage.each(600, one)


@attack(both=True)
async def full_metadata(stage: Stage) -> None:
    """Registrations with all the metadata that they may have, as fast as the key's rate allows."""
    metadata = {"x": "y" * 4000}

    async def register(line: Line) -> Answer:
        registration = watch(f"pending-{stage.number()}", stage.url("/ok"), metadata=metadata)
        return await line.ask("POST", "/v1/watches", registration)

    await stage.together(50, register)


@attack(both=True)
async def erasures(stage: Stage) -> None:
    """Watches that are registered and erased at once, again and again."""

    async def both(line: Line) -> Answer:
        registered = await line.ask("POST", "/v1/watches", watch(f"done-{stage.number()}", stage.url("/ok")))
        if registered.status != 201:
            return registered
        stage.note(registered)
        return await line.ask("DELETE", f"/v1/watches/{registered.json['id']}?erase=true")

    await stage.together(30, both)


@attack(both=True)
async def one_row(stage: Stage) -> None:
    """One task that hundreds of connections register again and again."""
    registration = watch("pending-one", stage.url("/ok"))
    await stage.together(200, lambda line: line.ask("POST", "/v1/watches", registration))


@attack(quick=True)
async def strangers(stage: Stage) -> None:
    """Callers without a key, at what is open to all, and at what is not."""
    paths = itertools.cycle(("/readyz", "/docs", "/openapi.json", "/v1/watches", "/login"))

    async def look(line: Line) -> Answer:
        with Line(stage.port, None) as stranger:
            return await stranger.ask("GET", next(paths))

    await stage.together(60, look, allowed=(401, 403, 404))
