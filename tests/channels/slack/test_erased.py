"""The Slack messages of erased watches: each says no more than that, whatever fails on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from relay.channels.slack.erased import MAX_FAILURES, TEXT, ErasedMessages
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.reading import Kind
from relay.simulators.slack import Fault
from relay.store import Database, cleanup, outbox, polling, processes, slack_erasures, slack_messages, watches
from relay.store.due import ANY_APP
from relay.store.registrations import NewTarget
from relay.store.schema import erased_messages
from tests.channels.slack.test_living import UPDATE, Scene, scene_on
from tests.store.test_claims import claim_deliveries, tried
from tests.support import rows
from tests.support.parties import until
from tests.support.rows import NOW
from tests.support.workspace import RENDERS, calls, roots

pytestmark = pytest.mark.anyio

MARK = "MARKED-7f3a"


class Erasing:
    """A scene with one message about a marked task, and what erases it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.erased = ErasedMessages(scene.db, scene.living._turns._api, scene.clock)
        self.looks = 0

    def erase(self, target_id: str) -> None:
        self.scene.db.run_here(watches.erase, self.scene.app, self.scene.watch_of[target_id], self.scene.now)

    async def look(self) -> int:
        """What the eraser does once; how many messages it had."""
        self.looks += 1
        now = self.scene.now
        due = self.scene.db.run_here(slack_erasures.claim, now, now + 45_000, f"me.{self.looks}", {ANY_APP: 10})
        for message in due:
            await self.erased.blank(message)
        return len(due)

    async def look_until_done(self) -> None:
        for _ in range(2 * MAX_FAILURES):
            if not self.left():
                return
            self.scene.now = max(self.scene.now, self.scene.db.run_here(slack_erasures.next_due) or 0)
            await self.look()
        raise AssertionError("it never ends")

    def left(self) -> int:
        count = sa.select(sa.func.count()).select_from(erased_messages)
        return int(self.scene.db.run_here(lambda tx: tx.execute(count).scalar_one()))

    def shown(self) -> list[dict[str, Any]]:
        """All messages in the channel and its threads, with everything that they hold."""
        return [dict(message) for message in self.scene.slack.channel(RENDERS).messages]

    def marks(self) -> int:
        return orjson.dumps(self.shown()).count(MARK.encode())


@pytest.fixture
async def erasing(db: Database) -> AsyncIterator[Erasing]:
    async with scene_on(db) as scene:
        yield Erasing(scene)


async def told(scene: Scene) -> str:
    """A message that lived to its end, with the reply below it."""
    target = scene.register(f"{MARK}-task")
    await scene.edit()
    scene.now += 20_000
    scene.hears(Kind.COMPLETED, body=orjson.dumps({"prompt": MARK}))
    outcome = await scene.tell(target)
    assert outcome.verdict is Verdict.DELIVERED
    return target


async def test_the_message_and_the_reply_say_no_more_than_that(erasing: Erasing) -> None:
    target = await told(erasing.scene)
    assert len(erasing.shown()) == 2
    assert erasing.marks() > 4
    erasing.erase(target)
    assert erasing.left() == 2
    await erasing.look_until_done()
    assert [message["text"] for message in erasing.shown()] == [TEXT, TEXT]
    assert erasing.marks() == 0
    assert all("metadata" not in message for message in erasing.shown())
    assert await erasing.look() == 0


async def test_one_that_is_not_posted_yet_leaves_nothing(erasing: Erasing) -> None:
    target = erasing.scene.register(f"{MARK}-task")
    erasing.erase(target)
    await erasing.scene.edit()
    assert erasing.left() == 0
    assert erasing.shown() == []


@pytest.mark.parametrize("posted", [False, True], ids=["posting", "editing"])
async def test_a_call_under_way_when_it_is_erased_is_undone_too(posted: bool, erasing: Erasing) -> None:
    scene = erasing.scene
    target = scene.register(f"{MARK}-task")
    if posted:
        await scene.edit()
        scene.now += 20_000
        scene.hears(progress=0.5, body=orjson.dumps({"prompt": MARK}))
    before = len(scene.slack.calls)
    scene.slack.fail_next(UPDATE if posted else "chat.postMessage", Fault.slow(0.5))
    calling = asyncio.create_task(scene.edit())

    async def called() -> bool:
        return len(scene.slack.calls) > before

    await until(called)
    erasing.erase(target)
    await erasing.look_until_done()
    await calling
    await erasing.look_until_done()
    assert [message["text"] for message in erasing.shown()] == [TEXT]
    assert erasing.marks() == 0


