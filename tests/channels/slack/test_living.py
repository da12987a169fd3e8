"""The living message: posted once whatever happens, edited sparsely, edited to its end, replied to once.

Time passes only when a test says so, for relay and for the simulator alike.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from relay.channels.slack import living as slack_living
from relay.channels.slack.api import SlackApi
from relay.channels.slack.errors import GIVEN_UP, Refusal
from relay.channels.slack.face import AGAIN, OPEN, STOP, Look
from relay.channels.slack.living import LivingMessages
from relay.channels.slack.message import SHORT
from relay.channels.slack.work import Work
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.event import TERMINAL_EVENTS, Upstream, event
from relay.model.ids import new_id
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, State, says_new, transition
from relay.simulators.slack import Conversation, Fault, Limits, SimulatedSlack
from relay.store import Database, deliveries, outbox, polling, processes, registrations, slack_messages, watches
from relay.store.schema import messages as rows_of_messages
from relay.store.schema import targets as rows_of_targets
from relay.store.slack_turns import Rank
from tests.channels.slack.test_channel import EXPECTED, LOOPBACK, cases
from tests.support import rows
from tests.support.parties import until
from tests.support.rows import LINK, NOW
from tests.support.workspace import RENDERS, TOKEN, calls, replies, roots, workspace

pytestmark = pytest.mark.anyio

POST, UPDATE, HISTORY = "chat.postMessage", "chat.update", "conversations.history"
OLD = "C0OLD"


@dataclass
class Scene:
    """A database, a workspace, and what puts the one into the other; its clock stands still."""

    db: Database
    slack: SimulatedSlack
    living: LivingMessages
    app: str
    now: int = NOW
    claims: int = 0
    watch_of: dict[str, str] = field(default_factory=dict)

    def clock(self) -> int:
        return self.now

    def register(self, task_id: str = "task", *events: str, name: str = "#renders", more: bool = False) -> str:
        """Watches a task for a channel (and a webhook, if `more`); the id of the channel's target."""
        self.name = name
        target_id, hook_id = new_id("tgt"), new_id("tgt")
        kinds = events or tuple(TERMINAL_EVENTS.values())
        to = [
            registrations.NewTarget(
                target_id, "slack", b"sealed", f"at {name}", "slack", kinds, target_id.encode(), True
            )
        ]
        if more:
            hook = registrations.NewTarget(
                hook_id, "webhook", b"sealed", hook_id, "app.example", kinds, hook_id.encode()
            )
            to.append(hook)
        wanted = registrations.Registration(
            self.app, "p", task_id, tuple(to), "{}", None, self.now, self.now + 86_400_000
        )
        (made,) = self.db.run_here(registrations.register, [wanted], self.now)
        assert isinstance(made, registrations.Registered)
        self.watch_of[target_id] = made.watch.row.id
        return target_id

    def hears(self, kind: Kind = Kind.PENDING, **said: Any) -> None:
        """The next poll of every watch that is due says so."""
        polled = []
        for one in rows.claim(self.db, self.now):
            reading = Reading(kind, kind.value, **({"result": LINK} if kind is Kind.COMPLETED else {}) | said)
            after = transition(one.watch, reading, self.now, Caution())
            told = None
            if after.state is not State.WATCHING:
                about = {"watch_id": one.id, "task_id": one.task_id, "provider": "p", "state": after.state}
                shown: Any = {**about, "result": after.result, "error": after.error, "metadata": {}}
                upstream = None if reading.body is None else Upstream(reading.body)
                told = event(TERMINAL_EVENTS[after.state], outbox.END, self.now, shown, upstream)
            due, changed = None if told else self.now, says_new(one.watch, after)
            body = reading.body
            stored: dict[str, Any] = {"answer": body, "answer_hash": 1} if body else {"answer_hash": one.answer_hash}
            polled.append(polling.Polled(one, after, self.now, due, event=told, changed=changed, **stored))
        self.db.run_here(polling.save, polled)

    async def edit(self) -> None:
        """The editor looks once."""
        self.claims += 1
        due = self.db.run_here(rows.claim_of, slack_messages, self.now, self.now + 45_000, f"me.{self.claims}", 100)
        for one in due:
            await self.living.show(one, self.name)

    async def tell(self, target_id: str) -> Outcome:
        """One attempt of the delivery of the end, with all the waiting for turns that it takes."""
        for _ in range(20):
            outcome = await self.living.tell(target_id, self.name, "task.completed")
            assert outcome is not None
            if not outcome.unsent:
                return outcome
            self.now += round((outcome.retry_after or 0) * 1000)
        raise AssertionError("it never has its turn")

    def row(self, target_id: str) -> Any:
        query = rows_of_messages.select().where(rows_of_messages.c.target_id == target_id)
        return self.db.run_here(lambda tx: tx.execute(query).one())


