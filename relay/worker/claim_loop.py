"""The loop that polling, delivery and editing share: claim due rows, work on each claim, know what is under way.

Every claim has an outcome. A fault of relay's own is one too, and so is the death of some processes in a row: the loop
says what it makes of the row, so that the row is not claimed again and again for ever.

Rows may be claimed a little before they are due, so that the work begins at that moment. Rows that a transaction of
another loop makes may be claimed by it: a loop holds places for them (docs/decisions/0018-claims-ahead.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa
import structlog

from relay.errors import StoreUnavailable
from relay.model.fairness import fair_shares
from relay.model.times import Millis
from relay.store import Database, deaths, setbacks
from relay.store.change_feed import ChangeFeed
from relay.store.due import Allotment
from relay.store.notifications import Wake
from relay.telemetry.tracing import Tracing
from relay.worker.faults import Faults

log = structlog.stdlib.get_logger(__name__)

FIRST_SETBACK = 60.0
"""Seconds for which a row is put off when the outcome of a fault cannot be saved. Each further time doubles it."""

MAX_SETBACK = 3600.0
"""Seconds for which it is put off at most."""

MAX_SETBACKS = 10_000
"""Rows whose setbacks are remembered."""

AT_ONCE = 50
"""Claims on which the work begins in one turn of the event loop.