async def test_a_process_that_dies_on_the_way_leaves_it_to_the_next(erasing: Erasing) -> None:
    scene = erasing.scene
    erasing.erase(await told(scene))
    scene.db.run_here(processes.beat, processes.Member("dead", "host", 1), scene.now)
    assert len(scene.db.run_here(slack_erasures.claim, scene.now, scene.now + 45_000, "dead.1", {ANY_APP: 10})) == 2
    assert await erasing.look() == 0, "they are claimed"
    assert scene.db.run_here(processes.bury, "dead", scene.now) == 2
    await erasing.look_until_done()
    assert erasing.marks() == 0


@pytest.mark.parametrize(
    "fault", [Fault.html(503), Fault.drop(), Fault.rate_limited(30), Fault.error("internal_error"), Fault.broken_json()]
)
async def test_it_is_tried_again_when_slack_fails(fault: Fault, erasing: Erasing) -> None:
    erasing.erase(await told(erasing.scene))
    erasing.scene.slack.fail_next(UPDATE, fault)
    await erasing.look()
    assert erasing.left() >= 1
    await erasing.look_until_done()
    assert erasing.marks() == 0


@pytest.mark.parametrize(("code", "tries"), [("cant_update_message", 1), ("token_revoked", MAX_FAILURES)])
async def test_what_the_bot_may_not_edit_stays_and_is_logged(code: str, tries: int, erasing: Erasing) -> None:
    scene = erasing.scene
    target = scene.register(f"{MARK}-task")
    await scene.edit()
    erasing.erase(target)
    for _ in range(tries):
        scene.slack.fail_next(UPDATE, Fault.error(code))
    with capture_logs() as lines:
        await erasing.look_until_done()
    assert len(calls(scene.slack, UPDATE)) == tries
    (line,) = [line for line in lines if "stays in Slack as it is" in line["event"]]
    assert (line["channel"], line["ts"], line["error"]) == (RENDERS, roots(scene.slack)[0]["ts"], code)
    assert MARK not in str(line)


async def test_what_was_posted_without_a_living_message_is_found_by_what_slack_answered(erasing: Erasing) -> None:
    """To channels. What the receiver of a webhook answers could name any message of the bot's."""
    db = erasing.scene.db
    answer = orjson.dumps({"ok": True, "channel": "C0PLAIN", "ts": "17.000001", "message": {"text": MARK}})
    targets = [
        NewTarget(
            f"tgt_{kind}{host}", kind, b"", f"at {kind} {host}", host, ("task.completed",), f"{kind}{host}".encode()
        )
        for kind, host in (("slack", "slack"), ("slack", "hooks.example"), ("webhook", "slack"))
    ]
    for name, target in zip("abc", targets, strict=True):
        watch_id = rows.watch(db, erasing.scene.app, name, target)
        db.run_here(polling.save, [rows.ended(one) for one in rows.claim(db)])
        (delivery,) = claim_deliveries(db)
        said = Attempt(1, NOW, 5, Outcome(Verdict.DELIVERED, status=200, answer=answer))
        db.run_here(outbox.record, [replace(tried(delivery, DeliveryState.DELIVERED), attempt=said)])
        db.run_here(watches.erase, erasing.scene.app, watch_id, NOW)
    claimed = db.run_here(slack_erasures.claim, NOW, NOW + 45_000, "me.1", {ANY_APP: 10})
    assert [(one.channel, one.ts) for one in claimed] == [("C0PLAIN", "17.000001")]


async def test_what_is_pruned_while_its_message_is_edited_is_not_taken_for_erased(erasing: Erasing) -> None:
    scene = erasing.scene
    await told(scene)
    (message,) = scene.db.run_here(slack_messages.claim, scene.now + 60_000, scene.now + 120_000, "me.x", {ANY_APP: 10})
    scene.db.run_here(
        lambda tx: tx.execute(sa.text("UPDATE deliveries SET state = 'delivered', next_attempt_at = NULL"))
    )
    assert scene.db.run_here(cleanup.prune, scene.now + 1, 10) == 0
    scene.db.run_here(slack_messages.save, message, {}, scene.now, None)
    assert scene.db.run_here(cleanup.prune, scene.now + 1, 10) == 1
    assert erasing.left() == 0
