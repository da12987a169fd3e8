"""How much one place may be asked at once: for a query endpoint per (host, key), for a receiver per host.

A lane is what relay knows about one such place: how many calls are under way, how fast they may follow each other, and
whether it has asked for a pause. A caller that has to wait is told for how long: each its own time, at the pace at
which places come free. What is short is waited out; a longer wait is written into the row, which is given back to the
database, so that a slow lane holds no memory and delays no other lane.

Times are seconds of a monotonic clock, given by the caller. A lane is forgotten when nothing of it matters any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

REFUSALS_BEFORE_PAUSE = 3
"""Refusals in a row that pause a lane. A single 429 may concern one task only."""

FIRST_PAUSE, MAX_PAUSE = 5.0, 300.0
"""Seconds that a lane pauses when it did not say how long: doubling from the first to the last."""

MEMORY = 300.0
"""Seconds after a refusal, or after the pause that followed, in which the next one still counts as one in a row."""

SHORT_WAIT = 5.0
"""Seconds that a caller may wait without giving its row back."""

AT_ONCE = 0.001
"""What is told when this process is about to end: somebody else may take the row right away."""

RESERVE = 0.1
"""The part of all places that is kept for lanes that hold none: many slow ones together still let the next one in."""

LONGEST_WAIT = 15.0
"""Seconds that a caller is told to wait at most; it then asks again, and may find that things went faster."""


@dataclass(slots=True)
class Lane:
    """One place and what is known of it.

    Attributes:
        next_start: when the next call may start by the rate alone.
        next_free: the time that was given to the caller who was last told to wait.
        refusals: in a row; those of calls that began before a pause do not count.
        matters_until: when the refusals are forgotten.
        duration: of a call, on average.
        queue: who waits for the next place to come free; told True with the place, False when a pause begins.
    """

    in_flight: int = 0
    next_start: float = 0.0
    next_free: float = 0.0
    paused_until: float = 0.0
    refusals: int = 0
    matters_until: float = 0.0
    duration: float = 0.1
    queue: deque[asyncio.Future[bool]] = field(default_factory=deque)

    def at_rest(self, now: float) -> bool:
        """Whether a new lane would do as well."""
        return self.in_flight == 0 and now >= max(self.next_start, self.paused_until, self.matters_until)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a lane may take: calls at once, and calls per second (None: as many as come)."""

    concurrency: int = 100
    per_second: float | None = None

    def __post_init__(self) -> None:
        rate = 1.0 if self.per_second is None else self.per_second
        if self.concurrency < 1 or not 0.001 <= rate <= 100_000:
            raise ValueError("concurrency must be at least 1, per_second 0.001 to 100000")


