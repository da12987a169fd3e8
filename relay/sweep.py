"""What polling and delivery have in common: claim what is due, set each claim going, know what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa
import structlog

from relay.budget import Budget
from relay.model import Millis
from relay.store import Database

log = structlog.stdlib.get_logger(__name__)

Claim = TypeVar("Claim")


class ClaimQuery(Protocol[Claim]):
    """A query of the store that claims due rows: `polling.claim`, `outbox.claim`."""

    def __call__(self, tx: sa.Connection, now: Millis, until: Millis, lease: str, most: int) -> list[Claim]:
        """Takes up to `most` due rows, which come due again `until`."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """Who claims: the process's name in leases, and its clock in milliseconds since the epoch."""

    name: str
    clock: Callable[[], Millis]


class Sweep(Generic[Claim]):
    """Claims due rows, as many as there is room for.

    Args:
        db: where the rows are.
        claim, next_due: the queries of the store.
        process: who claims.
        work: what is done with each claim; saves what came of it itself.
        lease: seconds that a claim holds, longer than `work` can take.
        most: claims under way at once.
        waiting: of these, how many may wait for a place in one lane.
        wake: called with the seconds until something is to be claimed: there is room again, or a save made it due.

    Attributes:
        budget: how much each place is asked at once.
    """

    def __init__(
        self,
        db: Database,
        claim: ClaimQuery[Claim],
        next_due: Callable[[sa.Connection], Millis | None],
        process: Process,
        work: Callable[[Claim], Awaitable[None]],
        lease: float,
        most: int,
        waiting: int,
        wake: Callable[[float], None],
    ) -> None:
        self._db, self._claim, self._next_due, self._process = db, claim, next_due, process
        self._work, self._lease, self._most, self.wake = work, lease, most, wake
        self.budget = Budget(most, waiting)
        self._claims = 0
        self._halted = False
        self._under_way: set[asyncio.Task[None]] = set()

    async def tick(self) -> float | None:
        """Claims what is due and sets it going, without waiting for it.

        Returns:
            Seconds until the next row comes due; None when none will, or when there is no room for it.
        """
        room = self._most - len(self._under_way)
        if room <= 0 or self._halted:
            return None
        self._claims += 1
        now = self._process.clock()
        lease = f"{self._process.name}.{self._claims}"
        claims, due = await self._db.run(self._take, now, now + round(self._lease * 1000), lease, room)
        for claim in claims:
            task = asyncio.ensure_future(self._work_on(claim))
            self._under_way.add(task)
            task.add_done_callback(self._done)
        return None if due is None else max(0.0, (due - self._process.clock()) / 1000)

    def _take(
        self, tx: sa.Connection, now: Millis, until: Millis, lease: str, room: int
    ) -> tuple[list[Claim], Millis | None]:
        return self._claim(tx, now, until, lease, room), self._next_due(tx)

    async def _work_on(self, claim: Claim) -> None:
        try:
            await self._work(claim)
        except Exception:
            # A bug, or a stored secret that does not open: the row comes due again when the lease runs out.
            log.exception("claim failed", claim=getattr(claim, "id", None))

    def _done(self, task: asyncio.Task[None]) -> None:
        was_full = len(self._under_way) >= self._most
        self._under_way.discard(task)
        if was_full:
            self.wake(0.0)

    @property
    def under_way(self) -> int:
        """How many claims are under way."""
        return len(self._under_way)

    def halt(self) -> None:
        """Claims nothing more, and has whoever waits for a place give its row back."""
        self._halted = True
        self.budget.close()

    async def drain(self) -> None:
        """Waits until all that is under way has been saved."""
        while self._under_way:
            await asyncio.wait(self._under_way)
