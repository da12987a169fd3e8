"""A message that lives with its task: posted once, edited rarely, edited to its end, with one reply in its thread.

Slack has no idempotency key. To post a message only once, its row says that a post may be under way before the post
begins. After a crash, the next claim of such a row first searches the channel for the message's own metadata, if the
token's scopes allow that, and adopts the message. See docs/decisions/0010-living-message.md.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import structlog

from relay.channels.base import DEADLINE
from relay.channels.slack.api import SlackApi
from relay.channels.slack.errors import GIVEN_UP, Refusal
from relay.channels.slack.face import REPLY, Look, face, is_of, reply_to
from relay.channels.slack.message import TASK, SlackMessage
from relay.channels.slack.turns import (
    EDITS,
    SlackTurns,
    later,
    may_have_happened,
    refusal_of,
)
from relay.channels.slack.work import FROZEN, Work, digest
from relay.errors import StoreUnavailable
from relay.model.delivery import Outcome, Verdict
from relay.model.event import EventType
from relay.model.times import Millis
from relay.outbound.deadline import Deadline
from relay.store import Database, slack_messages, slack_turns
from relay.store.slack_messages import Living
from relay.store.slack_turns import Rank

log = structlog.stdlib.get_logger(__name__)

LEASE: Millis = 45_000
"""Milliseconds that a claim of a message holds: longer than `DEADLINE` and the save."""

EDIT_EVERY: Millis = 5_000
"""Milliseconds between two edits of one message, at least."""

EDIT_SHARE: Millis = 1600
"""Milliseconds between two edits of one message, for each message that lives at the same time."""

AFTERWARDS: Millis = 2000
"""Milliseconds between two edits of a message that shows its end, which seldom changes."""

IDLE: Millis = 60_000
"""Milliseconds after which a message is edited although only time has passed, at first; later less often."""

FIRST_BACKOFF: Millis = 10_000
"""Milliseconds to wait after a first failure; each further one doubles it."""

MAX_BACKOFF: Millis = 3_600_000
"""Milliseconds to wait after a failure, at most."""

MAX_FAILURES = 10
"""Failures in a row after which a message is tried again only when it changes."""

BUSY = 0.5
"""Seconds before the next try to claim a message that another process has claimed."""

CLOCKS_DIFFER = 120.0
"""Seconds by which Slack's clock may be behind."""

CHANNEL_ID = re.compile("[CDG][A-Z0-9]{4,}")


