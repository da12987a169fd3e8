"""The wall clock of this machine: is it right, and was it set? Due times of rows and deadlines are wall-clock times.

A clock that is days ahead would end tasks at once, and delete what is young. So each process compares its clock with
the database's, which all processes share. With SQLite there is no other clock; there, only a jump shows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import structlog

from relay.errors import StoreUnavailable
from relay.model.times import Millis
from relay.store import Database, processes
from relay.store.clock_reset import TOLERANCE
from relay.store.processes import NOTABLE
from relay.telemetry import metrics
from relay.worker.faults import Faults

log = structlog.stdlib.get_logger(__name__)

JUMP: Millis = 5000
"""Milliseconds that the wall clock must move against the monotonic clock to count as set."""

DIFFERS = "the clock of this machine differs from the database's"

LOOK_EVERY = 1.0
"""Seconds between two looks, which are two comparisons too."""


class Agreement(Enum):
    """What a comparison says: within the tolerance, beyond it, or no more than before, because it took too long."""

    RIGHT = auto()
    WRONG = auto()
    UNKNOWN = auto()


def compare(shared: Millis, before: Millis, after: Millis) -> tuple[Millis, Agreement]:
    """Return by how much this machine's clock is ahead of the shared one, and what that means.

    The shared time was read at some moment in between, so half of that span is uncertain.

    Args:
        before, after: this machine's time before and after the shared one was asked for.
    """
    ahead = (before + after) // 2 - shared
    uncertain = (after - before + 1) // 2
    if abs(ahead) + uncertain <= TOLERANCE:
        return ahead, Agreement.RIGHT
    return ahead, Agreement.WRONG if abs(ahead) - uncertain > TOLERANCE else Agreement.UNKNOWN


class Clocks(Protocol):
    """The clocks of a machine, in milliseconds."""

    def wall(self) -> Millis:
        """Return the milliseconds since the epoch."""
        ...

    def monotonic(self) -> Millis:
        """Return the milliseconds of a clock that nobody sets."""
        ...


_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Machine:
    """The clocks of this machine."""

    def wall(self) -> Millis:
        """Return the milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> Millis:
        """Return the milliseconds of a clock that nobody sets. On Linux it goes on while the machine sleeps."""
        return time.clock_gettime_ns(_MONOTONIC) // 1_000_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last comparison said.

    Attributes:
        offset: of the wall clock to the monotonic one.
        ahead: milliseconds by which the wall clock was ahead of the shared one; 0 where it was right.
    """

    offset: Millis
    ahead: Millis
    right: bool


class SharedClock:
    """The time by which a process works: this machine's while that is right, and else the one of the database.

    Work under way when the clock goes wrong is finished by the right time. New work waits: see `right`.

    Args:
        db: the database, whose clock all processes share.
        process: the name of this process, which `relay check` shows.
        clocks: the clocks of the machine.
    """

    def __init__(self, db: Database, process: str, clocks: Clocks | None = None) -> None:
        self._db = db
        self._process = process
        self._clocks = clocks or Machine()
        self._known = _Known(self.offset, 0, right=False)
        self._noted: Millis = 0
        self._differs = False
        self._refuses = False

    @property
    def offset(self) -> Millis:
        """Return the offset of the wall clock to the monotonic one, which changes when the clock is set."""
        return self._clocks.wall() - self._clocks.monotonic()

    def now(self) -> Millis:
        """Return the time, in milliseconds since the epoch."""
        known = self._known
        wall = self._clocks.wall()
        moved = wall - self._clocks.monotonic() - known.offset
        return wall - known.ahead - (moved if abs(moved) > JUMP else 0)

    @property
    def right(self) -> bool:
        """Return whether the clock was right at the last comparison, and was not set since."""
        return self._known.right and abs(self.offset - self._known.offset) <= JUMP

    def unwell(self) -> str | None:
        """Return in words why nothing may be claimed by this clock, or None where it is right."""
        if self.right:
            return None
        if not self._known.ahead:
            return "the clock of this machine is not compared with the database's yet"
        return f"the clock of this machine is {self._difference()} the database's: set both by NTP"

    def _difference(self) -> str:
        seconds = round(abs(self._known.ahead) / 1000)
        return f"{seconds} s ahead of" if self._known.ahead > 0 else f"{seconds} s behind"

    async def look(self) -> None:
        """Compare the clock with the database's.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        asked = self._clocks.monotonic()
        shared = None if self._db.embedded else await self._db.run(processes.shared_clock, self._process, self._noted)
        self._learn(shared, asked)

    def look_here(self) -> None:
        """Do what `look` does, in the calling thread."""
        asked = self._clocks.monotonic()
        shared = None if self._db.embedded else self._db.run_here(processes.shared_clock, self._process, self._noted)
        self._learn(shared, asked)

    def _learn(self, shared: Millis | None, asked: Millis) -> None:
        """Take in the time of the database, if it has a clock of its own."""
        offset = self.offset
        after = offset + self._clocks.monotonic()
        before = offset + asked  # not the wall clock of then, which may have been set since
        ahead, verdict = (0, Agreement.RIGHT) if shared is None else compare(shared, before, after)
        if verdict is Agreement.UNKNOWN:
            return
        right = verdict is Agreement.RIGHT
        self._noted = ahead if abs(ahead) > NOTABLE else 0
        self._known = _Known(offset, 0 if right else ahead, right)
        metrics.CLOCK_AHEAD.set(ahead / 1000)
        self._log(ahead)

    def _log(self, ahead: Millis) -> None:
        """Say once that the clocks begin to differ, that nothing is claimed, and that they agree again."""
        seconds = round(ahead / 1000, 1)
        if not self._differs and abs(ahead) > NOTABLE:
            self._differs = True
            log.warning(f"{DIFFERS}: set both by NTP", ahead_by_seconds=seconds)
        if not self._refuses and not self._known.right:
            self._refuses = True
            log.error(f"{DIFFERS} too much: this process claims nothing until it is right", ahead_by_seconds=seconds)
        if self._differs and abs(ahead) <= NOTABLE // 2:
            self._differs = self._refuses = False
            log.info("the clock of this machine agrees with the database's again")


async def watch_clock(
    clock: SharedClock,
    jumped: Callable[[], None],
    righted: Callable[[], Awaitable[None]],
    late: Callable[[float], None],
) -> None:
    """Compare the clock with the database's again and again. Never return.

    Args:
        jumped: called when the clock was set.
        righted: called when the clock is right again.
        late: called once per look with the seconds that the event loop was late.
    """
    offset = clock.offset
    faults = Faults("clock")
    owed = False  # that it is right again has not been taken in yet
    while True:
        slept = time.monotonic()
        await asyncio.sleep(LOOK_EVERY)
        late(max(0.0, time.monotonic() - slept - LOOK_EVERY))
        moved = clock.offset - offset
        if abs(moved) > JUMP:
            offset += moved
            log.warning("the clock was set", by_seconds=round(moved / 1000))
            jumped()
        was_right = clock.right
        try:
            await clock.look()
            owed = owed or (clock.right and not was_right)
            if owed and clock.right:
                await righted()
                owed = False
        except StoreUnavailable:  # which the database logs
            pass
        except Exception as error:  # whatever it is, a process that stops looking would claim nothing for ever
            faults.note("clock not compared", error, "clock")
