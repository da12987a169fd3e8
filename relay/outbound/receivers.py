"""How much receivers are sent at once: per URL, per app at one host, and per host.

With one limit per URL alone, an app that gives each order a URL of its own would have no limit. With one per host
alone, one slow URL would delay all that are beside it, and one app another that has its receivers at the same host.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

from relay.outbound.callers import Caller
from relay.outbound.lane import Limit
from relay.outbound.lanes import Lanes, enter_each
from relay.security.guard import literal_address

PER_RECEIVER = Limit(concurrency=20)
"""Attempts under way at once to one URL of an app, so that a slow receiver does not delay others."""

PER_APP = Limit(concurrency=30)
"""Attempts under way at once of one app to one host: fewer than to the host, so that the other apps get through."""

PER_HOST = Limit(concurrency=40)
"""Attempts under way at once to one host."""

MAX_UNDER_WAY = 300
"""Attempts under way at once in one process; a part of them is kept, as `lanes` says."""

MAX_CLAIMED = 400
"""Attempts claimed at once in one process: so many more that the part of one app is more than may be under way.

Else those to its slow receivers could be all that it may claim, and those to the others would never be looked at.
"""

WAITING = 40
"""Attempts that may wait in one lane which is not quick."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where an attempt goes.

    Attributes:
        place: names the app and the address.
        host: with the port if the URL has one.
    """

    place: str
    host: str


class ReceiverLanes:
    """The lanes of receivers in one process, for deliveries and tests alike."""

    def __init__(self) -> None:
        self._places = Lanes(MAX_UNDER_WAY, WAITING)
        self._apps = Lanes(MAX_UNDER_WAY, WAITING)
        self._hosts = Lanes(MAX_UNDER_WAY, WAITING, between_apps=True)

    async def enter(self, receiver: Receiver, caller: Caller) -> float:
        """Take a place in each lane. Return 0 if the attempt may start, else the seconds after which to try again."""
        return await enter_each(self._lanes(receiver, caller), caller)

    def done(self, receiver: Receiver, caller: Caller, took: float) -> None:
        """End an attempt that lasted `took` seconds."""
        now = time.monotonic()
        with ExitStack() as places:  # each is given back, whatever happens to another
            for lanes, key, _ in self._lanes(receiver, caller):
                places.callback(lanes.done, key, caller, took, now, refused=False, retry_after=None)

    def close(self) -> None:
        """Give no more places, and send away at once the attempts that wait."""
        for lanes in (self._places, self._apps, self._hosts):
            lanes.close()

    def _lanes(self, receiver: Receiver, caller: Caller) -> tuple[tuple[Lanes, Hashable, Limit], ...]:
        host = lane_of(receiver.host)
        return (
            (self._places, receiver.place, PER_RECEIVER),
            (self._apps, (caller.app, host), PER_APP),
            (self._hosts, host, PER_HOST),
        )


@lru_cache(maxsize=10_000)
def lane_of(host: str) -> tuple[str, int]:
    """Return what tells one host from another, however a URL writes it: a name or an address, and a port number.

    The ports that need not be written, of http and of https, count as one.

    Args:
        host: of a URL, in ASCII, with the port if the URL has one.
    """
    name, _, port = host.rpartition(":")
    if not port.isdecimal():  # no port: a name, or an address of IPv6 in brackets
        name, port = host.removesuffix(":"), "443"
    name = name.lower().removesuffix(".")
    address = literal_address(name)
    number = int(port)
    return str(address or name), 443 if number == 80 else number
