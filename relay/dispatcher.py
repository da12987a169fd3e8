"""Delivery: claim what is due, send, record."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import orjson
import structlog

from relay import keyring, metrics
from relay.budget import Budget, Limit
from relay.channels.base import Channel, Message
from relay.errors import NotFound, StoreUnavailable
from relay.ids import new_id
from relay.model import Attempt, DeliveryState, EventType, Millis, Outcome, Verdict, event_body, rfc3339
from relay.retry import next_attempt
from relay.store import Database, apps, outbox, traces
from relay.store.group import Group
from relay.store.watches import FoundTarget, NewTarget
from relay.sweep import Process, Sweep
from relay.tracing import Tracing
from relay.vault import Vault

log = structlog.stdlib.get_logger(__name__)

LEASE = 45.0
"""Seconds that a claim holds: longer than one attempt's deadline and its record."""

SECRETS_CACHE = 1.0
"""Seconds for which an app's signing secrets once read are used: so late may a new one begin to sign."""

MAX_IN_FLIGHT, WAITING = 300, 40
"""Attempts under way at once in one process; and how many may wait for one receiver, or one host."""

PER_RECEIVER, PER_HOST = Limit(concurrency=20), Limit(concurrency=40)
"""Attempts under way at once to one URL of an app, and to one host: what keeps a slow receiver from delaying others."""


