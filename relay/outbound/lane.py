"""One lane: who has a place in it, who waits for one, and how the places are shared.

`relay.outbound.lanes` keeps the lanes of a process. Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache

from relay.outbound.callers import Caller, CallKind, FairQueue, Waiter

REFUSALS_BEFORE_PAUSE = 3
"""Refusals in a row that pause a lane. A single 429 may concern one task only."""

FIRST_PAUSE = 5.0
"""Seconds of the first pause of a lane that did not say how long. Each further pause is twice as long."""

MAX_PAUSE = 300.0
"""Seconds that a lane pauses at most."""

MEMORY = 300.0
"""Seconds after a refusal, or after the pause that followed, in which the next one still counts as one in a row."""

ASSUMED_DURATION = 0.1
"""Seconds that a call takes, as long as nothing is known of its lane."""

CATCH_UP = 0.02
"""Seconds that a start may come before its time, because the one before came late."""

MARGIN = 0.05
"""The part by which starts are further apart than the rate says.

With it no second holds more starts than the rate, although one may catch up, and although the network delays some more
than others.
"""


SHARES = {CallKind.MIRROR: 0.25, CallKind.WAKE: 0.25, CallKind.TEST: 0.2}
"""The part of a lane, in places and in rate, that calls of a kind may take. Such calls never wait: see `Lanes.take`."""

APP_SHARE = 0.5
"""The part of such a share that one app may take."""

KEPT = 0.1
"""The part of the places that is kept: for lanes that hold none, for apps that hold few."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a lane may take: calls at once, and calls per second (None: as many as come)."""

    concurrency: int = 100
    per_second: float | None = None

    def __post_init__(self) -> None:
        rate = 1.0 if self.per_second is None else self.per_second
        if self.concurrency < 1 or not 0.001 <= rate <= 100_000:
            raise ValueError("concurrency must be at least 1, per_second 0.001 to 100000")


@cache
def kept_of(most: int) -> int:
    """Return how many of `most` places are kept. Of very few, none is: that would be a large part of them."""
    return max(1, int(most * KEPT)) if most >= 4 else 0


def admits(own: int, held: int, most: int) -> bool:
    """Return whether an app that holds `own` of the `held` places may take one more of `most`.

    However long the calls of one app take, another one finds a place: the last ones are for apps that hold few.
    """
    kept = kept_of(most)
    free = most - held
    return free > kept or (free > 0 and own < kept)


@dataclass(slots=True)
class Pause:
    """Whether a place wants to be left alone.

    Attributes:
        until: when the pause ends.
        refusals: in a row; those of calls that began before a pause do not count.
        matters_until: when the refusals are forgotten.
    """

    until: float = 0.0
    refusals: int = 0
    matters_until: float = 0.0

    def heard(self, now: float, *, refused: bool, retry_after: float | None) -> None:
        """Count what a call came to. See `Lanes.done`."""
        if now < self.until:
            # It began before the pause, which is the answer to all that were under way with it.
            if refused and retry_after:
                self.begin(now + retry_after, now)
        elif refused:
            self.refusals += 1
            self.matters_until = now + MEMORY
            beyond = self.refusals - REFUSALS_BEFORE_PAUSE
            if beyond >= 0:
                self.begin(now + (retry_after or FIRST_PAUSE * 2.0 ** min(beyond, 16)), now)
        else:
            self.refusals = 0
            self.matters_until = 0.0

    def begin(self, until: float, now: float) -> None:
        """Pause, or pause for longer."""
        self.until = max(self.until, min(until, now + MAX_PAUSE))
        self.matters_until = self.until + MEMORY

    def at_rest(self, now: float) -> bool:
        """Return whether nothing of it matters any more."""
        return now >= max(self.until, self.matters_until)