@asynccontextmanager
async def scene_on(db: Database, *, look: Look | None = None, **options: Any) -> AsyncIterator[Scene]:
    holder: list[Scene] = []

    def clock() -> int:
        return holder[0].now if holder else NOW

    channels = [Conversation(RENDERS, "renders"), Conversation(OLD, "old", archived=True)]
    given: dict[str, Any] = {"limits": None, "channels": channels, "clock": lambda: clock() / 1000}
    async with workspace(**given | options) as slack:
        api = SlackApi(LOOPBACK, TOKEN, f"{slack.url}/api/")
        look = look or Look("https://relay.example", True)
        holder.append(Scene(db, slack, LivingMessages(db, api, "me", clock, look), rows.app(db)))
        yield holder[0]
        await api.aclose()


@pytest.fixture
async def scene(db: Database) -> AsyncIterator[Scene]:
    async with scene_on(db) as new:
        yield new


def texts(scene: Scene) -> list[str]:
    return [root["text"] for root in roots(scene.slack)]


def actions(message: dict[str, Any]) -> list[str]:
    found = [e for block in message["blocks"] if block["type"] == "actions" for e in block["elements"]]
    return [e["action_id"] for e in [block["accessory"] for block in message["blocks"] if "accessory" in block] + found]


# From the registration to the end


async def test_it_is_posted_edited_and_ended(scene: Scene) -> None:
    target = scene.register("sora-2:task_1")
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task under way: 0 s so far\nThe provider has not been asked yet.\n")
    assert actions(root) == [STOP, OPEN]
    scene.now += 20_000
    scene.hears(progress=0.42, body=orjson.dumps({"prompt": "make animate <!channel>"}))
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task under way: 42%\n“make animate &lt;!channel&gt;”\nmodel sora-2")
    assert "████████░░░░░░░░░░░░  *42%*" in root["blocks"][0]["text"]["text"]
    scene.now += 20_000
    scene.hears(Kind.COMPLETED)
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert actions(root) == [OPEN]
    [reply] = replies(scene.slack, root)
    assert reply["text"] == f"Task finished: “make animate &lt;!channel&gt;”\n<{LINK['url']}|Open the result>"
    block = reply["blocks"][0]
    assert block["text"]["text"] == f":white_check_mark: *Task finished*\n<{LINK['url']}|Open the result>"
    assert [call.method for call in scene.slack.calls] == [POST, UPDATE, UPDATE, POST]
    scene.now += 10_000_000
    await scene.edit()
    assert len(scene.slack.calls) == 4, "an end is not edited again for nothing"


async def test_it_is_edited_sparsely_and_shows_the_latest(scene: Scene) -> None:
    scene.register()
    await scene.edit()
    for tenth in range(1, 100):
        scene.now += 1000
        scene.hears(progress=tenth / 100)
        await scene.edit()
    edits = calls(scene.slack, UPDATE)
    assert 15 <= len(edits) <= 20, "one in five seconds"
    assert edits[-1]["text"].startswith("Task under way: 9")


async def test_the_more_live_the_less_each_is_edited(scene: Scene) -> None:
    for number in range(20):
        scene.register(f"task-{number}")
    for second in range(180):
        scene.now += 1000
        scene.hears(progress=second / 200)
        await scene.edit()
    assert len(roots(scene.slack)) == 20
    posted = [call.at for call in scene.slack.calls if call.method == POST]
    assert all(later - one >= 1.0 for one, later in itertools.pairwise(posted))
    edited = [call.at for call in scene.slack.calls if call.method == UPDATE]
    fullest = max(sum(at <= one < at + 60 for one in edited) for at in edited)
    assert 20 <= fullest <= 38, "the budget is used, and not overdrawn"
    each = {
        ts: sum(call["ts"] == ts for call in calls(scene.slack, UPDATE)) for ts in [r["ts"] for r in roots(scene.slack)]
    }
    assert min(each.values()) >= 2, "none is forgotten"


