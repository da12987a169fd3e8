"""Delivery: claim what is due, send, record."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from relay.channels.sender import Sender
from relay.errors import StoreUnavailable
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.event import EventType
from relay.model.retry import next_attempt
from relay.model.times import rfc3339
from relay.outbound.callers import Caller, CallKind
from relay.outbound.receivers import MAX_CLAIMED, Receiver, ReceiverLanes
from relay.store import outbox
from relay.store.batches import Batcher
from relay.store.due import Allotment
from relay.store.schema import deliveries
from relay.telemetry import metrics
from relay.worker.claim_loop import Claiming, ClaimLoop, Process

log = structlog.stdlib.get_logger(__name__)

LEASE = 45.0
"""Seconds that a claim holds: longer than one attempt's deadline and its record."""

MOST_NAMED = 100
"""Deliveries that one line of the log names, at most: a longer line would be cut."""

INTERNAL = Outcome(Verdict.RETRY, "internal", note="relay itself failed: the log of the operator says how")
"""The outcome of an attempt that a fault of relay's own has interrupted. It counts, so that the delivery ends."""


class Dispatcher(ClaimLoop[outbox.DeliveryClaim]):
    """Sends every delivery when it is due.

    Args:
        process: the process that sends.
        sender: makes each attempt.
        lanes: how much each receiver is sent at once.
        schedule: seconds before each attempt, counted from the one before.
    """

    def __init__(self, process: Process, sender: Sender, lanes: ReceiverLanes, schedule: Sequence[float]) -> None:
        claiming = Claiming("deliver", deliveries, outbox, LEASE, MAX_CLAIMED)
        super().__init__(process, claiming, process.wake.deliveries)
        self._sender = sender
        self._lanes = lanes
        self._schedule = schedule
        self._clock = process.clock
        self._records = Batcher(self._record, gather=0.003, most=200)

    @contextmanager
    def reserved(self, wanted: Mapping[str, int]) -> Iterator[Callable[[], Allotment]]:
        """Hold places as any loop does, if first attempts are due at once."""
        with super().reserved({} if self._schedule[0] else wanted) as allot:
            yield allot

    async def work(self, claim: outbox.DeliveryClaim) -> None:
        """Send one delivery, unless its place is unwell or busy, and record what came of it."""
        if claim.held and claim.probe_at is not None:
            reason = f"the receiver has been failing for long; it is tried again at {rfc3339(claim.probe_at)}"
            await self._records.put(self._held(claim, None, reason))
            return
        if await self._is_outdated(claim):
            state, reason = DeliveryState.DEAD, "the task has ended meanwhile"
            await self._records.put(outbox.Tried(claim, None, claim.counted, state, None, self._clock(), reason))
            return
        receiver = Receiver(claim.place, claim.host)
        caller = Caller(CallKind.DELIVER, claim.app_id)
        if wait := self._early(claim) or await self._lanes.enter(receiver, caller):
            await self._records.put(self._put_off(claim, wait))
            return
        started = time.monotonic()
        try:
            attempt = await self._sender.deliver(claim)
        except StoreUnavailable:  # The signing secrets could not be read; nothing was sent.
            await self._records.put(self._put_off(claim, 1.0))
            return
        finally:
            self._lanes.done(receiver, caller, time.monotonic() - started)
        await self._records.put(self._tried(claim, attempt))

    async def fail(self, claim: outbox.DeliveryClaim) -> None:
        """Record an attempt that counts by the schedule, with the error `internal`."""
        attempt = Attempt(claim.attempts + 1, self._clock(), 0, INTERNAL)
        await self._records.put(self._tried(claim, attempt))

    async def _is_outdated(self, claim: outbox.DeliveryClaim) -> bool:
        """Return whether a delivery says that a task is late which has ended since the attempt before."""
        if claim.event_type != EventType.LATE or not claim.attempts:
            return False
        return await self._process.db.read(outbox.has_ended, claim.watch_id)

    def _early(self, claim: outbox.DeliveryClaim) -> float:
        """Return the seconds until the first attempt, 0 if it is due."""
        if claim.attempts:
            return 0.0
        return max(0.0, self._schedule[0] - (self._clock() - claim.created_at) / 1000)

    def halt(self) -> None:
        """Claim nothing more, and have those that wait for a place give their rows back."""
        super().halt()
        self._lanes.close()

    def _tried(self, claim: outbox.DeliveryClaim, attempt: Attempt) -> outbox.Tried:
        """Return what an attempt makes of its delivery."""
        outcome = attempt.outcome
        now = self._clock()
        if outcome.unsent:
            return self._put_off(claim, outcome.retry_after or 0.0)
        counted = claim.counted + (not outcome.free)
        if outcome.verdict is Verdict.DELIVERED:
            return outbox.Tried(claim, attempt, counted, DeliveryState.DELIVERED, None, now)
        schedule = self._schedule[:1] if claim.event_type in outbox.SINGLE_ATTEMPT else self._schedule
        delay = next_attempt(schedule, counted, outcome, random.random())  # noqa: S311
        reason = outcome.note or outcome.error
        if claim.probe_at is not None and outcome.verdict is Verdict.RETRY:
            return self._held(claim, attempt, reason)
        if delay is None:
            exhausted = outcome.verdict is Verdict.RETRY and claim.event_type not in outbox.SINGLE_ATTEMPT
            return outbox.Tried(claim, attempt, counted, DeliveryState.DEAD, None, now, reason, exhausted)
        return outbox.Tried(claim, attempt, counted, DeliveryState.PENDING, now + round(delay * 1000), None, reason)

    def _put_off(self, claim: outbox.DeliveryClaim, seconds: float) -> outbox.Tried:
        """Return a claim to be tried after some seconds, since nothing was sent."""
        due = self._clock() + round(seconds * 1000)
        return outbox.Tried(claim, None, claim.counted, DeliveryState.PENDING, due)

    def _held(self, claim: outbox.DeliveryClaim, attempt: Attempt | None, reason: str | None) -> outbox.Tried:
        """Return a delivery that waits until its place is well again, or is dead if it is never retried."""
        now = self._clock()
        if claim.event_type in outbox.SINGLE_ATTEMPT:
            return outbox.Tried(claim, attempt, claim.counted, DeliveryState.DEAD, None, now, reason)
        return outbox.Tried(claim, attempt, claim.counted, DeliveryState.HELD, now, None, f"held: {reason}")

    async def _record(self, tried: Sequence[outbox.Tried]) -> Sequence[None]:
        await self._process.db.persist(outbox.record, tried)
        self._process.feed.announce([result.claim.watch_id for result in tried if result.attempt])
        self.wake_for([result.next_attempt_at for result in tried if result.next_attempt_at is not None])
        for result in tried:
            self._note(result)
        _warn_of_first_failures(tried)
        return [None] * len(tried)

    @staticmethod
    def _note(tried: outbox.Tried) -> None:
        """Count an attempt, and log how its delivery was settled."""
        attempt = tried.attempt
        if attempt is None:
            metrics.PUT_OFF.labels("delivery").inc()
            return
        metrics.ATTEMPTS.labels(tried.claim.target_type, attempt.outcome.verdict).inc()
        if tried.state is DeliveryState.PENDING:
            return
        if tried.state is DeliveryState.DELIVERED:
            lag = (attempt.at + attempt.latency_ms - tried.claim.created_at) / 1000
            metrics.DELIVERY_LAG.labels(tried.claim.target_type).observe(max(0.0, lag))
        say = log.info if tried.state is DeliveryState.DELIVERED else log.warning
        say(
            tried.state.value,
            delivery_id=tried.claim.id,
            watch_id=tried.claim.watch_id,
            event_type=tried.claim.event_type,
            host=tried.claim.host,
            attempts=attempt.number,
            status=attempt.outcome.status,
            error=attempt.outcome.error,
        )


def _warn_of_first_failures(tried: Sequence[outbox.Tried]) -> None:
    """Log the deliveries whose first attempt has failed: one line for all of one place that fail together."""
    of_place: defaultdict[tuple[str, str | None], list[outbox.Tried]] = defaultdict(list)
    for result in tried:
        waits = result.state in (DeliveryState.PENDING, DeliveryState.HELD)
        if waits and result.attempt is not None and result.attempt.number == 1:
            of_place[result.claim.place, result.attempt.outcome.error].append(result)
    for (_, error), failures in of_place.items():
        first = failures[0]
        log.warning(
            "not delivered yet",
            deliveries=len(failures),
            delivery_ids=" ".join(failure.claim.id for failure in failures[:MOST_NAMED]),
            watch_id=first.claim.watch_id,
            event_type=first.claim.event_type,
            host=first.claim.host,
            status=None if first.attempt is None else first.attempt.outcome.status,
            error=error,
            reason=first.reason,
            next_attempt_at=None if first.next_attempt_at is None else rfc3339(first.next_attempt_at),
        )
