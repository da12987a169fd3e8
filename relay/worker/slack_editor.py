"""Editing: claim the Slack messages that have something new to show, show it, save. Their ends are delivered."""

from __future__ import annotations

import orjson

from relay.channels.slack.living import LEASE, LivingMessages
from relay.security.vault import Vault
from relay.store import slack_messages
from relay.store.schema import messages
from relay.worker.claim_loop import Claiming, ClaimLoop, Process

MAX_IN_FLIGHT = 20
"""Messages under way at once: Slack lets no more than one or two through each second."""


class SlackEditor(ClaimLoop[slack_messages.Living]):
    """Posts and edits every living message when its time has come.

    Args:
        process: the process that edits.
        living: how messages are shown.
        vault: opens addresses.
    """

    def __init__(self, process: Process, living: LivingMessages, vault: Vault) -> None:
        claiming = Claiming("edit", messages, slack_messages, LEASE / 1000, MAX_IN_FLIGHT)
        super().__init__(process, claiming, process.wake.edits)
        self._living = living
        self._vault = vault

    async def work(self, claim: slack_messages.Living) -> None:
        """Show what is new in one message."""
        address = orjson.loads(self._vault.open(claim.address, claim.id))
        await self._living.show(claim, address["channel"])

    async def fail(self, claim: slack_messages.Living) -> None:
        """Count a failure of the message: it is shown again later, at first soon, in the end only when it changes."""
        await self._living.fail(claim)