async def test_what_only_tells_the_time_is_edited_ever_later(scene: Scene) -> None:
    scene.register()
    scene.hears()
    await scene.edit()
    for _ in range(360):
        scene.now += 10_000
        await scene.edit()
    assert 3 < len(calls(scene.slack, UPDATE)) < 20


@pytest.mark.parametrize(
    ("answer", "status", "shown"),
    [
        ({}, "queued", "Waiting in the provider's queue: 0 s so far"),
        ({"queue_position": 4}, "pending", "position 4 in the queue"),
        ({"detail": {"pending_info": {"progress_pos_in_queue": 7}}}, "pending", "position 7 in the queue"),
        ({"detail": {"pending_info": {"queue_status_message": "busy <@U1>"}}}, "pending", "busy &lt;@U1&gt;"),
    ],
)
async def test_what_is_known_of_the_queue_is_told(scene: Scene, answer: Any, status: str, shown: str) -> None:
    scene.register()
    (claim,) = rows.claim(scene.db, scene.now)
    after = transition(claim.watch, Reading(Kind.PENDING, status), scene.now, Caution())
    body = orjson.dumps(answer)
    scene.db.run_here(
        polling.save, [polling.Polled(claim, after, scene.now, NOW, answer=body, answer_hash=1, changed=True)]
    )
    await scene.edit()
    assert shown in texts(scene)[0]


async def test_an_upstream_that_does_not_answer_is_not_hidden(scene: Scene) -> None:
    scene.register()
    for _ in range(3):
        scene.hears(Kind.NOT_ANSWERED)
    await scene.edit()
    assert "did not answer the last 3 times" in texts(scene)[0]


async def test_an_end_that_comes_first_is_posted_in_its_final_form(scene: Scene) -> None:
    target = scene.register()
    scene.hears(Kind.COMPLETED)
    await scene.edit()
    assert not scene.slack.calls, "that is the delivery's to do"
    await scene.tell(target)
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert len(replies(scene.slack, root)) == 1


async def test_an_end_that_is_not_told_to_the_channel_is_shown_all_the_same(scene: Scene) -> None:
    scene.register("task", "task.failed")
    await scene.edit()
    scene.now += 20_000
    scene.hears(Kind.COMPLETED)
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert replies(scene.slack, root) == []


async def test_a_watch_that_is_stopped_says_so_at_once(scene: Scene) -> None:
    target = scene.register()
    await scene.edit()
    scene.db.run_here(watches.cancel, scene.app, scene.watch_of[target], scene.now, "Stopped by <@U0PERSON>.")
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("No longer watched\nStopped by <@U0PERSON>.")
    assert actions(root) == [OPEN]


async def test_a_webhook_that_is_dead_shows_with_a_way_out(scene: Scene) -> None:
    target = scene.register(more=True)
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    await scene.tell(target)
    for one in scene.db.run_here(rows.claim_of, outbox, scene.now, scene.now + 45_000, "me.1", 10):
        state = DeliveryState.DELIVERED if one.target_type == "slack" else DeliveryState.DEAD
        attempt = Attempt(1, scene.now, 1, Outcome(Verdict.GIVE_UP))
        done = outbox.Tried(one, attempt, 1, state, None, scene.now)
        scene.db.run_here(outbox.record, [done])
    scene.now += 60_000
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert "app.example could not be notified" in root["text"]
    assert actions(root) == [AGAIN, OPEN]
    assert len(replies(scene.slack, root)) == 1