class Dispatcher(Sweep[outbox.Claim]):
    """Sends every delivery when its time has come.

    Args:
        db: where the deliveries are.
        process: who sends.
        channels: how to send, by type of target.
        vault: opens addresses and signing secrets.
        schedule: seconds before each attempt, counted from the one before.
        changed: called with the watches of whose deliveries something came.
        wake: called with the seconds until there is something to claim.
        tracing: traces attempts.
    """

    def __init__(
        self,
        db: Database,
        process: Process,
        channels: Mapping[str, Channel],
        vault: Vault,
        schedule: Sequence[float],
        changed: Callable[[Sequence[str]], None],
        wake: Callable[[float], None],
        tracing: Tracing,
    ) -> None:
        super().__init__(db, outbox.claim, outbox.next_due, process, self._deliver, LEASE, MAX_IN_FLIGHT, WAITING, wake)
        self._receivers = Budget(MAX_IN_FLIGHT, WAITING)
        self._channels, self._vault, self._schedule, self._clock = channels, vault, schedule, process.clock
        self._changed, self._tracing = changed, tracing
        self._known_secrets: dict[str, tuple[Millis, list[keyring.Secret]]] = {}
        self._records = Group(self._record, gather=0.003, most=200)

    async def _deliver(self, claim: outbox.Claim) -> None:
        if claim.held and claim.probe_at is not None:
            reason = f"the receiver has been failing for long; it is tried again at {rfc3339(claim.probe_at)}"
            await self._records.put(self._held(claim, None, reason))
            return
        early = self._schedule[0] - (self._clock() - claim.created_at) / 1000 if claim.attempts == 0 else 0.0
        if wait := early if early > 0 else await self._enter(claim):
            due = self._clock() + round(wait * 1000)
            await self._records.put(outbox.Tried(claim, None, claim.counted, DeliveryState.PENDING, due))
            return
        started = time.monotonic()
        try:
            address = orjson.loads(self._vault.open(claim.address, claim.target_id))
            attempt = await self._attempt(
                claim.app_id,
                claim.target_type,
                address,
                claim.webhook_id,
                claim.event_type,
                claim.body,
                claim.attempts + 1,
                claim.target_id,
                await self._parent(claim.watch_id),
            )
        except StoreUnavailable:  # before anything was sent: the signing secrets could not be read
            due = self._clock() + 1000
            await self._records.put(outbox.Tried(claim, None, claim.counted, DeliveryState.PENDING, due))
            return
        finally:
            done = time.monotonic()
            for budget, lane in ((self.budget, claim.host), (self._receivers, claim.place)):
                budget.done(lane, done - started, done, refused=False, retry_after=None)
        await self._records.put(self._tried(claim, attempt))

    async def _enter(self, claim: outbox.Claim) -> float:
        """Takes a place at the receiver and at its host: 0, or the seconds after which to try again."""
        if wait := await self._receivers.enter(claim.place, PER_RECEIVER):
            return wait
        if wait := await self.budget.enter(claim.host, PER_HOST):
            self._receivers.leave(claim.place, time.monotonic())
        return wait

    def halt(self) -> None:
        """Claims nothing more, and has whoever waits for a place give its row back."""
        super().halt()
        self._receivers.close()

    async def test(
        self, app_id: str, target: NewTarget | FoundTarget, words: str, traceparent: str | None = None
    ) -> tuple[str, Attempt]:
        """Sends a `relay.test` event to a target now, signed as every other; its webhook-id, and what came of it."""
        message_id, kind = new_id("evt"), EventType.TEST
        body = event_body(kind, self._clock(), {"message": words})
        address = orjson.loads(self._vault.open(target.address, target.id))
        attempt = await self._attempt(app_id, target.type, address, message_id, kind, body, 1, traceparent=traceparent)
        return message_id, attempt

    async def _attempt(
        self,
        app_id: str,
        target_type: str,
        address: dict[str, object],
        message_id: str,
        kind: str,
        body: bytes,
        number: int,
        target_id: str | None = None,
        traceparent: str | None = None,
    ) -> Attempt:
        """Sends one message now, signed with the app's secrets.

        Args:
            target_id: to whom it is a delivery, if it is one.
            traceparent: what it follows from, where that is traced.
        """
        at, started = self._clock(), time.monotonic()
        secrets = await self._secrets(app_id)
        with self._tracing.span("deliver", "client", traceparent) as span:
            message = Message(message_id, kind, body, address, secrets, at // 1000, target_id, span.traceparent)
            channel = self._channels.get(target_type)
            if channel is None:
                why = f"this deployment has no channel '{target_type}'"
                outcome = Outcome(Verdict.RETRY, "not_configured", note=why)
            else:
                outcome = await channel.send(message)
            said = {"webhook_id": message_id, "event": kind, "target": target_type, "verdict": outcome.verdict}
            failed = None if outcome.verdict is Verdict.DELIVERED else outcome.error or outcome.verdict
            span.note(said | {"attempt": number, "status": outcome.status}, failed)
        return Attempt(number, at, round((time.monotonic() - started) * 1000), outcome)

    async def _parent(self, watch_id: str) -> str | None:
        """What a watch's deliveries follow from, where that is traced."""
        return (await self._db.read(traces.parents, [watch_id])).get(watch_id) if self._tracing.on else None

    async def _secrets(self, app_id: str) -> list[str]:
        """The app's signing secrets that are valid now, newest first."""
        now = self._clock()
        looked_up, stored = self._known_secrets.get(app_id, (0, []))
        if now - looked_up > SECRETS_CACHE * 1000 or now < looked_up:
            sealed = await self._db.read(apps.secrets, app_id)
            if sealed is None:
                raise NotFound(f"there is no app '{app_id}'")
            stored = orjson.loads(self._vault.open(sealed, app_id))
            self._known_secrets[app_id] = (now, stored)
        return [one["secret"] for one in keyring.valid(stored, now)]

    def _tried(self, claim: outbox.Claim, attempt: Attempt) -> outbox.Tried:
        """What an attempt makes of its delivery."""
        outcome, now = attempt.outcome, self._clock()
        if outcome.unsent:
            due = now + round((outcome.retry_after or 0.0) * 1000)
            return outbox.Tried(claim, None, claim.counted, DeliveryState.PENDING, due)
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

    def _held(self, claim: outbox.Claim, attempt: Attempt | None, reason: str | None) -> outbox.Tried:
        """What is for an unwell place waits until that is well again; what is never tried again is dead at once."""
        now = self._clock()
        if claim.event_type in outbox.SINGLE_ATTEMPT:
            return outbox.Tried(claim, attempt, claim.counted, DeliveryState.DEAD, None, now, reason)
        return outbox.Tried(claim, attempt, claim.counted, DeliveryState.HELD, now, None, f"held: {reason}")

    async def _record(self, tried: Sequence[outbox.Tried]) -> Sequence[None]:
        await self._db.persist(outbox.record, tried)
        self._changed([one.claim.watch_id for one in tried if one.attempt])
        due = [one.next_attempt_at for one in tried if one.next_attempt_at is not None]
        if due:
            self.wake((min(due) - self._clock()) / 1000)
        for one in tried:
            self._note(one)
        return [None] * len(tried)

    @staticmethod
    def _note(tried: outbox.Tried) -> None:
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
