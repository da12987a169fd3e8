"""What a callback sets off: its watch is due at once, at most once a second, however many callbacks come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.errors import RelayError
from relay.model.times import Millis
from relay.store import Database, callbacks
from relay.store.callbacks import BETWEEN, Woken
from relay.store.notifications import Wake

UNDER_WAY_EVERY = 0.3
"""Seconds between two looks at a watch whose query is under way."""

LONGEST = 120.0
"""Seconds for which a callback waits for the end of that query: longer than a claim holds."""

MAX_WAKING = 10_000
"""Watches whose callbacks are remembered. Of more, each callback wakes once, and a second one costs as much."""


class Callbacks:
    """Wakes watches: one transaction per second and watch, however many callbacks come.

    Args:
        db: where the watches are.
        wake: wakes the loops of this process.
        clock: milliseconds since the epoch.
    """

    def __init__(self, db: Database, wake: Wake, clock: Callable[[], Millis]) -> None:
        self._db = db
        self._wake = wake
        self._clock = clock
        self._again: dict[str, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def came(self, watch_id: str) -> None:
        """Wake a watch; after the callback of a moment ago, a second later.

        Raises:
            NotFound: there is no such watch any more.
        """
        if watch_id in self._again:
            self._again[watch_id] = True
            return
        remembered = len(self._again) < MAX_WAKING
        if remembered:
            self._again[watch_id] = False
        try:
            woken = await self._woken(watch_id)
        except BaseException:
            self._again.pop(watch_id, None)
            raise
        if not remembered or woken is Woken.ENDED:
            self._again.pop(watch_id, None)
            return
        task = asyncio.create_task(self._later(watch_id, woken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _woken(self, watch_id: str) -> Woken:
        woken = await self._db.run(callbacks.wake, watch_id, self._clock())
        if woken is Woken.DUE:
            self._wake.polls()
            self._wake.polls(BETWEEN / 1000)
        return woken

    async def _later(self, watch_id: str, woken: Woken) -> None:
        """Wake a watch once more, if its query was under way, or if another callback has come meanwhile."""
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    if woken is Woken.CLAIMED:
                        await asyncio.sleep(UNDER_WAY_EVERY)
                    else:
                        await asyncio.sleep(BETWEEN / 1000)
                        if woken is Woken.ENDED or not self._again[watch_id]:
                            return
                    self._again[watch_id] = False
                    woken = await self._woken(watch_id)
        except (RelayError, TimeoutError):  # the watch is polled in its time all the same
            return
        finally:
            self._again.pop(watch_id, None)