@pytest.mark.parametrize("kind", ["slack", "webhook", "another"])
async def test_the_dead_end_of_any_other_target_shows_and_is_sent_again(scene: Scene, kind: str) -> None:
    ends = tuple(TERMINAL_EVENTS.values())
    other = registrations.NewTarget("tgt_2", kind, b"sealed", "elsewhere", f"{kind}.example", ends, b"other")
    target = scene.register()
    wanted = registrations.Registration(scene.app, "p", "task", (other,), "{}", None, scene.now, scene.now + 86_400_000)
    scene.db.run_here(registrations.register, [wanted], scene.now)
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    await scene.tell(target)
    claims = scene.db.run_here(rows.claim_of, outbox, scene.now, scene.now + 45_000, "me.1", 10)
    scene.now += 60_000
    for claim in claims:  # the end in the living message cannot be delivered either: it is not for itself to say so
        gone = Attempt(1, scene.now, 1, Outcome(Verdict.GIVE_UP))
        scene.db.run_here(outbox.record, [outbox.Tried(claim, gone, 1, DeliveryState.DEAD, None, scene.now)])
    await scene.edit()
    [root] = roots(scene.slack)
    assert f"{kind}.example could not be notified" in root["text"]
    assert "slack could not" not in root["text"]
    watch_id = scene.watch_of[target]
    assert scene.db.run_here(deliveries.send_again, scene.app, watch_id, scene.now, "Sent again.") == 1
    [claim] = scene.db.run_here(rows.claim_of, outbox, scene.now, scene.now + 45_000, "me.2", 10)
    assert claim.target_id == "tgt_2"


async def test_strangers_words_have_no_say_in_the_markup(scene: Scene) -> None:
    hostile = "<!channel> *bold* https://evil.example <https://evil.example|click> :x:"
    target = scene.register(f"`{hostile}`")
    upstream = orjson.dumps({"prompt": hostile, "queue_status_message": hostile})
    scene.hears(Kind.PENDING, body=upstream)
    await scene.edit()
    scene.now += 20_000
    scene.hears(Kind.FAILED, error={"code": hostile, "message": hostile}, body=upstream)
    seen = [str(roots(scene.slack)[0]["blocks"])]
    await scene.tell(target)
    [root] = roots(scene.slack)
    [reply] = replies(scene.slack, root)
    for message in (root, reply):
        texts = [block["text"] for block in message["blocks"] if block["type"] == "section"]
        assert all(text["type"] == "plain_text" or text["verbatim"] for text in texts)
        assert all(text["type"] == "plain_text" or "*bold*" not in text["text"] for text in texts)
        seen += [str([text for text in texts if text["type"] == "mrkdwn"]), message["text"]]
    assert not any("<!channel" in one or "<https://evil" in one for one in seen[1:])
    assert "&lt;!channel&gt;" in seen[0]


async def test_two_targets_of_one_channel_share_the_message(scene: Scene) -> None:
    first = scene.register("task")
    second = scene.register("task", "task.completed")
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    await scene.tell(first)
    await scene.tell(second)
    [root] = roots(scene.slack)
    assert len(replies(scene.slack, root)) == 1


async def test_without_interactivity_there_are_links_instead_of_buttons(db: Database) -> None:
    async with scene_on(db, look=Look("https://relay.example", False)) as scene:
        target = scene.register()
        await scene.edit()
        assert actions(roots(scene.slack)[0]) == []
        link = f"<https://relay.example/watches/{scene.watch_of[target]}|Open in relay>"
        assert link in str(roots(scene.slack)[0]["blocks"])
        scene.hears(Kind.COMPLETED)
        await scene.tell(target)
        assert actions(roots(scene.slack)[0]) == []
        assert link in str(roots(scene.slack)[0]["blocks"])


# Posted once, whatever happens


@pytest.mark.parametrize("name", ["#renders", "renders", RENDERS])
@pytest.mark.parametrize(
    "fault", [Fault.drop(), Fault.html(502, commit=True), Fault.error("internal_error", commit=True)]
)
async def test_a_post_that_may_have_happened_is_found_and_adopted(scene: Scene, fault: Fault, name: str) -> None:
    target = scene.register(name=name)
    scene.slack.fail_next(POST, fault)
    await scene.edit()
    assert (len(roots(scene.slack)), scene.row(target).ts) == (1, None)
    scene.now += 30_000
    scene.hears(progress=0.5)
    await scene.edit()
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task under way: 50%")
    assert len(calls(scene.slack, POST)) == 1


