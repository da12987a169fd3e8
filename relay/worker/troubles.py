"""What is wrong, as this process notices it: one line of the log when it begins and one when it is over, and a row.

The dashboard shows the rows, and the operator is told of them where RELAY_ALERTS says.
"""

from __future__ import annotations

import structlog

from relay.model.times import Millis
from relay.model.trouble import Trouble, upstream_subject
from relay.providers.troubles import UpstreamTroubles
from relay.store import alerts, troubles
from relay.worker.claim_loop import Process

log = structlog.stdlib.get_logger(__name__)

EVERY = 2.0
"""Seconds between two looks."""

NOTED_EVERY: Millis = 60_000
"""Milliseconds between two notes that a trouble lasts: another process may think that it is over."""


class TroubleNotes:
    """Notes in the log and in the database what goes wrong.

    Args:
        process: the process.
        upstreams: what is wrong with upstreams.
        retention: seconds for which alerts are kept.
    """

    def __init__(self, process: Process, upstreams: UpstreamTroubles, retention: float) -> None:
        self._db = process.db
        self._clock = process.clock
        self._wake = process.wake
        self._retention = round(retention * 1000)
        self._upstreams = upstreams
        self._noted_at: Millis = 0
        self._over: set[str] = set()

    async def tick(self) -> None:
        """Note what has changed since the last look, and now and then what lasts."""
        now = self._clock()
        news = self._upstreams.news()
        for trouble in (*news.begun, *news.own_begun):
            await self._warn(trouble)
        for provider in (*news.ended, *news.own_ended):
            log.info("upstream answers well again", provider=provider)
        self._over.update(upstream_subject(provider) for provider in (*news.ended, *news.well))
        if self._over:
            await self._db.run(troubles.over, self._over, now)
            self._over.clear()
        lasting = self._upstreams.standing
        noted_lately = 0 <= now - self._noted_at < NOTED_EVERY
        for trouble in news.begun if noted_lately else lasting:
            await self._db.run(troubles.begin, trouble, now)
        if not noted_lately:
            self._noted_at = now
            await self._db.run(troubles.end_unasked, now)
            await self._db.run(alerts.forget, now - self._retention, now)
        if await self._db.read(troubles.any_known):
            await self._db.run(troubles.end_delivered, now)
            if (await self._db.run(alerts.tell_operator, now)).waiting:
                self._wake.deliveries()

    async def _warn(self, trouble: Trouble) -> None:
        waiting = await self._db.read(troubles.waiting, trouble.detail["provider"])
        log.warning(
            "upstream is in trouble",
            provider=trouble.detail["provider"],
            trouble=trouble.detail["trouble"],
            status=trouble.detail["status"],
            message=trouble.message,
            remedy=trouble.remedy,
            watches_waiting=waiting,
        )