@dataclass(slots=True)
class Leased:
    """What this process may take of a lane that it shares with others, until when; and what it has needed lately.

    Attributes:
        peak: the most calls that were under way since the lease was renewed.
        started: the calls that have started since then.
        short: a caller has had to wait since then.
        asked: it is being renewed.
        used_at: when a caller last came.
        renewed_at: when it was renewed.
        told: the end of the pause that the others know of.
    """

    places: int = 0
    rate: float | None = 0.0
    until: float = float("-inf")
    peak: int = 0
    started: int = 0
    short: bool = False
    asked: bool = False
    used_at: float = 0.0
    renewed_at: float = 0.0
    told: float = 0.0

    def holds(self, now: float) -> bool:
        """Return whether a call may begin under it, as far as it goes."""
        return now < self.until and self.places > 0 and self.rate != 0.0

    def waited(self) -> None:
        """Note that a caller has to wait because there is too little, and not because it is being renewed."""
        self.short |= not self.asked


@dataclass(slots=True)
class Part:
    """What calls of one kind hold of a lane, or those of one app of them.

    Attributes:
        next_start: when the next one may start by the rate alone.
        pause: the refusals that they have earned pause only them.
    """

    held: int = 0
    next_start: float = 0.0
    pause: Pause = field(default_factory=Pause)

    def free(self, most: int, now: float) -> bool:
        """Return whether it may take one more of `most`."""
        return self.held < most and now >= self.next_start - CATCH_UP and now >= self.pause.until

    def at_rest(self, now: float) -> bool:
        """Return whether a new one would do as well."""
        return self.held == 0 and now >= self.next_start and self.pause.at_rest(now)


