"""Erasing: claim the Slack messages of erased watches, and edit each until it says no more than that."""

from __future__ import annotations

from relay.channels.slack.erased import ErasedMessages
from relay.channels.slack.living import LEASE
from relay.store import slack_erasures
from relay.store.schema import erased_messages
from relay.worker.claim_loop import Claiming, ClaimLoop, Process

MAX_IN_FLIGHT = 5
"""Messages under way at once: Slack takes an edit every second or two."""


class SlackEraser(ClaimLoop[slack_erasures.ErasedMessage]):
    """Edits the messages of erased watches.

    Args:
        process: the process that edits.
        erased: how messages are edited.
    """

    def __init__(self, process: Process, erased: ErasedMessages) -> None:
        claiming = Claiming("erase", erased_messages, slack_erasures, LEASE / 1000, MAX_IN_FLIGHT)
        super().__init__(process, claiming, process.wake.erasures)
        self._erased = erased

    async def work(self, claim: slack_erasures.ErasedMessage) -> None:
        """Edit one message."""
        await self._erased.blank(claim)

    async def fail(self, claim: slack_erasures.ErasedMessage) -> None:
        """Count a failure of the message: it is edited again later, or stays as it is in the end."""
        await self._erased.fail(claim)