class LivingMessages:
    """Posts and edits living messages.

    Args:
        db: where the messages are.
        api: calls Slack.
        process: the name of this process in leases.
        clock: returns the milliseconds since the epoch.
        look: what the deployment can offer below them.
    """

    def __init__(self, db: Database, api: SlackApi, process: str, clock: Callable[[], Millis], look: Look) -> None:
        self._db = db
        self._process = process
        self._clock = clock
        self._look = look
        self._turns = SlackTurns(db, api, clock)
        self._numbers = itertools.count(1)

    # The end

    async def tell(self, target_id: str, name: str, kind: str) -> Outcome | None:
        """Show the end in the target's message and reply to it; return None if the target has no such message.

        An attempt does not repeat what an earlier one did: it edits the message, or posts it if that was not possible
        before, and then there is one reply. A delivery that is sent again edits the message once more, and posts it
        again if it was deleted.

        Args:
            name: the channel, as the target has it.
            kind: the event's type. The message shows progress anyway, and that a task is late.
        """
        if kind in (EventType.PROGRESS, EventType.LATE):
            lives = await self._db.read(slack_messages.lives, target_id)
            return Outcome(Verdict.DELIVERED, note="the living message shows it") if lives else None
        now = self._clock()
        lease = f"{self._process}.end.{next(self._numbers)}"
        living = await self._db.run(slack_messages.take, target_id, now, now + LEASE, lease)
        if isinstance(living, bool):
            return later(BUSY) if living else None
        work = Work.on(living, name)
        try:
            outcome = await self._within_deadline(self._show_end, work)
        except Exception:  # a fault of relay's own, which the delivery records: its next attempt must find this free
            await self._db.persist(slack_messages.save, living, {}, now, now + AFTERWARDS)
            raise
        # Look once more, soon, for what happened meanwhile: another delivery that is dead, or this delivery itself.
        soon = now + AFTERWARDS
        await self._db.persist(slack_messages.save, living, {**work.values(), "invited": outcome.unsent}, soon, soon)
        return outcome

    async def _show_end(self, work: Work) -> Outcome:
        """Edit the message to its end, or post it, and reply once."""
        if missed := await self._adopt(work):
            return missed
        content = face(work.living, self._clock(), self._look)
        if work.ts is not None and (not work.ended or work.reply_ts is not None):
            outcome = await self._edit(work, content, Rank.END)
            refusal = refusal_of(outcome)
            if refusal is Refusal.FROZEN:
                work.ended = True
                work.shown = FROZEN
            elif refusal is Refusal.GONE:
                work.ts = work.reply_ts = None
            elif outcome.verdict is not Verdict.DELIVERED or work.reply_ts is not None:
                return outcome
        if work.ts is None:
            outcome = await self._post(work, content, Rank.END)
            if outcome.verdict is not Verdict.DELIVERED:
                return outcome
        work.ended = True
        return await self._reply(work, content)

    async def _reply(self, work: Work, content: SlackMessage) -> Outcome:
        """Reply in the thread of the message; if Slack has no thread there, let the message stand for the reply."""
        frozen = work.shown == FROZEN
        outcome = await self._post(work, reply_to(work.living, content, whole=frozen), Rank.REPLY)
        if refusal_of(outcome) not in (Refusal.NO_THREAD, Refusal.GONE):
            return outcome
        if frozen:  # The message does not show the end either: it goes into a new one.
            work.ts = work.shown = None
            return later(0.0)
        work.reply_ts = work.ts
        return replace(outcome, verdict=Verdict.DELIVERED, error=None, note="the message shows it; it has no thread")

    # Everything before

    async def show(self, living: Living, name: str) -> None:
        """Show the state of the task now, and save when to look again. An end is left to its delivery."""
        now = self._clock()
        work = Work.on(living, name)
        over = living.watch.ended_at is not None
        if over and (living.telling or (work.ts is None and work.posting_at is None)):
            await self._db.persist(slack_messages.save, living, {}, now, None)
            return
        rank = Rank.REST if not over else Rank.REPLY if work.ended else Rank.END
        outcome = await self._within_deadline(lambda work: self._bring_up_to_date(work, rank), work)
        quiet_until, due = self._next_look(work, outcome, now)
        values = {**work.values(), "invited": outcome.unsent}
        await self._db.persist(slack_messages.save, living, values, quiet_until, due)

    async def fail(self, living: Living) -> None:
        """Count a failure after a fault of relay's own. What its work may have posted is found by the next search."""
        now = self._clock()
        work = Work.on(living, "")
        quiet_until, due = self._next_look(work, Outcome(Verdict.RETRY, "internal"), now)
        await self._db.persist(slack_messages.save, living, {"failures": work.failures}, quiet_until, due)

    def _next_look(self, work: Work, outcome: Outcome, now: Millis) -> tuple[Millis, Millis | None]:
        """Return before when a message is not edited again, and when it is due if nothing changes.

        Args:
            now: when the work on it began.
        """
        watch = work.living.watch
        over = watch.ended_at is not None
        quiet = AFTERWARDS if over else max(EDIT_EVERY, EDIT_SHARE * work.living.crowd)
        if outcome.verdict is Verdict.DELIVERED:
            work.failures = 0
            work.refused = None
            work.ended = over
            idle = max(IDLE, (now - watch.created_at) // 4, 3 * quiet)
            return now + quiet, None if over else now + idle
        if outcome.unsent or outcome.free:
            turn = self._clock() + round((outcome.retry_after or 0.0) * 1000)
            return turn, turn
        refusal = refusal_of(outcome)
        if refusal is Refusal.GONE:
            work.ts = work.reply_ts = None
            return now + quiet, None if over else now
        log.warning("not shown in Slack", watch_id=watch.id, error=outcome.error, note=outcome.note)
        backoff = min(MAX_BACKOFF, FIRST_BACKOFF << min(work.failures, 20))
        again = now + max(round((outcome.retry_after or 0) * 1000), backoff)
        work.failures += 1
        if refusal in GIVEN_UP:
            work.refused = f"{outcome.error}: {outcome.note}" if outcome.note else outcome.error
        hopeless = outcome.verdict is not Verdict.RETRY or refusal is Refusal.FROZEN
        return again, None if hopeless or work.failures >= MAX_FAILURES else again

    async def _bring_up_to_date(self, work: Work, rank: Rank) -> Outcome:
        """Post the message if it is not there yet, or edit it if it shows something else."""
        if missed := await self._adopt(work):
            return missed
        content = face(work.living, self._clock(), self._look)
        if work.ts is None:
            return await self._post(work, content, rank)
        if work.shown in (FROZEN, digest(work.laid_out(content))):
            return Outcome(Verdict.DELIVERED)
        return await self._edit(work, content, rank)

    # Calls

    async def _within_deadline(self, act: Callable[[Work], Awaitable[Outcome]], work: Work) -> Outcome:
        try:
            with Deadline(DEADLINE):
                return await act(work)
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        except StoreUnavailable:
            return later(1.0)

    async def _edit(self, work: Work, content: SlackMessage, rank: Rank) -> Outcome:
        """Edit the message itself."""
        invited = work.living.invited(rank)
        if wait := await self._db.run(slack_turns.turn, EDITS, rank, self._clock(), invited=invited):
            return later(wait / 1000)
        shown = work.laid_out(content)
        body = {**shown.body(), "metadata": shown.metadata, "channel": work.channel, "ts": work.ts}
        outcome, _ = await self._turns.call("chat.update", body, EDITS)
        if outcome.verdict is Verdict.DELIVERED:
            work.shown = digest(shown)
        return work.judged(content, outcome)

    async def _post(self, work: Work, content: SlackMessage, rank: Rank) -> Outcome:
        """Post the message itself, or, once that is there, the reply."""
        now = self._clock()
        wait = await self._db.run(slack_messages.posting, work.living, work.lane, rank, now)
        if wait != 0:
            return later(BUSY if wait is None else wait / 1000)
        work.posting_at = work.posting_at or now
        shown = work.laid_out(content)
        body = {**shown.post(), "metadata": shown.metadata, "channel": work.channel or work.name}
        if work.ts is not None:
            body["thread_ts"] = work.ts
        outcome, answer = await self._turns.call("chat.postMessage", body, work.lane)
        if outcome.verdict is Verdict.DELIVERED:
            await self._note_post(work, shown, str(answer.get("channel")), str(answer.get("ts")))
        elif not may_have_happened(outcome):
            work.posting_at = None
        return work.judged(content, outcome)

    async def _note_post(self, work: Work, content: SlackMessage | None, channel: str, ts: str) -> None:
        """Note where the message, or its reply, stands.

        Args:
            content: what it shows, if that is known.
        """
        work.posting_at = None
        if work.ts is not None:
            work.reply_ts = ts
            return
        work.channel = channel
        work.ts = ts
        work.shown = None if content is None else digest(content)
        await self._db.run(slack_turns.learn, work.lane, channel)

    # Finding what was posted and not recorded

    async def _adopt(self, work: Work) -> Outcome | None:
        """Adopt a post that may have been made but was not recorded.

        Returns:
            None if the work can go on; an outcome if the search has to wait.
        """
        if work.posting_at is None:
            return None
        channel = await self._channel_id(work)
        if channel is None or isinstance(channel, Outcome):
            return channel
        oldest = f"{work.posting_at / 1000 - CLOCKS_DIFFER:.6f}"
        about = {"channel": channel, "oldest": oldest, "include_all_metadata": "true", "limit": "200"}
        method = "conversations.history"
        wanted = partial(is_of, work.living.id, TASK)
        if work.ts is not None:
            method = "conversations.replies"
            about["ts"] = work.ts
            wanted = partial(is_of, work.living.id, REPLY)
        post = await self._turns.search(method, about, "messages", wanted)
        if post is None or isinstance(post, Outcome):
            return post
        log.info("found in Slack what was not recorded", watch_id=work.living.watch.id, method=method)
        await self._note_post(work, None, channel, str(post.get("ts")))
        return None

    async def _channel_id(self, work: Work) -> str | Outcome | None:
        """Return Slack's id of the channel; None if it cannot be found, an outcome if the search has to wait."""
        channel = work.channel or (work.name if CHANNEL_ID.fullmatch(work.name) else None)
        channel = channel or await self._db.read(slack_turns.channel_of, work.lane)
        if channel is not None:
            return channel
        listed = await self._turns.listed(work.name.lstrip("#"))
        if isinstance(listed, str):
            await self._db.run(slack_turns.learn, work.lane, listed)
        return listed
