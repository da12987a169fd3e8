"""A message that lives with its task: posted once, edited sparsely, edited to its end, with one reply in its thread.

Slack has no idempotency key. So that a message is not posted twice, its row says that a post may be under way before it
is; whoever finds that afterwards looks in the channel for the message's own metadata first, where the token's scopes
allow it, and adopts what he finds. See docs/decisions/0010-living-message.md.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson
import structlog

from relay.channels.base import DEADLINE
from relay.channels.slack_api import SlackApi
from relay.channels.slack_errors import Refusal
from relay.channels.slack_face import Look, face, reply_to
from relay.channels.slack_message import SlackMessage
from relay.channels.slack_turns import EDITS, POST_APART, POST_SPACING, SlackTurns, later, may_have_happened, refusal_of
from relay.errors import StoreUnavailable
from relay.model import EventType, Millis, Outcome, Verdict
from relay.store import Database, messages
from relay.store.messages import Lane, Living, Rank

log = structlog.stdlib.get_logger(__name__)

LEASE: Millis = 45_000
"""Milliseconds that a message is claimed for: longer than `DEADLINE` and its record."""

EDIT_EVERY, EDIT_SHARE = 5_000, 1600
"""Milliseconds between two edits of one message, at least, and for each message that lives at the same time."""

AFTERWARDS: Millis = 2000
"""Milliseconds between two edits of a message that shows its end: little happens to it then."""

IDLE: Millis = 60_000
"""Milliseconds after which a message that only tells the time is edited all the same, at first; then ever later."""

FIRST_BACKOFF, MAX_BACKOFF, MAX_FAILURES = 10_000, 3_600_000, 10
"""Milliseconds to wait after a failure, doubling from the first to the last; failures after which only news help."""

BUSY = 0.5
"""Seconds after which to ask for a message again that somebody else has at this moment."""

CLOCKS_DIFFER = 120.0
"""Seconds by which Slack's clock may be behind."""

CHANNEL_ID = re.compile("[CDG][A-Z0-9]{4,}")
FROZEN = "frozen"


@dataclass(slots=True)
class _Work:
    """A claimed message and what becomes of it.

    Attributes:
        name: its channel, as the target has it.
    """

    living: Living
    name: str
    channel: str | None
    ts: str | None
    reply_ts: str | None
    posting_at: Millis | None
    ended: bool
    bare: bool
    shown: str | None
    failures: int

    @classmethod
    def on(cls, living: Living, name: str) -> _Work:
        row = living.row
        return cls(
            living,
            name,
            row.channel,
            row.ts,
            row.reply_ts,
            row.posting_at,
            row.ended,
            row.bare,
            row.shown,
            row.failures,
        )

    def values(self) -> dict[str, Any]:
        """As it is saved."""
        names = ("channel", "ts", "reply_ts", "posting_at", "ended", "bare", "shown", "failures")
        return {name: getattr(self, name) for name in names}

    @property
    def lane(self) -> Lane:
        """The posts to its channel."""
        return Lane(f"posts {self.name.lstrip('#').lower()}", POST_SPACING, apart=POST_APART)