async def test_an_end_whose_post_may_have_happened_is_adopted_and_replied_to_once(scene: Scene) -> None:
    target = scene.register()
    scene.hears(Kind.COMPLETED)
    scene.slack.fail_next(POST, Fault.drop())
    assert (await scene.tell(target)).error == "disconnected"
    scene.slack.fail_next(POST, Fault.drop())
    assert (await scene.tell(target)).error == "disconnected"
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    [root] = roots(scene.slack)
    assert len(replies(scene.slack, root)) == 1
    assert len(calls(scene.slack, POST)) == 2


async def test_somebody_elses_message_is_not_adopted(scene: Scene) -> None:
    other = scene.register("other")
    await scene.edit()
    target = scene.register("task")
    scene.slack.fail_next(POST, Fault.drop(commit=False))
    scene.now += 30_000
    await scene.edit()
    scene.now += 30_000
    await scene.edit()
    assert len(roots(scene.slack)) == 2
    assert scene.row(other).ts != scene.row(target).ts


async def test_without_the_scope_it_is_posted_again(db: Database) -> None:
    async with scene_on(db, tokens={TOKEN: ["chat:write"]}) as scene:
        scene.register()
        scene.slack.fail_next(POST, Fault.drop())
        await scene.edit()
        scene.now += 30_000
        await scene.edit()
        assert len(roots(scene.slack)) == 2, "at least once is what is left then"


async def test_while_it_cannot_look_it_does_not_post(scene: Scene) -> None:
    scene.register(name=RENDERS)
    scene.slack.fail_next(POST, Fault.drop())
    await scene.edit()
    for fault in (Fault.html(503), Fault.rate_limited(30), Fault.error("internal_error"), Fault.drop()):
        scene.slack.fail_next(HISTORY, fault)
        scene.now += 300_000
        await scene.edit()
        assert len(calls(scene.slack, POST)) == 1
    scene.now += 300_000
    await scene.edit()
    assert len(roots(scene.slack)) == 1


async def test_a_process_that_dies_after_the_post_leaves_one_message(scene: Scene) -> None:
    target = scene.register()
    (dead,) = scene.db.run_here(rows.claim_of, slack_messages, scene.now, scene.now + 45_000, "dead.1", 10)
    work = Work.on(dead, "#renders")
    content = slack_living.face(dead, scene.now, Look())
    await scene.living._post(work, content, Rank.REST)  # and is killed before it can save
    assert (len(roots(scene.slack)), scene.row(target).ts) == (1, None)
    scene.db.run_here(processes.bury, "dead", scene.now)
    scene.now += 5000
    await scene.edit()
    assert len(roots(scene.slack)) == 1
    assert scene.row(target).ts == roots(scene.slack)[0]["ts"]
    assert not scene.db.run_here(slack_messages.save, dead, work.values(), scene.now, None), (
        "a late save changes nothing"
    )


async def test_who_has_the_message_keeps_others_away(scene: Scene) -> None:
    target = scene.register()
    scene.db.run_here(rows.claim_of, slack_messages, scene.now, scene.now + 45_000, "other.1", 10)
    scene.hears(Kind.COMPLETED)
    outcome = await scene.living.tell(target, "#renders", "task.completed")
    assert outcome is not None
    assert (outcome.unsent, outcome.free, scene.slack.calls) == (True, True, [])
    scene.now += 46_000
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED


async def test_a_target_without_a_living_message_is_somebody_elses_business(scene: Scene) -> None:
    target = scene.register()
    scene.db.run_here(lambda tx: tx.execute(rows_of_messages.delete()))
    assert await scene.living.tell(target, "#renders", "task.completed") is None
    assert await scene.living.tell(target, "#renders", "task.progress") is None


@pytest.mark.parametrize("kind", ["task.progress", "task.late"])
async def test_what_goes_on_is_shown_by_the_message(scene: Scene, kind: str) -> None:
    target = scene.register()
    outcome = await scene.living.tell(target, "#renders", kind)
    assert outcome is not None
    assert (outcome.verdict, scene.slack.calls) == (Verdict.DELIVERED, [])


# What Slack refuses


