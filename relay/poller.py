"""Polling: claim what is due, ask, decide, save."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import orjson
import structlog

from relay import metrics
from relay.cadence import Cadence, next_poll
from relay.errors import ConfigError, StoreUnavailable
from relay.model import (
    TERMINAL_EVENTS,
    Event,
    EventData,
    EventType,
    Kind,
    Millis,
    Reading,
    State,
    Watch,
    estimated_end,
    event,
    expire,
    says_new,
    transition,
)
from relay.provider import Provider
from relay.store import Database, outbox, polling, traces
from relay.store.group import Group
from relay.store.schema import UNKNOWN
from relay.sweep import Process, Sweep
from relay.tracing import Tracing
from relay.vault import Vault

log = structlog.stdlib.get_logger(__name__)

LEASE = 60.0
"""Seconds that a claim holds: longer than the slowest query, its wait and its save."""

MAX_IN_FLIGHT, WAITING = 500, 300
"""Claims under way at once in one process, whomever they ask; and how many may wait for one lane.

A fast lane has work while the next claims are on their way from the database, and leaves others room.
"""

UNUSABLE_WAIT = 60.0
"""Seconds until a watch is looked at again that this process cannot ask about: no such provider, no address, no key."""

PROGRESS_EVERY = 10.0
"""Seconds between two `task.progress` events of one watch, at least."""


class Poller(Sweep[polling.Claim]):
    """Asks about every watch when its time has come.

    Args:
        db: where the watches are.
        process: who polls.
        providers: whom to ask, by name.
        vault: opens a watch's own upstream key.
        cadence: replaces every provider's cadence.
        told: called when deliveries have been made.
        changed: called with the watches of which something new was read.
        wake: called with the seconds until there is something to claim.
        tracing: traces the polls that end a watch.
    """

    def __init__(
        self,
        db: Database,
        process: Process,
        providers: Mapping[str, Provider],
        vault: Vault,
        cadence: Cadence | None,
        told: Callable[[], None],
        changed: Callable[[Sequence[str]], None],
        wake: Callable[[float], None],
        tracing: Tracing,
    ) -> None:
        super().__init__(db, polling.claim, polling.next_due, process, self._poll, LEASE, MAX_IN_FLIGHT, WAITING, wake)
        self._providers, self._vault, self._cadence, self._told = providers, vault, cadence, told
        self._clock, self._changed, self._tracing = process.clock, changed, tracing
        self._saves = Group(self._save, gather=0.003, most=500)

    async def _poll(self, claim: polling.Claim) -> None:
        await self._saves.put(await self._asked(claim))

    async def _asked(self, claim: polling.Claim) -> polling.Polled:
        """What comes of a claim: asked and decided, or put off because the lane is full."""
        provider = self._providers.get(claim.provider)
        if provider is None or not provider.configured:
            return await self._put_off(claim, UNUSABLE_WAIT)
        try:
            key = self._upstream_key(claim)
        except ConfigError as error:
            log.error("upstream key does not open", watch_id=claim.id, error=error.detail)
            return await self._put_off(claim, UNUSABLE_WAIT)
        lane, limit = provider.lane(key), provider.definition.budget
        if wait := await self.budget.enter(lane, limit):
            return await self._put_off(claim, wait)
        asked_at, started, reading = self._clock(), time.monotonic(), Reading(Kind.NOT_ANSWERED)
        try:
            reading = await provider.query(claim.task_id, key, asked_at)
        finally:
            done = time.monotonic()
            self.budget.done(lane, done - started, done, refused=reading.limited, retry_after=reading.retry_after)
        metrics.POLLS.labels(provider.name, reading.kind).inc()
        watch = transition(claim.watch, reading, self._clock(), provider.definition.caution)
        return await self._polled(claim, watch, asked_at, reading, self._cadence or provider.definition.cadence)

    def _upstream_key(self, claim: polling.Claim) -> str | None:
        if claim.upstream_key is None:
            return None
        return self._vault.open(claim.upstream_key, key_owner(claim.app_id, claim.provider, claim.task_id)).decode()

    async def _put_off(self, claim: polling.Claim, wait: float) -> polling.Polled:
        """Gives the row back, due again after `wait` seconds; its deadline holds all the same."""
        metrics.PUT_OFF.labels("poll").inc()
        now = self._clock()
        watch = expire(claim.watch, now)
        if watch.state is not State.WATCHING:
            return await self._polled(claim, watch, now, Reading(Kind.NOT_ANSWERED), Cadence())
        return polling.Polled(claim, None, now, min(now + round(wait * 1000), claim.watch.expires_at))

    async def _polled(
        self, claim: polling.Claim, watch: Watch, asked_at: Millis, reading: Reading, cadence: Cadence
    ) -> polling.Polled:
        """What to save of a watch that has become `watch`, and what to tell."""
        now = self._clock()
        answer, answer_hash = _to_keep(claim, reading)
        due, told = None, None
        if watch.ended_at is not None:
            upstream = reading.body or reading.aside or await self._db.persist(polling.answer, claim.id)
            told = _event(claim, watch, TERMINAL_EVENTS[watch.state], outbox.END, watch.ended_at, upstream)
        else:
            due = next_poll(cadence, watch, reading, asked_at, now, random.random())  # noqa: S311
            quiet = now - (claim.progress_told_at or 0) >= PROGRESS_EVERY * 1000
            if claim.wants_progress and quiet and watch.progress != claim.watch.progress:
                told = _event(claim, watch, EventType.PROGRESS, f"progress:{watch.polls}", now, reading.body)
        return polling.Polled(
            claim,
            watch,
            asked_at,
            due,
            estimated_end=estimated_end(watch, now),
            answer=answer,
            answer_status=reading.http_status,
            answer_hash=answer_hash,
            event=told,
            changed=says_new(claim.watch, watch),
        )

    async def _save(self, polled: Sequence[polling.Polled]) -> Sequence[None]:
        if await self._db.persist(polling.save, polled):
            self._told()
        self._changed([one.claim.id for one in polled if one.changed])
        due = [one.next_poll_at for one in polled if one.next_poll_at is not None]
        if due:
            self.wake((min(due) - self._clock()) / 1000)
        for one in polled:
            if one.watch is not None and one.watch.ended_at is not None:
                self._note_end(one.claim, one.watch, one.watch.ended_at)
        if self._tracing.on:
            await self._trace_ends([one for one in polled if one.watch is not None and one.watch.ended_at is not None])
        return [None] * len(polled)

    async def _trace_ends(self, ended: Sequence[polling.Polled]) -> None:
        """Traces the polls that ended watches, from the question to the commit."""
        parents: dict[str, str] = {}
        with contextlib.suppress(StoreUnavailable):
            parents = await self._db.read(traces.parents, [one.claim.id for one in ended])
        for one in ended:
            if one.watch is not None and one.claim.id in parents:
                with self._tracing.span("poll", "client", parents[one.claim.id], since=one.asked_at) as span:
                    said = {"watch_id": one.claim.id, "provider": one.claim.provider, "state": one.watch.state}
                    span.note(said | {"polls": one.watch.polls})

    @staticmethod
    def _note_end(claim: polling.Claim, watch: Watch, ended_at: Millis) -> None:
        metrics.ENDS.labels(claim.provider, watch.state).inc()
        metrics.DETECTION_LAG.labels(claim.provider).observe(polling.unseen(claim, ended_at) / 1000)
        log.info(
            watch.state.value, watch_id=claim.id, task_id=claim.task_id, provider=claim.provider, polls=watch.polls
        )


def key_owner(app_id: str, provider: str, task_id: str) -> str:
    """For whom a watch's upstream key is sealed: the same before and after the watch has its row."""
    return f"upstream-key {app_id} {provider} {task_id}"


def _to_keep(claim: polling.Claim, reading: Reading) -> tuple[bytes | None, int | None]:
    """The answer if it is to be stored, and the hash of what is stored then.

    What an upstream says of a task is not given up for its saying that it does not know the task.
    """
    if reading.body is not None:
        answer_hash = crc32(reading.body)
        return reading.body if answer_hash != claim.answer_hash else None, answer_hash
    if reading.kind is Kind.UNKNOWN_TASK and reading.aside is not None and claim.answer_hash in (None, UNKNOWN):
        return reading.aside, UNKNOWN
    return None, claim.answer_hash


def _event(claim: polling.Claim, watch: Watch, kind: EventType, key: str, at: Millis, upstream: bytes | None) -> Event:
    data = EventData(
        watch_id=claim.id,
        task_id=claim.task_id,
        provider=claim.provider,
        state=watch.state,
        result=watch.result,
        error=watch.error,
        metadata=orjson.Fragment(claim.metadata),
    )
    if kind is EventType.PROGRESS:
        data["progress"] = watch.progress
    return event(kind, key, at, data, upstream)