class LivingMessages:
    """Posts and edits living messages.

    Args:
        db: where they are.
        api: how Slack is called.
        process: the name of this process in leases.
        clock: milliseconds since the epoch.
        look: what can be offered below them.
    """

    def __init__(self, db: Database, api: SlackApi, process: str, clock: Callable[[], Millis], look: Look) -> None:
        self._db, self._process, self._clock, self._look = db, process, clock, look
        self._turns = SlackTurns(db, api, clock)
        self._numbers = itertools.count(1)

    # The end

    async def tell(self, target_id: str, name: str, kind: str) -> Outcome | None:
        """Shows the end in the target's message and replies to it; None if the target has no such message.

        What is done is not done again by the next attempt: the message is edited, or posted if it could not be before,
        and then there is one reply. A replay edits it anew, and posts it anew if somebody has deleted it.

        Args:
            name: the channel, as the target has it.
            kind: the event's type; progress is shown anyway.
        """
        if kind == EventType.PROGRESS:
            living = await self._db.read(messages.lives, target_id)
            return Outcome(Verdict.DELIVERED, note="the living message shows it") if living else None
        now, lease = self._clock(), f"{self._process}.end.{next(self._numbers)}"
        taken = await self._db.run(messages.take, target_id, now, now + LEASE, lease)
        if isinstance(taken, bool):
            return later(BUSY) if taken else None
        work = _Work.on(taken, name)
        outcome = await self._within_deadline(self._end, work)
        values, soon = {**work.values(), "invited": outcome.unsent}, now + AFTERWARDS
        # One look afterwards, at what came while this went on: a webhook that is dead, or this very delivery.
        await self._db.persist(messages.save, taken, values, soon, soon)
        return outcome

    async def _end(self, work: _Work) -> Outcome:
        if missed := await self._look_back(work):
            return missed
        content = face(work.living, self._clock(), self._look)
        content = content.without_images() if work.bare else content
        if work.ts is not None and (not work.ended or work.reply_ts is not None):
            outcome = await self._edit(work, content, Rank.END)
            refusal = refusal_of(outcome)
            if refusal is Refusal.FROZEN:
                work.ended, work.shown = True, FROZEN
            elif refusal is Refusal.GONE:
                work.ts = work.reply_ts = None
            elif outcome.verdict is not Verdict.DELIVERED or work.reply_ts is not None:
                return outcome
        if work.ts is None:
            outcome = await self._post(work, content, Rank.END)
            if outcome.verdict is not Verdict.DELIVERED:
                return outcome
        work.ended = True
        return await self._post(work, reply_to(work.living, content, whole=work.shown == FROZEN), Rank.REPLY)

    # Everything before

    async def show(self, living: Living, name: str) -> None:
        """Shows how things stand now, and saves when to look again; an end that is being delivered is left to that."""
        now, watch = self._clock(), living.watch
        work, over = _Work.on(living, name), watch.ended_at is not None
        quiet = now + (AFTERWARDS if over else max(EDIT_EVERY, EDIT_SHARE * living.crowd))
        nothing = over and (living.telling or (work.ts is None and work.posting_at is None))
        if nothing:
            await self._db.persist(messages.save, living, {}, now, None)
            return
        rank = Rank.REST if not over else Rank.REPLY if work.ended else Rank.END
        outcome = await self._within_deadline(lambda one: self._brought_up_to_date(one, rank), work)
        refusal = refusal_of(outcome)
        due: Millis | None
        if outcome.verdict is Verdict.DELIVERED:
            work.failures, work.ended = 0, over
            due = None if over else now + max(IDLE, (now - watch.created_at) // 4, 3 * (quiet - now))
        elif outcome.unsent or outcome.free:
            quiet = due = self._clock() + round((outcome.retry_after or 0.0) * 1000)
        elif refusal is Refusal.GONE:
            work.ts = work.reply_ts = None
            due = None if over else now
        else:
            log.warning("not shown in Slack", watch_id=watch.id, error=outcome.error, note=outcome.note)
            wait = max(
                round((outcome.retry_after or 0) * 1000), min(MAX_BACKOFF, FIRST_BACKOFF << min(work.failures, 20))
            )
            work.failures += 1
            tried_again = (
                outcome.verdict is Verdict.RETRY and work.failures < MAX_FAILURES and refusal is not Refusal.FROZEN
            )
            quiet, due = now + wait, now + wait if tried_again else None
        await self._db.persist(messages.save, living, {**work.values(), "invited": outcome.unsent}, quiet, due)

    async def _brought_up_to_date(self, work: _Work, rank: Rank) -> Outcome:
        if missed := await self._look_back(work):
            return missed
        content = face(work.living, self._clock(), self._look)
        content = content.without_images() if work.bare else content
        if work.ts is None:
            return await self._post(work, content, rank)
        if work.shown in (FROZEN, _digest(content)):
            return Outcome(Verdict.DELIVERED)
        return await self._edit(work, content, rank)

    # Calls

    async def _within_deadline(self, act: Callable[[_Work], Any], work: _Work) -> Outcome:
        try:
            async with asyncio.timeout(DEADLINE):
                outcome: Outcome = await act(work)
                return outcome
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        except StoreUnavailable:
            return later(1.0)

    async def _edit(self, work: _Work, content: SlackMessage, rank: Rank) -> Outcome:
        if wait := await self._db.run(messages.turn, EDITS, rank, self._clock(), invited=work.living.invited(rank)):
            return later(wait / 1000)
        body = {**content.body(), "metadata": content.metadata, "channel": work.channel, "ts": work.ts}
        outcome, _ = await self._turns.call("chat.update", body, EDITS)
        if outcome.verdict is Verdict.DELIVERED:
            work.shown = _digest(content)
        return self._without_picture(work, content, outcome)

    async def _post(self, work: _Work, content: SlackMessage, rank: Rank) -> Outcome:
        """Posts the message itself, or, once that is there, the reply."""
        now = self._clock()
        wait = await self._db.run(messages.posting, work.living, work.lane, rank, now)
        if wait != 0:
            return later(BUSY if wait is None else wait / 1000)
        work.posting_at = work.posting_at or now
        body = {**content.post(), "metadata": content.metadata, "channel": work.channel or work.name}
        if work.ts is not None:
            body["thread_ts"] = work.ts
        outcome, said = await self._turns.call("chat.postMessage", body, work.lane)
        if outcome.verdict is Verdict.DELIVERED:
            await self._posted(work, content, str(said.get("channel")), str(said.get("ts")))
        elif not may_have_happened(outcome):
            work.posting_at = None
        return self._without_picture(work, content, outcome)

    async def _posted(self, work: _Work, content: SlackMessage | None, channel: str, ts: str) -> None:
        work.posting_at = None
        if work.ts is not None:
            work.reply_ts = ts
            return
        work.channel, work.ts, work.shown = channel, ts, None if content is None else _digest(content)
        await self._db.run(messages.learn, work.lane, channel)

    @staticmethod
    def _without_picture(work: _Work, content: SlackMessage, outcome: Outcome) -> Outcome:
        """If Slack did not take the picture, the message goes without one as soon as it has its turn."""
        if outcome.error == "invalid_blocks" and content.without_images() != content:
            work.bare = True
            return later(0.0)
        return outcome

    # Finding what was posted and not recorded

    async def _look_back(self, work: _Work) -> Outcome | None:
        """Adopts what may have been posted; what keeps it from looking now, if it might look later."""
        if work.posting_at is None:
            return None
        channel = work.channel or (work.name if CHANNEL_ID.fullmatch(work.name) else None)
        channel = channel or await self._db.read(messages.channel_of, work.lane)
        if channel is None:
            listed = await self._turns.listed(work.name.lstrip("#"))
            if isinstance(listed, Outcome):
                return listed
            channel = listed
            if channel is not None:
                await self._db.run(messages.learn, work.lane, channel)
        if channel is None:
            return None
        method, about = "conversations.history", {"channel": channel}
        if work.ts is not None:
            method, about = "conversations.replies", {"channel": channel, "ts": work.ts}
        oldest = f"{work.posting_at / 1000 - CLOCKS_DIFFER:.6f}"
        about |= {"oldest": oldest, "include_all_metadata": "true", "limit": "200"}
        kind = "relay_task" if work.ts is None else "relay_reply"
        found = await self._turns.search(method, about, "messages", lambda one: _is_ours(one, kind, work.living.id))
        if isinstance(found, Outcome):
            return found
        if found is not None:
            log.info("found in Slack what was not recorded", watch_id=work.living.watch.id, method=method)
            await self._posted(work, None, channel, str(found.get("ts")))
        return None


def _is_ours(message: Mapping[str, Any], kind: str, target_id: str) -> bool:
    metadata = message.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("event_type") != kind:
        return False
    payload = metadata.get("event_payload")
    return isinstance(payload, dict) and payload.get("target_id") == target_id


def _digest(content: SlackMessage) -> str:
    return blake2b(orjson.dumps(content.body()), digest_size=12).hexdigest()