async def test_a_message_that_was_deleted_is_posted_anew(scene: Scene) -> None:
    target = scene.register()
    await scene.edit()
    scene.slack.channel(RENDERS).messages.clear()
    scene.hears(Kind.COMPLETED)
    await scene.tell(target)
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert len(replies(scene.slack, root)) == 1
    scene.slack.channel(RENDERS).messages.clear()
    await scene.tell(target)  # somebody asked for it again
    [root] = roots(scene.slack)
    assert len(replies(scene.slack, root)) == 1


@pytest.mark.parametrize("code", ["cant_update_message", "edit_window_closed"])
async def test_what_cannot_be_edited_is_told_whole_in_the_thread(scene: Scene, code: str) -> None:
    target = scene.register()
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    scene.slack.fail_next(UPDATE, Fault.error(code))
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task under way")
    [reply] = replies(scene.slack, root)
    assert reply["text"].startswith("Task finished")
    assert len(reply["blocks"]) > 1


async def test_a_picture_that_slack_cannot_fetch_is_left_out_of_root_and_edit(db: Database) -> None:
    async def nothing(_url: str) -> bool:
        return False

    async with scene_on(db, fetch_image=nothing) as scene:
        pictured = {**LINK, "thumbnail_url": "https://cdn.example/1.png"}
        for early in (True, False):
            target = scene.register(f"task {early}")
            if early:
                await scene.edit()
            scene.hears(Kind.COMPLETED, result=pictured)
            assert (await scene.tell(target)).verdict is Verdict.DELIVERED
            root = roots(scene.slack)[-1]
            assert root["text"].startswith("Task finished")
            assert not [block for block in root["blocks"] if block["type"] == "image"]
        assert len(roots(scene.slack)) == 2


async def test_sound_blocks_that_slack_refuses_go_as_text_and_come_back_when_it_takes_them(db: Database) -> None:
    """In an incident: the message, its edits, its end and the reply, each posted once."""
    pictured = {**LINK, "thumbnail_url": "https://cdn.example/1.png"}
    async with scene_on(db) as scene:
        for posted_before in (True, False):
            scene.slack.refuse_blocks(not posted_before)
            target = scene.register(f"task {posted_before}")
            for _ in range(3):
                scene.now += 2_000
                await scene.edit()
            scene.slack.refuse_blocks()
            scene.now += 20_000
            scene.hears(progress=0.5)
            for _ in range(4):
                scene.now += 2_000
                await scene.edit()
            root = roots(scene.slack)[-1]
            assert (root["text"].startswith("Task under way: 50%"), "blocks" in root) == (True, False)
            scene.hears(Kind.COMPLETED, result=pictured)
            assert (await scene.tell(target)).verdict is Verdict.DELIVERED
            root = roots(scene.slack)[-1]
            assert (root["text"].startswith("Task finished"), "blocks" in root) == (True, False)
            [reply] = replies(scene.slack, root)
            assert (reply["text"].startswith("Task finished"), "blocks" in reply) == (True, False)
            scene.slack.refuse_blocks(False)
            scene.now += 40_000
            assert (await scene.tell(target)).verdict is Verdict.DELIVERED
            assert [block["type"] for block in roots(scene.slack)[-1]["blocks"]][:2] == ["section", "image"]
        assert len(roots(scene.slack)) == 2


async def test_an_end_that_is_posted_first_goes_as_text_once(db: Database) -> None:
    async with scene_on(db) as scene:
        scene.slack.refuse_blocks()
        target = scene.register()
        scene.hears(Kind.COMPLETED, result={**LINK, "thumbnail_url": "https://cdn.example/1.png"})
        assert (await scene.tell(target)).verdict is Verdict.DELIVERED
        [root] = roots(scene.slack)
        assert len(replies(scene.slack, root)) == 1
        assert [len(call.get("blocks", [])) > 0 for call in calls(scene.slack, POST)] == [
            True,
            True,
            False,
            True,
            False,
        ]


