"""The Slack messages of erased watches: each is edited until it says no more than that, where the bot may."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from relay.channels.base import DEADLINE
from relay.channels.slack.api import SlackApi
from relay.channels.slack.errors import Refusal
from relay.channels.slack.living import FIRST_BACKOFF, MAX_BACKOFF
from relay.channels.slack.turns import EDITS, SlackTurns, later, refusal_of
from relay.model.delivery import Outcome, Verdict
from relay.model.times import Millis
from relay.outbound.deadline import Deadline
from relay.store import Database, slack_erasures, slack_turns
from relay.store.slack_erasures import ErasedMessage
from relay.store.slack_turns import Rank

log = structlog.stdlib.get_logger(__name__)

TEXT = "This task was erased."

MAX_FAILURES = 30
"""Failed edits in a row after which a message stays as it is: more than a day's."""

FINAL = (Refusal.GONE, Refusal.FROZEN)
"""The refusals that no further try changes: the message is not there, or may not be edited any more."""


class ErasedMessages:
    """Edits the messages of erased watches.

    Args:
        db: where it is noted which.
        api: calls Slack.
        clock: returns the milliseconds since the epoch.
    """

    def __init__(self, db: Database, api: SlackApi, clock: Callable[[], Millis]) -> None:
        self._db = db
        self._clock = clock
        self._turns = SlackTurns(db, api, clock)

    async def blank(self, message: ErasedMessage) -> None:
        """Edit one message, and save whether to try again."""
        outcome = await self._edit(message)
        if outcome.verdict is Verdict.DELIVERED:
            await self._db.persist(slack_erasures.settle, message)
            return
        retry_after = round((outcome.retry_after or 0.0) * 1000)
        if outcome.unsent or outcome.free:
            due = self._clock() + retry_after
            await self._db.persist(slack_erasures.put_off, message, message.failures, outcome.unsent, due)
            return
        await self.fail(message, outcome.error, retry_after, final=refusal_of(outcome) in FINAL)

    async def fail(
        self, message: ErasedMessage, error: str | None = "internal", retry_after: Millis = 0, *, final: bool = False
    ) -> None:
        """Count a failed edit, and save when to try again.

        Args:
            final: no further try can succeed.
        """
        failures = message.failures + 1
        if final or failures >= MAX_FAILURES:
            where = {"channel": message.channel, "ts": message.ts}
            log.warning("a message of an erased watch stays in Slack as it is", error=error, **where)
            await self._db.persist(slack_erasures.settle, message)
            return
        due = self._clock() + max(retry_after, min(MAX_BACKOFF, FIRST_BACKOFF << min(message.failures, 20)))
        await self._db.persist(slack_erasures.put_off, message, failures, False, due)

    async def _edit(self, message: ErasedMessage) -> Outcome:
        wait = await self._db.run(slack_turns.turn, EDITS, Rank.REST, self._clock(), invited=message.invited)
        if wait:
            return later(wait / 1000)
        # What an edit does not name stays: blocks, attachments and metadata of the message.
        blocks = [{"type": "section", "text": {"type": "plain_text", "text": TEXT}}]
        body = {"text": TEXT, "blocks": blocks, "attachments": [], "metadata": {}}
        try:
            with Deadline(DEADLINE):
                outcome, _ = await self._turns.call(
                    "chat.update", {"channel": message.channel, "ts": message.ts, **body}, EDITS
                )
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        return outcome