A thousand overdue ones are a quarter of a second of work, in which no connection would be made and no answer read.
"""

LEAD = 0.02
"""Seconds before the first row is due at which a loop claims that claims ahead: longer than a claim takes mostly."""


class ProcessesDied(Exception):
    """So many processes in a row have died while they worked on a row that it is no accident (`store/deaths`)."""


class Claim(Protocol):
    """A claimed row: the loop that has its lease may work on it."""

    @property
    def id(self) -> str:
        """Return the key of the row."""
        ...

    @property
    def app_id(self) -> str:
        """Return the id of the app that the row belongs to."""
        ...

    @property
    def lease(self) -> str:
        """Return the lease that the claim wrote."""
        ...


ClaimT = TypeVar("ClaimT", bound=Claim)


class Claims(Protocol[ClaimT]):
    """A module of the store whose rows come due: `polling`, `outbox`, `slack_messages`."""

    def due(self, tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
        """Return how many rows each app has due, counted up to `most`; the app that has waited longest comes first."""
        ...

    def claim(
        self, tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]
    ) -> list[ClaimT]:
        """Claim of each app up to its share of due rows, which come due again `until`."""
        ...

    def next_due(self, tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
        """Return when the next row comes due; of all apps but some."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What the loops of one process share.

    Attributes:
        name: of the process, in leases.
        clock: milliseconds since the epoch.
        wake: wakes a loop early.
        feed: announces which watches have changed.
    """

    name: str
    clock: Callable[[], Millis]
    db: Database
    wake: Wake
    feed: ChangeFeed
    tracing: Tracing


@dataclass(frozen=True, slots=True)
class Claiming(Generic[ClaimT]):
    """What a loop claims.

    Attributes:
        name: of the loop, in the metrics and the log.
        table, rows: whose rows it claims, and how.
        lease: seconds that a claim holds: longer than the work on it can take.
        most: claims under way at once.
        ahead: seconds before a row is due at which it may be claimed.
    """

    name: str
    table: sa.Table
    rows: Claims[ClaimT]
    lease: float
    most: int
    ahead: float = 0.0


class ClaimLoop(Generic[ClaimT]):
    """Claims due rows, as many as there is room for, a fair share for each app. A subclass says what the work is.

    Args:
        process: the process that claims.
        claiming: what it claims.
        wake: wakes this loop after so many seconds.
    """

    def __init__(self, process: Process, claiming: Claiming[ClaimT], wake: Callable[[float], None]) -> None:
        self._process = process
        self._claiming = claiming
        self._wake = wake
        self._claims = itertools.count(1)
        self._halted = False
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._sleeping: dict[asyncio.Future[None], asyncio.TimerHandle] = {}
        self._reserved: Counter[str] = Counter()
        self._held_back: frozenset[str] = frozenset()
        self._faults = Faults(claiming.name)
        self._setbacks: dict[str, int] = {}

    async def work(self, claim: ClaimT) -> None:
        """Do what a claim is for, and save what came of it."""
        raise NotImplementedError

    async def fail(self, claim: ClaimT) -> None:
        """Save what a fault of relay's own makes of a claim: a step towards an end, as any other failure is."""
        raise NotImplementedError

    def early(self, claim: ClaimT) -> float:
        """Return the seconds until the work on a claim that was made ahead may begin."""
        del claim
        return 0.0

    async def tick(self) -> float | None:
        """Claim what is due and begin the work, without waiting for its end.

        Returns:
            Seconds until the next claim; None when no row comes due, or when there is no room for it.
        """
        if self._free <= 0 or self._halted:
            return None
        claims, due, self._held_back = await self._process.db.run(self._claim, self._taken)
        self.take(claims)
        return None if due is None else max(0.0, self._seconds_until(due))

    def _claim(self, tx: sa.Connection, held: Mapping[str, int]) -> tuple[list[ClaimT], Millis | None, frozenset[str]]:
        """Return new claims, when the next row comes due, and the apps for whose other rows there is no room."""
        rows, most = self._claiming.rows, self._claiming.most
        by = self._process.clock() + round(self._claiming.ahead * 1000)
        due = rows.due(tx, by, most)
        shares = fair_shares(most, held, due)
        allotment = self._allot({app: share for app, share in shares.items() if share})
        claims = rows.claim(tx, by, allotment.until, allotment.lease, allotment.shares)
        held_back = frozenset(app for app, count in due.items() if count > shares[app])
        return claims, rows.next_due(tx, held_back), held_back

    @contextlib.contextmanager
    def reserved(self, wanted: Mapping[str, int]) -> Iterator[Callable[[], Allotment]]:
        """Hold places for rows that a transaction is about to make, so that it may claim them: an app's fair share.

        An app gets none while older rows of it wait for room. The context gives what the transaction calls for its
        allotment, whenever it begins, since it may have to wait for the database. Its claims are to be given to `take`
        inside the context.

        Args:
            wanted: by app, for how many rows.
        """
        shares: dict[str, int] = {}
        if not self._halted:
            in_turn = {app: rows for app, rows in wanted.items() if app not in self._held_back}
            shares = fair_shares(self._claiming.most, self._taken, in_turn)
        self._reserved.update(shares)
        try:
            yield partial(self._allot, shares)
        finally:
            was_full = self._free <= 0
            self._reserved -= Counter(shares)
            if shares and (was_full or self._held_back):
                self._wake(0.0)

    def take(self, claims: Sequence[ClaimT]) -> None:
        """Begin the work on claims, without waiting for its end."""
        for number, claim in enumerate(claims):
            task = asyncio.create_task(self._work_on(claim, number // AT_ONCE))
            self._under_way[task] = claim.app_id
            task.add_done_callback(self._done)

    def _allot(self, shares: Mapping[str, int]) -> Allotment:
        """Return what a transaction may claim that begins now, under a lease of its own."""
        until = self._process.clock() + round(self._claiming.lease * 1000)
        return Allotment(f"{self._process.name}.{next(self._claims)}", until, shares)

    @property
    def _taken(self) -> Counter[str]:
        """Return how many places each app has: claims under way, and places that are reserved."""
        held = Counter(self._under_way.values())
        held.update(self._reserved)
        return held

    @property
    def _free(self) -> int:
        """Return how many places are free."""
        return self._claiming.most - self.under_way - self._reserved.total()

    async def _work_on(self, claim: ClaimT, turns: int) -> None:
        """Work on a claim, whatever comes of it.

        Args:
            turns: of the event loop that others have before.
        """
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if deaths.of(claim.lease) == deaths.MOST:
                raise ProcessesDied
            if (wait := self.early(claim)) > 0 and not self._halted:
                await self._sleep(min(wait, self._claiming.ahead))  # longer only by a clock that was set back
            await self.work(claim)
        except StoreUnavailable as error:  # the row comes due again when the lease runs out
            log.debug("claim left", claim=claim.id, error=error.detail)
        except Exception as error:  # a bug, a stored secret that does not open, a machine at its limits
            self._faults.note("claim failed", error, claim.id)
            await self._end_fault(claim)

    async def _sleep(self, seconds: float) -> None:
        """Wait until a claim that was made ahead is due, or until this loop is halted."""
        loop = asyncio.get_running_loop()
        due = loop.create_future()
        timer = self._sleeping[due] = loop.call_later(seconds, due.set_result, None)
        try:
            await due
        finally:
            timer.cancel()
            del self._sleeping[due]

    async def _end_fault(self, claim: ClaimT) -> None:
        """Save the outcome of a fault. If that fails too, put the row off, each time longer."""
        try:
            await self.fail(claim)
        except StoreUnavailable as error:
            log.debug("claim left", claim=claim.id, error=error.detail)
        except Exception as error:
            self._faults.note("outcome not saved", error, claim.id)
            await self._set_back(claim)

    async def _set_back(self, claim: ClaimT) -> None:
        if len(self._setbacks) >= MAX_SETBACKS:
            self._setbacks.clear()
        times = self._setbacks[claim.id] = self._setbacks.get(claim.id, 0) + 1
        due = self._process.clock() + round(min(MAX_SETBACK, FIRST_SETBACK * 2.0 ** min(times - 1, 10)) * 1000)
        try:
            await self._process.db.persist(setbacks.put_off, self._claiming.table, claim.id, claim.lease, due)
        except Exception as error:  # the row comes due again when the lease runs out
            self._faults.note("row not put off", error, claim.id)

    def _done(self, task: asyncio.Task[None]) -> None:
        was_full = self._free <= 0
        del self._under_way[task]
        if was_full or self._held_back:
            self._wake(0.0)

    def wake_for(self, due: list[Millis]) -> None:
        """Wake this loop when the first of these rows comes due."""
        if due:
            self._wake(self._seconds_until(min(due)))

    def _seconds_until(self, due: Millis) -> float:
        """Return the seconds until a row that comes due is to be claimed."""
        return (due - self._process.clock()) / 1000 - (LEAD if self._claiming.ahead else 0.0)

    @property
    def under_way(self) -> int:
        """Return how many claims are under way, with those that wait for their time."""
        return len(self._under_way)

    def halt(self) -> None:
        """Claim nothing more. A subclass also sends away those that wait for a place, so that they give rows back."""
        self._halted = True
        for due, timer in self._sleeping.items():
            if not due.done():
                timer.cancel()
                due.set_result(None)

    async def drain(self) -> None:
        """Wait until all that is under way has been saved."""
        while self._under_way:
            await asyncio.wait(self._under_way)