async def test_a_text_that_is_too_long_for_an_edit_is_followed_by_a_short_one(scene: Scene) -> None:
    target = scene.register("t" * 400)
    await scene.edit()
    scene.hears(Kind.COMPLETED, body=orjson.dumps({"prompt": "&" * 400, "model": "&" * 500}))
    scene.slack.fail_next(UPDATE, Fault.error("msg_too_long"))
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    [root] = roots(scene.slack)
    assert root["text"].startswith("Task finished")
    assert len(root["text"]) <= SHORT < len(calls(scene.slack, UPDATE)[0]["text"])
    assert len(replies(scene.slack, root)) == 1


@pytest.mark.parametrize("code", ["thread_not_found", "cannot_reply_to_message", "restricted_action_thread_locked"])
async def test_without_a_thread_the_message_stands_for_the_reply(scene: Scene, code: str) -> None:
    target = scene.register()
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    scene.slack.fail_next(POST, Fault.error(code))
    outcome = await scene.tell(target)
    assert (outcome.verdict, outcome.error) == (Verdict.DELIVERED, None)
    assert "no thread" in (outcome.note or "")
    [root] = roots(scene.slack)
    assert (root["text"].startswith("Task finished"), replies(scene.slack, root)) == (True, [])
    edits = len(calls(scene.slack, UPDATE))
    scene.now += 40_000
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    assert (len(calls(scene.slack, UPDATE)), len(calls(scene.slack, POST))) == (edits + 1, 2)


async def test_an_end_that_fits_neither_message_nor_thread_gets_a_message_of_its_own(scene: Scene) -> None:
    target = scene.register()
    await scene.edit()
    scene.hears(Kind.COMPLETED)
    scene.slack.fail_next(UPDATE, Fault.error("edit_window_closed"))
    scene.slack.fail_next(POST, Fault.error("thread_not_found"))
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    before, end = roots(scene.slack)
    assert (before["text"].startswith("Task under way"), end["text"].startswith("Task finished")) == (True, True)
    assert len(replies(scene.slack, end)) == 1


async def test_each_code_leads_to_its_behaviour(scene: Scene) -> None:
    """The table of the reference, on the edit of an end."""
    for code, refusal in cases(EXPECTED):
        target = scene.register(f"task {code}")
        scene.now += 10_000
        await scene.edit()
        posted = len(roots(scene.slack))
        scene.hears(Kind.COMPLETED)
        scene.slack.fail_next(UPDATE, Fault.error(code))
        outcome = await scene.tell(target)
        if refusal in (Refusal.GONE, Refusal.FROZEN):
            assert outcome.verdict is Verdict.DELIVERED
            assert len(roots(scene.slack)) == posted + (refusal is Refusal.GONE)
        elif refusal is Refusal.LAYOUT:
            assert outcome.verdict is Verdict.DELIVERED
            assert "blocks" not in roots(scene.slack)[-1]
        else:
            given_up = refusal in GIVEN_UP
            assert outcome.verdict is (Verdict.GIVE_UP if given_up else Verdict.RETRY), code
            assert (outcome.error, outcome.free) == (code, refusal is Refusal.RATE_LIMIT)
            scene.now += 40_000
            assert (await scene.tell(target)).verdict is Verdict.DELIVERED
            assert len(roots(scene.slack)) == posted
        root = next(one for one in reversed(roots(scene.slack)) if f"task {code}" in one["text"])
        assert len(replies(scene.slack, root)) == 1, code
        scene.now += 10_000


@pytest.mark.parametrize("code", ["not_in_channel", "invalid_auth", "something_new"])
async def test_progress_that_slack_refuses_is_tried_ever_later(scene: Scene, code: str) -> None:
    scene.register()
    for _ in range(1000):
        scene.slack.fail_next(POST, Fault.error(code))
    for percent in range(100):
        for _ in range(3):
            scene.now += 12_000
            await scene.edit()
        scene.hears(progress=percent / 100)
    assert 3 <= len(calls(scene.slack, POST)) <= 12


async def test_a_channel_that_takes_the_app_in_later_gets_its_message(scene: Scene) -> None:
    scene.slack.channel(RENDERS).member = False
    target = scene.register()

    def reason() -> str | None:
        (watch,) = scene.db.run_here(watches.load, [scene.watch_of[target]])
        return watch.targets[0].reason

    await scene.edit()
    assert roots(scene.slack) == []
    assert reason() == "not_in_channel: invite the app to the channel: /invite @relay", "told before the end"
    scene.slack.channel(RENDERS).member = True
    scene.now += 60_000
    scene.hears(progress=0.5)
    await scene.edit()
    assert len(roots(scene.slack)) == 1
    assert reason() is None
    scene.hears(Kind.COMPLETED)
    assert (await scene.tell(target)).verdict is Verdict.DELIVERED
    assert len(roots(scene.slack)) == 1