@dataclass(slots=True)
class Lane:
    """One place and what is known of it.

    Attributes:
        limit: what it may take.
        between_apps: some places are kept for apps that hold few.
        lease: what of the limit is this process's; None for all of it.
        held: calls under way.
        by_app: of these, by app.
        lasts: of these, last polls.
        parts: what kinds with a share hold, and each caller of them.
        next_start: when the next call may start by the rate alone.
        turns: by app, the time that was given to the last of its callers that has to wait.
        duration: of a call that is no mirror's, on average.
        queue: the callers that wait here for a place.
        last_queue: the same, for last polls.
        last_was_last: the last caller that got a place from a queue was a last poll.
        timer: looks after the queues when the rate allows the next start.
        giving_up: sends those away that have waited for too long.
        awaits_lease: mirrors and others that do not queue, until the answer about the first lease.
    """

    limit: Limit
    between_apps: bool = False
    lease: Leased | None = None
    held: int = 0
    by_app: dict[str, int] = field(default_factory=dict)
    lasts: int = 0
    parts: dict[Hashable, Part] = field(default_factory=dict)
    next_start: float = 0.0
    turns: dict[str, float] = field(default_factory=dict)
    pause: Pause = field(default_factory=Pause)
    duration: float = ASSUMED_DURATION
    queue: FairQueue = field(default_factory=FairQueue)
    last_queue: FairQueue = field(default_factory=FairQueue)
    last_was_last: bool = False
    timer: asyncio.TimerHandle | None = None
    giving_up: asyncio.TimerHandle | None = None
    awaits_lease: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def places(self) -> int:
        """Return how many calls may be under way at once."""
        return self.limit.concurrency if self.lease is None else self.lease.places

    @property
    def rate(self) -> float | None:
        """Return how many calls may start per second."""
        return self.limit.per_second if self.lease is None else self.lease.rate

    @property
    def waiting(self) -> int:
        """Return how many callers wait."""
        return self.queue.length + self.last_queue.length

    @property
    def waiters(self) -> list[Waiter]:
        """Return the callers that wait."""
        return [*self.queue.waiters, *self.last_queue.waiters]

    @property
    def pace(self) -> float:
        """Return the seconds from one place that comes free to the next."""
        return max(self._spacing(), self.duration / max(1, self.places))

    @property
    def quick(self) -> bool:
        """Return whether calls have been quicker than those of a lane of which nothing is known."""
        return self.duration < ASSUMED_DURATION

    def _spacing(self, share: float = 1.0) -> float:
        """Return the seconds between two starts, all together or those of a share."""
        return (1 + MARGIN) / (self.rate * share) if self.rate else 0.0

    def at_rest(self, now: float) -> bool:
        """Return whether a new lane would do as well."""
        idle = self.held == 0 and not self.waiting and not self.awaits_lease and now >= self.next_start
        idle = idle and (self.lease is None or not (self.lease.asked or now < self.lease.until))
        return idle and self.pause.at_rest(now) and all(part.at_rest(now) for part in self.parts.values())

    def holds(self, now: float) -> bool:
        """Return whether this process may start calls, as far as it shares the lane with others."""
        return self.lease is None or self.lease.holds(now)

    def opens_in(self, now: float) -> float:
        """Return the seconds until the next call may start, of any caller: for pause and rate alone."""
        if now >= self.pause.until and now >= self.next_start - CATCH_UP:
            return 0.0
        return max(self.pause.until - now, self.next_start - CATCH_UP - now)

    def has_place(self, caller: Caller, now: float) -> bool:
        """Return whether a place is free for a caller."""
        if caller.kind in SHARES and not self._within_share(caller, now):
            return False
        if not self.between_apps or (caller.kind is CallKind.LAST and self.lasts < max(1, kept_of(self.places))):
            return self.held < self.places
        return admits(self.by_app.get(caller.app, 0), self.held, self.places)

    def _within_share(self, caller: Caller, now: float) -> bool:
        most = max(1, int(self.places * SHARES[caller.kind]))
        own = max(1, int(most * APP_SHARE))
        return self.part(caller.kind).free(most, now) and self.part(caller).free(own, now)

    def part(self, of: CallKind | Caller) -> Part:
        """Return what a kind of calls holds, or one app of them."""
        return self.parts.setdefault(of, Part())

    def start(self, caller: Caller, now: float) -> None:
        """Give a caller a place. It counts until `end`."""
        self.next_start = max(self.next_start, now) + self._spacing()
        self.held += 1
        self.by_app[caller.app] = self.by_app.get(caller.app, 0) + 1
        self.lasts += caller.kind is CallKind.LAST
        if self.lease is not None:
            self.lease.started += 1
            self.lease.peak = max(self.lease.peak, self.held)
        share = SHARES.get(caller.kind)
        if share is not None:
            for part, size in ((self.part(caller.kind), share), (self.part(caller), share * APP_SHARE)):
                part.held += 1
                part.next_start = max(part.next_start, now) + self._spacing(size)

    def end(self, caller: Caller) -> None:
        """Take a place back."""
        self.held -= 1
        self.by_app[caller.app] -= 1
        if not self.by_app[caller.app]:
            del self.by_app[caller.app]
        self.lasts -= caller.kind is CallKind.LAST
        if caller.kind in SHARES:
            self.part(caller.kind).held -= 1
            self.part(caller).held -= 1

    def queue_of(self, caller: Caller) -> FairQueue:
        """Return the queue in which a caller waits."""
        return self.last_queue if caller.kind is CallKind.LAST else self.queue

    def pop(self, now: float) -> Waiter | None:
        """Remove and return the caller that gets the next place. Last polls have every second one."""

        def may(caller: Caller) -> bool:
            return self.has_place(caller, now)

        queues = (self.queue, self.last_queue) if self.last_was_last else (self.last_queue, self.queue)
        for queue in queues:
            if queue.length and (waiter := queue.pop(may)) is not None:
                self.last_was_last = queue is self.last_queue
                return waiter
        return None

    def later(self, app: str, earliest: float, longest: float, now: float) -> float:
        """Return the time at which a caller of an app that has to wait should ask again, each caller its own.

        Apps count by themselves, so that one with few callers does not wait behind the many of another.

        Args:
            earliest: when the first of them may have a turn.
            longest: seconds after that which no caller has to wait for.
        """
        self.turns = {name: turn for name, turn in self.turns.items() if turn > now}
        step = self.pace * len(self.turns.keys() | {app})
        turn = max(self.turns.get(app, 0.0), earliest) + step
        if turn - earliest > longest:
            turn = earliest + step
        self.turns[app] = turn
        return turn
