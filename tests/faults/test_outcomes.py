"""What a fault of relay's own makes of a claim, in each loop, and where the operator sees it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from relay.model.times import Millis
from relay.store import Database, invariants, polling, schema
from relay.store.change_feed import ChangeFeed
from relay.store.notifications import Wake
from relay.telemetry import metrics
from relay.telemetry.tracing import open_tracing
from relay.worker.claim_loop import FIRST_SETBACK, MAX_SETBACK, Claiming, ClaimLoop, Process
from tests.support import rows
from tests.support.deployment import Deployment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until

pytestmark = pytest.mark.anyio
MASK = "********"


def faults(loop: str) -> float:
    return metrics.INTERNAL_ERRORS.labels(loop)._value.get()


async def test_a_secret_that_does_not_open_ends_its_rows(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    """A key, and an address, that were sealed for another row: nothing that comes later can open them."""
    upstream.scripts["told"] = done()
    before = {loop: faults(loop) for loop in ("poll", "deliver")}
    asked = await relay.register("asked", f"{receiver.url}/a", upstream_key="sk-of-the-app", expires_in=3)
    told = await relay.register("told", f"{receiver.url}/b")
    other = await relay.register("other", f"{receiver.url}/c")
    t, w = schema.targets.c, schema.watches.c
    await relay.relay.db.run(
        lambda tx: (
            tx.execute(sa.update(schema.watches).where(w.id == asked["id"]).values(upstream_key=b"\1garbage")),
            tx.execute(sa.update(schema.targets).where(t.watch_id == told["id"]).values(address=b"\1garbage")),
        )
    )

    async def ended() -> bool:
        delivery = await relay.deliveries(watch_id=told["id"])
        return bool(delivery) and delivery[0]["state"] == "dead" and (await relay.watch(asked["id"]))["ended_at"]

    await until(ended)
    watch = await relay.watch(asked["id"])
    assert (watch["state"], watch["error"]["code"]) == ("expired", "internal")
    assert 2 <= watch["polls"] <= 20, "the backoff held"
    (delivery,) = await relay.deliveries(watch_id=told["id"])
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["internal"] * 4
    assert "log" in delivery["attempts"][0]["note"]
    assert receiver.to("/b") == []
    upstream.scripts["other"] = done()
    await receiver.wait_for(1, "/c")
    assert faults("poll") - before["poll"] >= 2
    assert faults("deliver") - before["deliver"] == 4
    found = await relay.relay.db.read(invariants.find_faults)
    assert {one.ids for one in found} == {(asked["id"],), (delivery["id"],)}
    assert await relay.relay.db.read(invariants.find_violations) == []
    assert (await relay.watch(other["id"]))["state"] == "completed"


async def test_a_secret_that_is_the_mask_is_an_ordinary_one(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["key"] = [says("pending", prompt=f"a\nb {MASK}"), done()]
    upstream.scripts["head"] = done()
    receiver.scripts["/b"] = Answer(b'{"a":"\\n ********"}', 500)
    await relay.register("key", f"{receiver.url}/a", upstream_key=MASK)
    target = {"type": "webhook", "url": f"{receiver.url}/b", "headers": {"x-a": MASK}}
    watch = await relay.register("head", target)
    await receiver.wait_for(1, "/a")
    await receiver.wait_for(4, "/b")

    async def dead() -> Any:
        (delivery,) = await relay.deliveries(watch_id=watch["id"])
        return delivery if delivery["state"] == "dead" else None

    delivery = await until(dead)
    assert [attempt["error"] for attempt in delivery["attempts"]] == ["http_500"] * 4


class Broken(ClaimLoop[polling.PollClaim]):
    """A loop in which everything fails: the work, and the outcome of the fault."""

    async def work(self, claim: polling.PollClaim) -> None:
        raise RuntimeError("hidden: what a row holds")

    async def fail(self, claim: polling.PollClaim) -> None:
        raise KeyError("hidden")


async def test_what_cannot_be_saved_is_put_off_ever_longer(db: Database) -> None:
    now: list[Millis] = [rows.NOW]
    watch_id = rows.watch(db, rows.app(db), "task")
    wake = Wake(lambda _name, _wait: None)
    process = Process("me", lambda: now[0], db, wake, ChangeFeed(db), open_tracing(None))
    loop = Broken(process, Claiming("poll", schema.watches, polling, 60.0, 10), wake.polls)
    waits = []
    query = sa.select(schema.watches.c.next_poll_at, schema.watches.c.lease)
    with structlog.testing.capture_logs() as lines:
        for _ in range(12):
            await loop.tick()
            await loop.drain()
            ((due, lease),) = await db.read(lambda tx: list(tx.execute(query)))
            assert lease is None
            waits.append((due - now[0]) / 1000)
            now[0] = due
    assert waits[:3] == [FIRST_SETBACK, 2 * FIRST_SETBACK, 4 * FIRST_SETBACK]
    assert waits[-1] == MAX_SETBACK
    kinds = [(line["event"], line["error"], line.get("times")) for line in lines]
    assert kinds == [
        ("claim failed", "RuntimeError in work", None),
        ("outcome not saved", "KeyError in fail", None),
        ("claim failed again", "RuntimeError in work", 10),
        ("outcome not saved again", "KeyError in fail", 10),
    ]
    assert "hidden" not in repr(lines)
    assert [str(line["exc_info"]) for line in lines[:2]] == ["", ""]
    assert all(line["claim"] == watch_id for line in lines)
