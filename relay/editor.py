"""Editing: claim the Slack messages that have something new to show, show it, save. Their ends are delivered."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from relay.channels.slack_living import LEASE, LivingMessages
from relay.store import Database, messages
from relay.sweep import Process, Sweep
from relay.vault import Vault

MAX_IN_FLIGHT = 20
"""Messages under way at once: Slack lets no more than one or two through each second."""


class Editor(Sweep[messages.Living]):
    """Posts and edits every living message when its time has come.

    Args:
        db: where the messages are.
        process: who edits.
        living: how they are shown.
        vault: opens addresses.
        wake: called with the seconds until there is something to claim.
    """

    def __init__(
        self, db: Database, process: Process, living: LivingMessages, vault: Vault, wake: Callable[[float], None]
    ) -> None:
        super().__init__(
            db, messages.claim, messages.next_due, process, self._show, LEASE / 1000, MAX_IN_FLIGHT, MAX_IN_FLIGHT, wake
        )
        self._living, self._vault = living, vault

    async def _show(self, claim: messages.Living) -> None:
        address = orjson.loads(self._vault.open(claim.address, claim.id))
        await self._living.show(claim, address["channel"])
