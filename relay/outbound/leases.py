"""Leases of the lanes that the processes of one PostgreSQL share: what each may take for about a second.

So the limits of a lane, and its pauses, hold for all processes together, without a query per call. A lane without a
lease begins nothing: if the database is away, the leases run out, and the calls stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Hashable, Iterable, Sequence

from relay.errors import StoreUnavailable
from relay.model.lane_lease import LEASE, Ask
from relay.outbound.lane import Lane, Leased
from relay.outbound.lanes import Lanes
from relay.store import Database, lane_leases

EVERY = 0.5
"""Seconds from one renewal to the next."""

IDLE = 5.0
"""Seconds without a call after which a lease is given back."""

TOGETHER = 500
"""Lanes in one transaction."""


class Leases:
    """Keeps the leases of one process, as long as it uses a lane.

    Args:
        lanes: the lanes.
        db: the database that all processes share.
        process: the name of this one.
    """

    def __init__(self, lanes: Lanes, db: Database, process: str) -> None:
        self._lanes = lanes
        self._db = db
        self._process = process
        self._wanted: set[Hashable] = set()
        self._woken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False
        lanes.lease_by(self._want)

    def _want(self, key: Hashable) -> None:
        """Ask for the lease of a lane at once."""
        if self._closed:
            return
        self._wanted.add(key)
        self._woken.set()
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """Renew leases until this process has none."""
        renew_at = time.monotonic() + EVERY
        while not self._closed and (self._wanted or self._leased()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(renew_at - time.monotonic()):
                    await self._woken.wait()
            self._woken.clear()
            keys, self._wanted = self._wanted, set()
            if time.monotonic() >= renew_at:
                keys |= self._leased()
                renew_at = time.monotonic() + EVERY
            await self._renew(keys)

    def _leased(self) -> set[Hashable]:
        """Return the keys of the lanes that this process has a lease of."""
        return {key for key, lane in self._lanes if lane.lease is not None and lane.lease.until > 0}

    async def _renew(self, keys: Iterable[Hashable]) -> None:
        """Renew the leases of some lanes, or give them back if no one uses them."""
        leased = [(key, lane, lane.lease) for key, lane in self._lanes if key in keys and lane.lease is not None]
        for start in range(0, len(leased), TOGETHER):
            some = leased[start : start + TOGETHER]
            if not await self._granted(some):
                self._wanted |= {key for key, lane, _ in some if lane.waiting}
                await asyncio.sleep(EVERY)

    async def _granted(self, leased: Sequence[tuple[Hashable, Lane, Leased]]) -> bool:
        """Renew the leases of these lanes, in which nothing begins meanwhile. Return whether the database answered."""
        before = time.monotonic()
        asks = []
        for key, lane, lease in leased:
            asks.append(_ask(key, lane, lease, before, closed=self._closed))
            _spend(lane, lease, before)
        grants: Sequence[lane_leases.Grant | None]
        try:
            grants = await self._db.run(lane_leases.renew, self._process, asks)
        except StoreUnavailable:  # it may have been granted or not
            grants = [None] * len(asks)
        now = time.monotonic()
        for (key, lane, lease), ask, grant in zip(leased, asks, grants, strict=True):
            lease.asked = False
            if grant is not None:
                lease.places = grant.places
                lease.rate = grant.rate
                lease.until = before + LEASE / 1000 if ask.wants_places else float("-inf")
                if grant.pause > 0:
                    lane.pause.begin(now + grant.pause / 1000, now)
                    lease.told = lane.pause.until
            self._lanes.serve(key, now)
            self._lanes.drop(key, now)
        return None not in grants

    async def aclose(self) -> None:
        """Give all leases back, and ask for no more."""
        if self._closed:
            return
        self._closed = True
        self._woken.set()
        if self._keeping is not None:
            await asyncio.wait([self._keeping])
            await self._renew(self._leased())


def _ask(key: Hashable, lane: Lane, lease: Leased, now: float, *, closed: bool) -> Ask:
    """Return what to ask for a lane: what it has needed since the last time, all of it if that was too little."""
    limit = lane.limit
    most_starts = max(1, int(limit.per_second or 1.0))
    wants_places = wants_starts = 0
    if not closed and (lane.held or lane.waiting or lane.awaits_lease or now - lease.used_at < IDLE):
        started = math.ceil(lease.started / max(EVERY, now - lease.renewed_at))
        wants_places = limit.concurrency if lease.short else min(limit.concurrency, max(1, lease.peak))
        wants_starts = most_starts if lease.short else min(most_starts, 1 + started)
    pause = max(0.0, lane.pause.until - now) if lane.pause.until > lease.told else 0.0
    lease.told = max(lease.told, lane.pause.until)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    return Ask(name, limit.concurrency, limit.per_second, lane.held, wants_places, wants_starts, round(pause * 1000))


def _spend(lane: Lane, lease: Leased, now: float) -> None:
    """End a lease, until the answer about the next one, and begin to count anew."""
    lease.asked = True
    lease.until = 0.0
    lease.renewed_at = now
    lease.peak = lane.held
    lease.started = 0
    lease.short = bool(lane.waiting)
