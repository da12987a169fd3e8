"""How the processes of one database share what a lane may take: pure, so that properties can be tested.

Each process has a lease: so many places, so many starts per second, for about a second. Whatever is asked in whatever
order, what all leases hold together is never more than the lane's limit. Times are milliseconds of the database's
clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.model.times import Millis

LEASE: Millis = 1_200
"""How long a lease holds. It is renewed sooner."""

LONGEST_CALL: Millis = 45_000
"""How long a call may go on after the lease under which it began: places of a process that is silent stay taken."""

TURN: Millis = 5_000
"""How long the same processes go first, where there is less than one unit for each."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process asks of one lane.

    Attributes:
        lane: a name for the place and the key.
        places, per_second: the limit, for all processes together.
        busy: calls under way. None begins until the answer has come.
        wants_places, wants_starts: what it could use; 0 gives the lease back.
        pause: how much longer the place is to be left alone, as far as this process knows.
    """

    lane: str
    places: int
    per_second: float | None
    busy: int
    wants_places: int
    wants_starts: int
    pause: Millis = 0

    @property
    def units(self) -> int:
        """Return into how many parts the starts per second are divided. A rate below 1 is one part."""
        return 0 if self.per_second is None else max(1, int(self.per_second))

    @property
    def echo(self) -> Millis:
        """Return for how long a start counts against the rate."""
        return round(1_050 * max(1.0, 1 / (self.per_second or 1.0)))


@dataclass(frozen=True, slots=True)
class Lease:
    """What a process holds of a lane.

    Attributes:
        places: calls at once.
        starts: units of the rate.
        starts_before: what it had `until_before`: starts under that count as long against the rate.
        until: nothing begins after that.
        usable: places for new calls; those beyond it are given back as their calls end. Not stored.
    """

    process: str
    places: int
    starts: int
    wants_places: int
    wants_starts: int
    starts_before: int
    until_before: Millis
    until: Millis
    usable: int = 0

    def places_held(self, now: Millis) -> int:
        """Return how many places no other process may have."""
        return self.places if now < self.until + LONGEST_CALL else 0

    def starts_held(self, now: Millis, echo: Millis) -> int:
        """Return how many units of the rate no other process may have."""
        before = self.starts_before if now < self.until_before else 0
        return max(before, self.starts if now < self.until + echo else 0)

    def rate(self, ask: Ask) -> float | None:
        """Return the starts per second; None if there is no limit."""
        if ask.per_second is None:
            return None
        return ask.per_second if self.starts == ask.units else float(self.starts)


def renewed(ask: Ask, process: str, leases: Sequence[Lease], now: Millis) -> Lease:
    """Return the lease that a process gets.

    Args:
        leases: of all processes, with this one's.
    """
    others = [lease for lease in leases if lease.process != process]
    mine = next((lease for lease in leases if lease.process == process), None)
    living = [lease for lease in others if now < lease.until]
    turn = now // max(TURN, 4 * ask.echo)
    wants = {lease.process: lease.wants_places for lease in living} | {process: ask.wants_places}
    free = ask.places - sum(lease.places_held(now) for lease in others)
    keep = min(ask.busy, mine.places_held(now)) if mine else 0
    usable = max(0, min(free, shares(ask.places, wants, turn)[process]))
    places = max(keep, usable)
    wants = {lease.process: lease.wants_starts for lease in living} | {process: ask.wants_starts}
    free = ask.units - sum(lease.starts_held(now, ask.echo) for lease in others)
    starts = max(0, min(free, shares(ask.units, wants, turn)[process]))
    before, until_before = _echo(mine, starts, now, ask.echo) if mine else (0, 0)
    until = now + LEASE
    return Lease(process, places, starts, ask.wants_places, ask.wants_starts, before, until_before, until, usable)


def _echo(mine: Lease, starts: int, now: Millis, echo: Millis) -> tuple[int, Millis]:
    """Return what a process had before it has `starts`, and until when that counts."""
    before = mine.starts_before if now < mine.until_before else 0
    had = mine.starts if now < mine.until + echo else 0
    return (max(had, before), now + echo) if starts < had else (before, mine.until_before)


def shares(total: int, wants: Mapping[str, int], turn: int) -> dict[str, int]:
    """Divide units among processes: each what it wants, as far as that is fair, and a part of what is left over.

    Args:
        turn: who goes first where units cannot be divided evenly.
    """
    shared = dict.fromkeys(wants, 0)
    order = sorted(name for name, wanted in wants.items() if wanted)
    if not order:
        return shared
    first = turn % len(order)
    order = order[first:] + order[:first]
    hungry = order
    while total and hungry:
        part, more = divmod(total, len(hungry))
        for rank, name in enumerate(hungry):
            got = min(part + (rank < more), wants[name] - shared[name])
            shared[name] += got
            total -= got
        hungry = [name for name in hungry if shared[name] < wants[name]]
    part, more = divmod(total, len(order))
    for rank, name in enumerate(order):
        shared[name] += part + (rank < more)
    return shared