async def test_an_archived_channel_ends_the_delivery_with_a_way_out(scene: Scene) -> None:
    target = scene.register()
    await scene.edit()
    scene.slack.channel(RENDERS).archived = True
    scene.hears(Kind.COMPLETED)
    outcome = await scene.tell(target)
    assert (outcome.verdict, outcome.error) == (Verdict.GIVE_UP, "is_inactive")
    assert "unarchive" in (outcome.note or "")


# Rate limits


async def test_a_rate_limit_is_honoured_by_all_messages(scene: Scene) -> None:
    first, second = scene.register("one"), scene.register("two")
    for _ in range(3):
        scene.now += 2000
        await scene.edit()
    scene.hears(Kind.COMPLETED)
    scene.slack.fail_next(UPDATE, Fault.rate_limited(30))
    refused = await scene.tell(first)
    assert (refused.free, refused.unsent, refused.retry_after) == (True, False, 30)
    before = len(scene.slack.calls)
    other = await scene.living.tell(second, "#renders", "task.completed")
    assert other is not None
    assert (other.unsent, len(scene.slack.calls)) == (True, before)
    assert 10 < (other.retry_after or 0) <= 18, "all but what ends may run ahead; and he asks again before that"
    scene.now += 31_000
    assert (await scene.tell(second)).verdict is Verdict.DELIVERED


async def test_nothing_that_slack_limits_comes_too_fast(db: Database) -> None:
    """Forty at once, with the simulator's limits on: who is told to wait comes back when he was told."""
    async with scene_on(db, limits=Limits()) as scene:
        waiting = {scene.register(f"task-{number}"): NOW for number in range(40)}
        scene.hears(Kind.COMPLETED)
        shown_by = {}
        while waiting:
            target, due = min(waiting.items(), key=lambda item: item[1])
            scene.now = max(scene.now, due)
            outcome = await scene.living.tell(target, "#renders", "task.completed")
            assert outcome is not None
            assert outcome.unsent or outcome.verdict is Verdict.DELIVERED, outcome
            if len(roots(scene.slack)) > len(shown_by):
                shown_by[target] = scene.now
            if outcome.unsent:
                waiting[target] = scene.now + round((outcome.retry_after or 0) * 1000)
            else:
                del waiting[target]
        assert scene.slack.limited == 0
        assert len(roots(scene.slack)) == 40
        assert all(len(replies(scene.slack, root)) == 1 for root in roots(scene.slack))
        assert max(shown_by.values()) - NOW < 60_000, "the ends are shown before the replies are written"


async def test_a_post_that_was_long_on_its_way_is_not_followed_at_once(scene: Scene) -> None:
    """Slack counts when posts arrive: the first may have come late, and the next would come at once."""
    scene.register("one")
    scene.slack.fail_next(POST, Fault.slow(0.2))
    posting = asyncio.create_task(scene.edit())

    async def arrived() -> bool:
        return bool(scene.slack.calls)

    await until(arrived)
    scene.now += 5000
    await posting
    scene.register("two")
    scene.now += 900
    await scene.edit()
    assert len(calls(scene.slack, POST)) == 1
    scene.now += 200
    await scene.edit()
    assert len(calls(scene.slack, POST)) == 2


def test_the_rows_go_with_their_watch(db: Database) -> None:
    app = rows.app(db)
    target = registrations.NewTarget("tgt_1", "slack", b"", "place", "slack", ("task.completed",), b"1", True)
    watch_id = rows.watch(db, app, "task", target)
    assert db.run_here(slack_messages.lives, "tgt_1")
    db.run_here(watches.erase, app, watch_id, NOW)
    assert not db.run_here(slack_messages.lives, "tgt_1")
    assert db.run_here(lambda tx: tx.execute(rows_of_targets.select()).first()) is None
