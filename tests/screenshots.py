"""Pictures of the dashboard with something on it, for people to look at: `python -m tests.screenshots [FOLDER]`.

Without a folder it renews docs/dashboard.png. With one, it takes every page at every size and in both themes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import tempfile
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.ids import new_id
from relay.model.reading import Result
from relay.model.watch import State
from relay.store.schema import deliveries, events, lags, targets, watches
from relay.wiring import now
from tests.support import parties
from tests.support.browser import browsing, go
from tests.support.deployment import Deployment, deployment, environment

ROOT = Path(__file__).parent.parent
HOUR = 3_600_000
SIZES = {"phone": (360, 1500), "laptop": (1280, 1000), "4k": (3840, 2160)}
ENDS = {State.COMPLETED: 88, State.FAILED: 6, State.EXPIRED: 1, State.CANCELLED: 2, State.LOST: 1}
MODELS = ("sora-2", "veo-3.1", "kling-v2", "wan-2.5", "runway-gen4")
PASSWORD = "for-the-pictures"


def _task() -> str:
    return f"{random.choice(MODELS)}:task_{secrets.token_hex(13)}"


def _ended(app_id: str, at: int) -> dict[str, Any]:
    state = random.choices(list(ENDS), list(ENDS.values()))[0]
    took = random.randint(40_000, 400_000)
    name = secrets.token_hex(6)
    result = Result(
        url=f"https://cdn.example/{name}.mp4",
        thumbnail_url=f"https://cdn.example/{name}.webp",
        preview_url=None,
        width=1280,
        height=720,
        enhanced_prompt=None,
        expires_at="2030-01-01T00:00:00.000Z",
    )
    errors = {
        State.FAILED: {"code": "content_policy", "message": "The prompt was refused by the safety system."},
        State.EXPIRED: {"code": "deadline_passed", "message": "the deadline passed; the upstream last said 'queued'"},
        State.LOST: {"code": "task_not_found", "message": "the upstream does not know this task any more"},
    }
    error = errors.get(state)
    return {
        "id": new_id("wch"),
        "app_id": app_id,
        "provider": "unified-video",
        "task_id": _task(),
        "state": state,
        "upstream_status": str(state),
        "progress": 1.0,
        "result": orjson.dumps(result).decode() if state is State.COMPLETED else None,
        "error": orjson.dumps(error).decode() if error else None,
        "metadata": "{}",
        "wants_progress": False,
        "polls": 20,
        "misses": 0,
        "unknowns": 0,
        "bares": 0,
        "changes": 3,
        "last_poll_at": at,
        "expires_at": at + HOUR,
        "created_at": at - took,
        "ended_at": at,
    }


def _past(tx: sa.Connection, app_id: str, at: int) -> None:
    """A day's worth of ended watches and their deliveries, busier in the afternoon."""
    rows, told, aims, sent, noticed = [], [], [], [], []
    for hour in range(24):
        for _ in range(round(random.uniform(4, 9) * (1 + 2 * (hour % 24 > 12)))):
            ended_at = at - 120_000 - (23 - hour) * HOUR - random.randint(0, HOUR - 200_000)
            row = _ended(app_id, ended_at)
            rows.append(row)
            noticed.append({"watch_id": row["id"], "at": ended_at, "unseen_ms": random.randint(900, 5200)})
            target_id = new_id("tgt")
            about = {"watch_id": row["id"], "host": "app.example", "place": "p"}
            sealed = {"type": "webhook", "address": b"", "events": "task.completed", "fingerprint": b""}
            aims.append({"id": target_id, **about, **sealed})
            told.append({"watch_id": row["id"], "key": "end", "type": "task.completed", "at": ended_at, "body": b"{}"})
            gone = random.random() < 0.97
            sent.append(
                {
                    "id": new_id("dlv"),
                    "webhook_id": new_id("evt"),
                    "app_id": app_id,
                    "target_id": target_id,
                    **about,
                    "event_key": "end",
                    "event_type": "task.progress" if not gone else "task.completed",
                    "state": DeliveryState.DELIVERED,
                    "attempts": 1,
                    "counted": 1,
                    "created_at": ended_at,
                    "settled_at": ended_at + 180,
                }
            )
    for table, these in ((watches, rows), (targets, aims), (events, told), (deliveries, sent), (lags, noticed)):
        tx.execute(sa.insert(table), these)


