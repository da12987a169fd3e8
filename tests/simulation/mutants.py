"""Guards of relay taken out, one at a time, while a simulation runs: the oracle must notice each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from relay.store import hot, outbox, polling, processes, telling
from relay.store import watches as watch_queries
from relay.store.schema import attempts, deliveries, watches
from relay.worker import dispatcher, poller

_replaced: list[tuple[Any, str, Any]] = []


def _replace(owner: Any, name: str, value: Any) -> None:
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def restore() -> None:
    """Put every guard back."""
    while _replaced:
        setattr(*_replaced.pop())


def late_polls() -> None:
    """Save what a poll found although its lease is lost."""
    save = polling.save

    def mutant(tx: sa.Connection, polled: Sequence[polling.Polled], *allotment: Any) -> Any:
        for poll in polled:
            tx.execute(sa.update(watches).where(watches.c.id == poll.claim.id).values(lease=poll.claim.lease))
        return save(tx, polled, *allotment)

    _replace(polling, "save", mutant)


def late_readings() -> None:
    """Save the state of a watch without its lease; what is written beside it still needs one."""
    of_poll = polling._OF_POLL
    _replace(polling, "_go_on", hot.Update(watches, ("id",), of_poll, clears=("lease",)))
    _replace(polling, "_end", hot.Update(watches, ("id",), (*of_poll, "state", "ended_at"), clears=("lease",)))


def late_ends() -> None:
    """Write the event of an end without the lease; the watch itself still needs one."""
    _replace(polling, "_still_held", lambda _tx, polled: polled)


def late_records() -> None:
    """Record an attempt although the lease of its delivery is lost."""
    record = outbox.record

    def mutant(tx: sa.Connection, tried: Sequence[outbox.Tried]) -> None:
        for result in tried:
            mine = sa.update(deliveries).where(deliveries.c.id == result.claim.id)
            tx.execute(mine.values(lease=result.claim.lease))
        record(tx, tried)

    _replace(outbox, "record", mutant)


def renumbered_records() -> None:
    """Record an attempt once more, as the next one, when the same record runs again after its commit."""
    record = outbox.record

    def mutant(tx: sa.Connection, tried: Sequence[outbox.Tried]) -> None:
        again = []
        for result in tried:
            last = sa.select(sa.func.max(attempts.c.number)).where(attempts.c.delivery_id == result.claim.id)
            number = tx.execute(last).scalar() or 0
            mine = sa.update(deliveries).where(deliveries.c.id == result.claim.id)
            tx.execute(mine.values(lease=result.claim.lease))
            attempt = result.attempt and replace(result.attempt, number=number + 1)
            again.append(replace(result, attempt=attempt))
        record(tx, again)

    _replace(outbox, "record", mutant)


def unsent_attempts() -> None:
    """Record an attempt that was never made: the first of each hundred that succeed."""
    tried = dispatcher.Dispatcher._tried

    def mutant(self: Any, claim: Any, attempt: Any) -> Any:
        made_up = replace(attempt, outcome=replace(attempt.outcome, answer=b"#0"))
        return tried(self, claim, made_up if attempt.outcome.status == 204 else attempt)

    _replace(dispatcher.Dispatcher, "_tried", mutant)


def short_leases() -> None:
    """Let the claim of a delivery hold for 3 s, less than an attempt may take."""
    _replace(dispatcher, "LEASE", 3.0)


def short_poll_leases() -> None:
    """Let the claim of a watch hold for 3 s, less than a query may take."""
    _replace(poller, "LEASE", 3.0)


def stopped_but_claimed() -> None:
    """Stop a watch and leave its lease, so that a poll under way ends it once more."""
    cancel = watch_queries.cancel

    def mutant(tx: sa.Connection, app_id: str, watch_id: str, *args: Any) -> bool:
        lease = tx.execute(sa.select(watches.c.lease).where(watches.c.id == watch_id)).scalar()
        stopped = cancel(tx, app_id, watch_id, *args)
        tx.execute(sa.update(watches).where(watches.c.id == watch_id).values(lease=lease))
        return stopped

    _replace(watch_queries, "cancel", mutant)


def lost_deliveries() -> None:
    """End a watch, and forget the last of its deliveries."""
    send_out = telling._send_out
    _replace(telling, "_send_out", lambda tx, made: send_out(tx, made[:-1] if len(made) > 2 else made))


def unburied() -> None:
    """Forget a dead process, and leave its deliveries claimed for ever."""
    bury = processes.bury

    def mutant(tx: sa.Connection, name: str, now: int, **options: bool) -> int:
        claimed = deliveries.c.lease.startswith(f"{name}.")
        tx.execute(sa.update(deliveries).where(claimed).values(next_attempt_at=now + 10**9, lease="nobody"))
        return bury(tx, name, now, **options)

    _replace(processes, "bury", mutant)


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        late_polls,
        late_readings,
        late_ends,
        late_records,
        renumbered_records,
        unsent_attempts,
        short_leases,
        short_poll_leases,
        stopped_but_claimed,
        lost_deliveries,
        unburied,
    )
}