class Budget:
    """The lanes of one process.

    Args:
        most: callers that have a place or wait for one, in all lanes together.
        waiting: of these, how many may wait for a place in one lane without giving their rows back.
    """

    def __init__(self, most: int = 10_000, waiting: int = 500) -> None:
        self._most, self._waiting, self._held = most, waiting, 0
        self._lanes: dict[Hashable, Lane] = {}
        self._closed = asyncio.Event()
        self._crowd = 1000

    def close(self) -> None:
        """From now on nobody gets a place here; who waits in a queue is told so at once."""
        self._closed.set()
        for lane in self._lanes.values():
            while lane.queue:
                place = lane.queue.popleft()
                if not place.done():
                    place.set_result(False)

    def lanes_at(self, host: str) -> list[Lane]:
        """The lanes of a host, whosever key each belongs to."""
        return [lane for key, lane in self._lanes.items() if isinstance(key, tuple) and key[0] == host]

    async def enter(self, key: Hashable, limit: Limit) -> float:
        """Takes a place, waiting for it if that is short: 0 if the call may start; else the seconds it is too long."""
        if self._closed.is_set():
            return AT_ONCE
        now = time.monotonic()
        lane = self._lanes.get(key)
        if lane is not None and not self._room(lane):
            return self.take(key, limit, now)
        if lane is not None and limit.per_second is None and now >= lane.paused_until:
            ahead = lane.in_flight + len(lane.queue) - limit.concurrency + 1
            short = ahead * lane.duration / limit.concurrency <= SHORT_WAIT and len(lane.queue) < self._waiting
            if ahead > 0:
                if short and await self._handed(key, lane):
                    return 0.0
                return AT_ONCE if self._closed.is_set() else self.take(key, limit, time.monotonic())
        waited = 0.0
        while (wait := self.take(key, limit, now)) and waited + wait <= SHORT_WAIT:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), wait)
                return AT_ONCE
            waited += wait
            now = time.monotonic()
        return wait

    def _room(self, lane: Lane) -> bool:
        """Whether the lane may hold one more."""
        return self._held < (1 - RESERVE) * self._most or not (lane.in_flight or lane.queue)

    async def _handed(self, key: Hashable, lane: Lane) -> bool:
        """Queues up; whether a place was handed over, before a pause began or the wait became long after all."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[bool] = loop.create_future()

        def give_up() -> None:
            if not place.done():
                lane.queue.remove(place)
                lane.duration = max(lane.duration, SHORT_WAIT)
                place.set_result(False)

        lane.queue.append(place)
        self._held += 1
        giving_up = loop.call_later(SHORT_WAIT, give_up)
        handed = False
        try:
            handed = await place
        except asyncio.CancelledError:
            # It may have been handed over in the same moment: it goes on to the next then.
            if not place.cancelled() and place.result():
                handed = True
                self.leave(key, time.monotonic())
            raise
        finally:
            giving_up.cancel()
            self._held -= not handed
        return handed

    def take(self, key: Hashable, limit: Limit, now: float) -> float:
        """0 if a call may start now, which then counts until `done`; else the seconds after which to ask again."""
        lane = self._lanes.get(key)
        if lane is None:
            self._forget(now)
            lane = self._lanes[key] = Lane()
        spacing = 1 / limit.per_second if limit.per_second else 0.0
        if now < lane.paused_until:
            return self._queue(lane, lane.paused_until, max(spacing, lane.duration / limit.concurrency), now)
        if lane.in_flight >= limit.concurrency or not self._room(lane):
            pace = max(spacing, lane.duration / limit.concurrency)
            return self._queue(lane, now + len(lane.queue) * pace, pace, now)  # behind those who wait here
        # GCRA: a lane that was idle may start up to one second's worth at once.
        if spacing and lane.next_start > now + max(1.0, spacing) - spacing:
            return self._queue(lane, lane.next_start - max(1.0, spacing) + spacing, spacing, now)
        lane.next_start = max(lane.next_start, now) + spacing
        lane.in_flight += 1
        self._held += 1
        return 0.0

    @staticmethod
    def _queue(lane: Lane, earliest: float, spacing: float, now: float) -> float:
        lane.next_free = max(lane.next_free, earliest) + spacing
        if lane.next_free - earliest > LONGEST_WAIT:
            lane.next_free = earliest + spacing
        return max(0.01, lane.next_free - now)

    def done(self, key: Hashable, took: float, now: float, *, refused: bool, retry_after: float | None) -> None:
        """Ends a call.

        Args:
            took: seconds that it lasted.
            refused: the place said that it is asked too much.
            retry_after: seconds that it asked to be left alone.
        """
        lane = self._lanes[key]
        lane.duration += 0.1 * (took - lane.duration)
        if now < lane.paused_until:
            # It began before the pause, which is the answer to all that were under way with it.
            if refused and retry_after:
                self._pause(lane, retry_after, now)
        elif refused:
            lane.refusals += 1
            lane.matters_until = now + MEMORY
            beyond = lane.refusals - REFUSALS_BEFORE_PAUSE
            if beyond >= 0:
                self._pause(lane, retry_after or FIRST_PAUSE * 2.0 ** min(beyond, 16), now)
        else:
            lane.refusals, lane.matters_until = 0, 0.0
        self.leave(key, now)

    def leave(self, key: Hashable, now: float) -> None:
        """Gives a place back, without having called."""
        lane = self._lanes[key]
        lane.in_flight -= 1
        self._held -= 1
        self._hand_over(lane, now)
        if lane.at_rest(now):
            del self._lanes[key]

    @staticmethod
    def _hand_over(lane: Lane, now: float) -> None:
        """Gives the place that came free to whoever waits longest; sends all away when the lane pauses."""
        paused = now < lane.paused_until
        while lane.queue:
            place = lane.queue.popleft()
            if place.done():  # who waited is gone
                continue
            place.set_result(not paused)
            if not paused:
                lane.in_flight += 1
                return

    @staticmethod
    def _pause(lane: Lane, seconds: float, now: float) -> None:
        lane.paused_until = max(lane.paused_until, now + min(seconds, MAX_PAUSE))
        lane.matters_until = lane.paused_until + MEMORY

    def _forget(self, now: float) -> None:
        """Drops the lanes at rest, whenever there are twice as many lanes as were left the last time."""
        if len(self._lanes) >= self._crowd:
            self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.at_rest(now)}
            self._crowd = max(1000, 2 * len(self._lanes))