async def furnish(relay: Deployment, upstream: parties.Upstream, receiver: parties.Receiver) -> dict[str, str]:
    """A deployment with a past, a present, and a receiver that is down; the watches to look at, by name."""
    random.seed(4)
    refused = parties.Answer(b'{"error": "the render queue is being moved; back soon"}', 503)
    receiver.scripts["/down"] = refused
    found = {}
    app_id = (await relay.relay.db.read(lambda tx: tx.execute(sa.text("SELECT id FROM apps")).scalars().first())) or ""
    await relay.relay.db.run(_past, app_id, now())
    for number in range(7):
        task = _task()
        pace = random.uniform(0.006, 0.02)
        begin = random.uniform(0.05, 0.9)
        upstream.scripts[task] = lambda n, begin=begin, pace=pace: parties.says(
            "processing", progress=min(0.99, begin + pace * n / 3)
        )
        if number == 3:
            upstream.scripts[task] = parties.says("queued")
        watch = await relay.register(task, f"{receiver.url}/hook", metadata={"order": "42", "user": "ada"})
        found.setdefault("watch", watch["id"])
        sooner = sa.update(watches).where(watches.c.id == watch["id"])
        sooner = sooner.values(created_at=now() - random.randint(60_000, 200_000))
        await relay.relay.db.run(lambda tx, sooner=sooner: tx.execute(sooner).rowcount)
    for _ in range(2):
        task = _task()
        upstream.scripts[task] = [
            parties.says("queued"),
            parties.says("processing", progress=0.2),
            parties.says("processing", progress=0.61),
            parties.says("processing", progress=0.87),
            parties.done(),
        ]
        watch = await relay.register(task, f"{receiver.url}/hook", f"{receiver.url}/down", metadata={"order": "43"})
        found["dead"] = watch["id"]
    async with asyncio.timeout(20):
        while len(await relay.deliveries(state="dead")) < 2:
            await asyncio.sleep(0.1)
    return found


async def main(folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        async with parties.upstream() as upstream, parties.receiver() as receiver:
            environ = environment(
                f"sqlite:///{place}/relay.db",
                UNIFIED_VIDEO_BASE_URL=upstream.url,
                RELAY_ADMIN_PASSWORD=PASSWORD,
                RELAY_POLL_INTERVAL="0.5-2",
            )
            if folder is not None:
                async with deployment({**environ, "DATABASE_URL": f"sqlite:///{place}/empty.db"}) as relay:
                    await shoot(relay, [("empty", "/")], folder)
            async with deployment(environ) as relay:
                shots = [("front", "/")]
                found = await furnish(relay, upstream, receiver)
                if folder is not None:
                    shots += [
                        ("watch", f"/watches/{found['watch']}"),
                        ("dead", f"/watches/{found['dead']}"),
                        ("search", "/search?q=nothing"),
                    ]
                await shoot(relay, shots, folder)


async def shoot(relay: Deployment, shots: list[tuple[str, str]], folder: Path | None) -> None:
    sizes = SIZES if folder else {"laptop": SIZES["laptop"]}
    for theme in ("light", "dark") if folder else ("light",):
        for size, (width, height) in sizes.items():
            async with browsing(viewport={"width": width, "height": height}, color_scheme=theme) as page:
                await page.goto(f"{relay.url}/login")
                if folder and shots[0][0] == "empty":
                    await page.screenshot(path=folder / f"login-{size}-{theme}.png")
                await go(page, relay.url, PASSWORD)
                for name, path in shots:
                    await page.goto(relay.url + path)
                    if name != "search":
                        await page.locator("#connection.on").wait_for()
                    if name == "dead":
                        await page.locator("details.attempt").last.locator("summary").click()
                    file = folder / f"{name}-{size}-{theme}.png" if folder else ROOT / "docs/dashboard.png"
                    await page.screenshot(path=file, full_page=folder is not None and size == "laptop")


if __name__ == "__main__":
    os.environ.setdefault("TZ", "UTC")
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    asyncio.run(main(parser.parse_args().folder))
