"""How much one place may be asked at once: for a query endpoint per (host, key), for receivers see `receivers`.

A lane is what relay knows about one such place: how many calls are under way, how fast they may follow each other, and
whether it has asked for a pause. A caller that has to wait learns for how long: each caller has its own time, at the
pace at which places come free. A short wait takes place here, where apps take turns. A longer one is written into the
row, which is given back to the database, so that a slow lane holds no memory and delays no other lane.

Times are seconds of a monotonic clock, given by the caller. A lane is forgotten when nothing of it matters any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack

from relay.outbound.callers import Caller, CallKind, Waiter
from relay.outbound.lane import APP_SHARE, KEPT, SHARES, Lane, Leased, Limit, admits, kept_of

SHORT_WAIT = 5.0
"""Seconds that a caller may wait without giving its row back."""

QUICK_WAIT = 0.3
"""Seconds that any number of callers may wait in a quick lane: to give their rows back would take as long."""

AT_ONCE = 0.001
"""The wait when this process is about to end: another process may take the row right away."""

LONGEST_WAIT = 15.0
"""Seconds that a caller has to wait at most before it asks again: things may have gone faster."""

ROOM_WAIT = 0.2
"""Seconds after which a caller for whom the process has no room should ask again, at least. Some of those that have
room must go first, and a caller that asks before that only makes work."""

REFUSED_WAIT = 1.0
"""Seconds after which a caller that may not wait should ask again, at least."""


class Lanes:
    """The lanes of one process.

    Args:
        most: callers that have a place or wait for one, in all lanes together.
        waiting: of these, how many may wait for a place in one lane without giving their rows back. In a quick lane
            more may, beyond both figures.
        between_apps: in each lane, keep some places for apps that hold few.
    """

    def __init__(self, most: int = 10_000, waiting: int = 500, *, between_apps: bool = False) -> None:
        self._most = most
        self._waiting = waiting
        self._between_apps = between_apps
        self._held = 0
        self._by_app: Counter[str] = Counter()
        self._shared: Counter[CallKind | Caller] = Counter()
        self._lanes: dict[Hashable, Lane] = {}
        self._closed = False
        self._crowd = 1000
        self._want: Callable[[Hashable], None] | None = None

    def close(self) -> None:
        """Give no more places, and send away at once the callers that wait."""
        self._closed = True
        for lane in self._lanes.values():
            _send_away(lane)
            _let_go(lane)

    def lease_by(self, want: Callable[[Hashable], None]) -> None:
        """Share the lanes with other processes: begin nothing in a lane without a lease of it.

        Args:
            want: called with the key of a lane that has none and needs one, or that has paused.
        """
        self._want = want

    def __iter__(self) -> Iterator[tuple[Hashable, Lane]]:
        return iter(self._lanes.items())

    def __getitem__(self, key: Hashable) -> Lane:
        return self._lanes[key]

    def serve(self, key: Hashable, now: float) -> None:
        """Look after a lane whose lease was renewed."""
        lane = self._lanes[key]
        self._serve(lane, now)
        _let_go(lane)

    def drop(self, key: Hashable, now: float) -> None:
        """Forget a lane if nothing of it matters any more."""
        if self._lanes[key].at_rest(now):
            del self._lanes[key]

    def lanes_at(self, host: str) -> list[Lane]:
        """Return the lanes of a host, of every key."""
        return [lane for key, lane in self._lanes.items() if isinstance(key, tuple) and key[0] == host]

    async def enter(self, key: Hashable, limit: Limit, caller: Caller) -> float:
        """Take a place, after a short wait if need be. Return 0 if the call may start, else the seconds to wait.

        A call of a kind that has only a share of the lane does not wait.
        """
        if self._closed:
            return AT_ONCE
        now = time.monotonic()
        lane = self._lane(key, limit, now)
        if caller.kind in SHARES and lane.lease is not None and now >= lane.lease.until:
            return await self._once_leased(key, lane, caller)
        if not lane.waiting and self._startable(lane, caller, now):
            self._start(lane, caller, now)
            return 0.0
        if not self._may_wait(lane, caller, now):
            return self._wait(lane, caller, now)
        if await self._handed(key, lane, caller):
            return 0.0
        return AT_ONCE if self._closed else self._wait(lane, caller, time.monotonic())

    def take(self, key: Hashable, limit: Limit, caller: Caller, now: float) -> float:
        """Return 0 if a call may start now, which then counts until `done`, else the seconds until the next try.

        No caller gets in before those that wait.
        """
        lane = self._lane(key, limit, now)
        if lane.waiting or not self._startable(lane, caller, now):
            return self._wait(lane, caller, now)
        self._start(lane, caller, now)
        return 0.0

    def done(
        self, key: Hashable, caller: Caller, took: float, now: float, *, refused: bool, retry_after: float | None
    ) -> None:
        """End a call.

        Args:
            took: seconds that it lasted.
            refused: whether the place answered that it is called too often. Refusals in a row pause the lane; those of
                a kind that has a share of it pause only that share of the app.
            retry_after: seconds that it asked to be left alone.
        """
        lane = self._lanes[key]
        if caller.kind in SHARES and caller.kind is not CallKind.WAKE:
            lane.part(caller).pause.heard(now, refused=refused, retry_after=retry_after)
        else:
            lane.duration += 0.1 * (took - lane.duration)
            lane.pause.heard(now, refused=refused, retry_after=retry_after)
            if lane.lease is not None and lane.pause.until > max(now, lane.lease.told) and self._want is not None:
                self._want(key)
        self._end(key, caller, now)

    def leave(self, key: Hashable, caller: Caller) -> None:
        """Give a place back without a call."""
        self._end(key, caller, time.monotonic())

    def _end(self, key: Hashable, caller: Caller, now: float) -> None:
        lane = self._lanes[key]
        lane.end(caller)
        self._count(caller, -1)
        if caller.kind in SHARES:
            self._shared.subtract((caller.kind, caller))
            if not self._shared[caller]:
                del self._shared[caller]
        self._serve(lane, now)
        if not lane.held:
            self.drop(key, now)

    def _lane(self, key: Hashable, limit: Limit, now: float) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            self._forget(now)
            lane = self._lanes[key] = Lane(limit, self._between_apps)
            lane.lease = None if self._want is None else Leased()
        lane.limit = limit
        if lane.lease is not None and self._want is not None:
            lane.lease.used_at = now
            if now >= lane.lease.until and not lane.lease.asked:
                self._want(key)
        return lane

    def _forget(self, now: float) -> None:
        """Drop the lanes at rest, whenever there are twice as many lanes as were left the last time."""
        if len(self._lanes) >= self._crowd:
            self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.at_rest(now)}
            self._crowd = max(1000, 2 * len(self._lanes))

    def _startable(self, lane: Lane, caller: Caller, now: float) -> bool:
        """Return whether a call may start now, as far as no one waits."""
        if not lane.holds(now) or lane.opens_in(now) or not lane.has_place(caller, now):
            return False
        return self._room(lane, caller)

    def _room(self, lane: Lane, caller: Caller) -> bool:
        """Return whether this process has room for one more call.

        Some is kept for lanes that hold none, and for apps that hold few.
        """
        share = SHARES.get(caller.kind)
        if share is not None:
            most = int(self._most * share)
            if self._shared[caller.kind] >= most or self._shared[caller] >= int(most * APP_SHARE):
                return False
        if self._held < (1 - KEPT) * self._most or caller.kind is CallKind.LAST:
            return True
        return not (lane.held or lane.waiting) or self._by_app[caller.app] < kept_of(self._most)

    def _start(self, lane: Lane, caller: Caller, now: float) -> None:
        lane.start(caller, now)
        self._count(caller, 1)
        if caller.kind in SHARES:
            self._shared.update((caller.kind, caller))

    def _may_wait(self, lane: Lane, caller: Caller, now: float) -> bool:
        """Return whether a caller may wait here: there is room for it, and a place should come free soon."""
        if caller.kind in SHARES or now < lane.pause.until:
            return False
        queue = lane.queue_of(caller)
        wait = lane.opens_in(now) + (queue.ahead_of(caller.app) + 1) * lane.pace
        if lane.quick and wait <= QUICK_WAIT and not lane.has_place(caller, now):
            return True
        if not self._room(lane, caller):
            return False
        own = queue.of(caller.app)
        few = admits(own, len(queue), self._waiting) if self._between_apps else len(queue) < self._waiting
        return few and wait <= SHORT_WAIT

    def _wait(self, lane: Lane, caller: Caller, now: float) -> float:
        """Return the seconds after which a caller that has no place should ask again."""
        opens_in = lane.opens_in(now)
        if lane.lease is not None and (caller.kind not in SHARES or not lane.holds(now)):
            lane.lease.waited()
        if caller.kind in SHARES:
            parts = (lane.part(caller.kind), lane.part(caller))
            return max(REFUSED_WAIT, opens_in, *(max(part.next_start, part.pause.until) - now for part in parts))
        ahead = lane.queue.ahead_of(caller.app)
        least = 0.01 if self._room(lane, caller) else ROOM_WAIT
        return max(least, lane.later(caller.app, now + opens_in + ahead * lane.pace, LONGEST_WAIT, now) - now)

    async def _once_leased(self, key: Hashable, lane: Lane, caller: Caller) -> float:
        """Have a call that does not wait for others wait at least for the lease."""
        loop = asyncio.get_running_loop()
        leased: asyncio.Future[None] = loop.create_future()
        lane.awaits_lease.append(leased)
        await asyncio.wait([leased], timeout=SHORT_WAIT)
        return self.take(key, lane.limit, caller, time.monotonic())

    async def _handed(self, key: Hashable, lane: Lane, caller: Caller) -> bool:
        """Queue up. Return whether a place was handed over before a pause began or the wait became long."""
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        waiter = Waiter(caller, loop.create_future(), now + SHORT_WAIT)
        queue = lane.queue_of(caller)
        queue.put(waiter)
        if lane.lease is not None:
            lane.lease.waited()
        self._count(caller, 1)
        if lane.giving_up is None:
            lane.giving_up = loop.call_later(SHORT_WAIT, _give_up, lane)
        try:
            self._serve(lane, now)
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                queue.remove(waiter)
            elif waiter.place.result():  # it was handed over in the same moment, and goes on to the next
                self.leave(key, caller)
            raise
        finally:
            self._count(caller, -1)

    def _count(self, caller: Caller, change: int) -> None:
        """Count a caller that has come, or gone."""
        self._held += change
        self._by_app[caller.app] += change
        if not self._by_app[caller.app]:
            del self._by_app[caller.app]

    def _serve(self, lane: Lane, now: float) -> None:
        """Give the places that are free to callers that wait. Send all away when the lane pauses."""
        if not lane.waiting:
            return
        if now < lane.pause.until:
            _send_away(lane)
        while lane.waiting and lane.held < lane.places and lane.holds(now):
            if wait := lane.opens_in(now):
                self._look_again(lane, wait)
                return
            waiter = lane.pop(now)
            if waiter is None:
                return
            if not waiter.place.done():  # else the caller has gone in this moment
                self._start(lane, waiter.caller, now)
                waiter.place.set_result(True)

    def _look_again(self, lane: Lane, wait: float) -> None:
        def look() -> None:
            lane.timer = None
            self._serve(lane, time.monotonic())

        if lane.timer is None:
            lane.timer = asyncio.get_running_loop().call_later(wait, look)


async def enter_each(places: Iterable[tuple[Lanes, Hashable, Limit]], caller: Caller) -> float:
    """Take a place in each lane, or in none. Return 0 if the call may start, else the seconds to wait."""
    with ExitStack() as entered:
        for lanes, key, limit in places:
            if wait := await lanes.enter(key, limit, caller):
                return wait
            entered.callback(lanes.leave, key, caller)
        entered.pop_all()
    return 0.0


def _give_up(lane: Lane) -> None:
    """Send away the callers that have waited for too long. (One timer looks after all: each poll may have to wait.)"""
    loop = asyncio.get_running_loop()
    now = time.monotonic()
    for waiter in lane.waiters:
        if waiter.until <= now and not waiter.place.done():
            lane.queue_of(waiter.caller).remove(waiter)
            if lane.rate is None:  # else it may be the rate that was waited for
                lane.duration = max(lane.duration, SHORT_WAIT)
            waiter.place.set_result(False)
    left = min((waiter.until for waiter in lane.waiters), default=None)
    lane.giving_up = None if left is None else loop.call_later(max(0.0, left - now), _give_up, lane)


def _send_away(lane: Lane) -> None:
    """Have the callers that wait give their rows back."""
    for waiter in (*lane.queue.drain(), *lane.last_queue.drain()):
        if not waiter.place.done():
            waiter.place.set_result(False)


def _let_go(lane: Lane) -> None:
    """Have those that wait for the first lease try."""
    while lane.awaits_lease:
        lane.awaits_lease.pop().set_result(None)
