"""Polling: claim what is due, ask, decide, save."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from zlib import crc32

import orjson
import sqlalchemy as sa
import structlog

from relay.errors import StoreUnavailable
from relay.model.cadence import Cadence, next_poll
from relay.model.event import TERMINAL_EVENTS, Event, EventData, EventType, Upstream, event
from relay.model.outlook import due_by, expected_end, is_late, lesson_of, mark_of
from relay.model.providers import family
from relay.model.reading import INTERNAL, Kind, Reading
from relay.model.times import Millis
from relay.model.watch import Caution, Obstacle, State, Watch, says_new, transition, unasked
from relay.outbound.callers import Caller, CallKind
from relay.providers.bulk import MISSING
from relay.providers.hosts import Unaskable
from relay.providers.provider import Provider
from relay.providers.upstreams import MAX_UNDER_WAY, Busy, Query, Upstreams
from relay.security.vault import Vault, inline_owner, upstream_key_owner
from relay.store import last_answers, outbox, polling, schema, watches
from relay.store.batches import Batcher
from relay.store.due import Allotment
from relay.store.experiences import name_of
from relay.store.learned import Learned
from relay.store.misses import KEPT, Miss
from relay.store.schema import CUT, REPAIRED, UNKNOWN
from relay.store.telling import Told
from relay.telemetry import metrics
from relay.worker.claim_loop import Claiming, ClaimLoop, Process
from relay.worker.dispatcher import Dispatcher
from relay.worker.pace import Pace, Paces

log = structlog.stdlib.get_logger(__name__)

LEASE = 60.0
"""Seconds that a claim holds: longer than the slowest query, its wait and its save."""

AHEAD = 0.25
"""Seconds before a watch is due at which it is claimed: a few claims a second, and each poll on its time."""

MAX_CLAIMED = 2 * MAX_UNDER_WAY
"""Watches claimed at once in one process: those that wait for their time leave places for the others."""

PER_EVENT = 4
"""Deliveries of one event for which places are held. Few watches have more targets."""

UNUSABLE_WAIT = 60.0
"""Seconds until a watch is tried again that this process cannot ask about: no such provider, no address, no key."""

ASKED_ALONE = (MISSING["code"], "unknown_task", INTERNAL["code"])
"""How the last poll of a task ended that is asked about without others: by itself it may have an answer."""

PROGRESS_EVERY = 10.0
"""Seconds between two `task.progress` events of one watch, at least."""


class Poller(ClaimLoop[polling.PollClaim]):
    """Asks about every watch when its time has come.

    Args:
        process: the process that polls.
        upstreams: the providers that can be asked.
        vault: opens a watch's own upstream key.
        cadence: replaces every provider's cadence.
        dispatcher: sends what ends make.
        learned: when ends are likely.
    """

    def __init__(
        self,
        process: Process,
        upstreams: Upstreams,
        vault: Vault,
        cadence: Cadence | None,
        dispatcher: Dispatcher,
        learned: Learned,
    ) -> None:
        claiming = Claiming("poll", schema.watches, polling, LEASE, MAX_CLAIMED, AHEAD)
        super().__init__(process, claiming, process.wake.polls)
        self._dispatcher = dispatcher
        self._upstreams = upstreams
        self._vault = vault
        self._cadence = cadence
        self._learned = learned
        self._paces = Paces()
        self._clock = process.clock
        self._saves = Batcher(self._save, gather=0.003, most=500)
        self._polls = cache(metrics.POLLS.labels)  # looking a child up costs more than counting

    def early(self, claim: polling.PollClaim) -> float:
        """Return the seconds until a watch is due."""
        return (claim.due - self._clock()) / 1000

    async def work(self, claim: polling.PollClaim) -> None:
        """Ask about one watch, decide what the answer means, and save it."""
        if self._halted and self.early(claim) > 0:
            await self._saves.put(polling.Polled(claim, None, self._clock(), claim.due))
            return
        await self._saves.put(await self._asked(claim))

    async def fail(self, claim: polling.PollClaim) -> None:
        """Save a poll that told nothing, so that the backoff and the deadline hold."""
        now = self._clock()
        cadence = self._cadence or Cadence(learn=False)
        with contextlib.suppress(Exception):  # the fault may be in what finds the provider
            cadence = self._provider(claim).cadence(self._cadence)
        reading = Reading(Kind.NOT_ANSWERED, error=INTERNAL)
        watch = transition(claim.watch, reading, now, Caution())
        await self._saves.put(await self._polled(claim, watch, now, reading, cadence))

    def halt(self) -> None:
        """Claim nothing more, and have those that wait for a place give their rows back."""
        super().halt()
        self._upstreams.close()

    async def _asked(self, claim: polling.PollClaim) -> polling.Polled:
        """Return what to save of a claim: asked and decided, or put off because it cannot be asked now."""
        try:
            provider = self._provider(claim)
        except Unaskable as why:
            return await self._put_off(claim, UNUSABLE_WAIT, Obstacle(str(why)))
        key = self._upstream_key(claim)
        if provider.lacks_key(key):
            return await self._put_off(claim, UNUSABLE_WAIT, Obstacle(f"'{provider.name}' has no API key here"))
        kind = CallKind.LAST if self._clock() >= claim.watch.expires_at else CallKind.POLL
        if kind is CallKind.POLL and claim.woken_from is not None and self._clock() < claim.woken_from:
            kind = CallKind.WAKE
        lane = provider.lanes(key, claim.app_id)[0][0]
        ready_at = self._clock()
        alone = claim.watch.error is not None and claim.watch.error["code"] in ASKED_ALONE
        query = await self._upstreams.poll(provider, claim.task_id, key, Caller(kind, claim.app_id), alone=alone)
        if isinstance(query, Busy):
            obstacle = Obstacle(f"{provider.host} was asked as much as it may be", passing=True)
            wait = query.wait
            if kind is CallKind.WAKE and claim.woken_from is not None:
                wait = min(wait, (claim.woken_from - self._clock()) / 1000)
            else:
                self._paces.put_off(lane)
            return await self._put_off(claim, wait, obstacle)
        self._polls(provider.definition.name, query.reading.kind).inc()
        watch = transition(claim.watch, query.reading, self._clock(), provider.definition.caution)
        cadence = provider.cadence(self._cadence)
        pace = self._paces.of(lane, query.asked_at - ready_at)
        polled = await self._polled(claim, watch, query.asked_at, query.reading, cadence, pace)
        return polled._replace(miss=_miss(watch, query)) if watch.misses else polled

    def _provider(self, claim: polling.PollClaim) -> Provider:
        """Return what to ask about a claim. It raises `Unaskable`, as `Upstreams.find` does."""
        owner = inline_owner(claim.app_id, claim.provider, claim.task_id)
        inline = self._vault.open_text(claim.inline, owner)
        return self._upstreams.find(claim.provider, claim.task_id, claim.upstream_base, inline)

    def _upstream_key(self, claim: polling.PollClaim) -> str | None:
        owner = upstream_key_owner(claim.app_id, claim.provider, claim.task_id)
        return self._vault.open_text(claim.upstream_key, owner)

    async def _put_off(self, claim: polling.PollClaim, wait: float, obstacle: Obstacle) -> polling.Polled:
        """Give the row back, due again after `wait` seconds, unless its deadline is over and it cannot be asked."""
        metrics.PUT_OFF.labels("poll").inc()
        now = self._clock()
        watch, due = unasked(claim.watch, obstacle, now, now + round(wait * 1000))
        if watch.state is not State.WATCHING:
            return await self._polled(claim, watch, now, Reading(Kind.NOT_ANSWERED), Cadence(learn=False))
        return polling.Polled(claim, None, now, due)

    async def _polled(
        self,
        claim: polling.PollClaim,
        watch: Watch,
        asked_at: Millis,
        reading: Reading,
        cadence: Cadence,
        pace: Pace | None = None,
    ) -> polling.Polled:
        """Return what to save of a watch that has become `watch`, with the event that it makes.

        Args:
            pace: of its lane, if that is short.
        """
        now = self._clock()
        answer, answer_hash = _to_keep(claim, reading)
        due: Millis | None = None
        told: Event | None = None
        late_told_at = claim.late_told_at
        model = name_of(reading.model) or claim.model
        progress_at = asked_at if watch.progress != claim.watch.progress else claim.progress_at
        await self._learned.refresh()
        plan = self._learned.of(claim.app_id, claim.provider, model, cadence).plan
        if watch.ended_at is not None:
            upstream = _repeated(reading) or await self._process.db.persist(last_answers.answer, claim.id)
            told = _event(claim, watch, TERMINAL_EVENTS[watch.state], outbox.END, watch.ended_at, upstream)
        else:
            plan = plan and plan.sharpened(mark_of(watch, progress_at))
            due = next_poll(cadence, watch, reading, asked_at, now, self._upstreams.chance(claim.provider), plan)
            if pace is not None:
                before = claim.last_poll_at or watch.created_at
                due = min(watch.expires_at, pace.due(asked_at, due, before))
            due = due_by(due, claim.late_at, asked_at, cadence.floor)
            quiet = now - (claim.progress_told_at or 0) >= PROGRESS_EVERY * 1000
            if claim.wants_progress and quiet and watch.progress != claim.watch.progress:
                told = _event(claim, watch, EventType.PROGRESS, f"progress:{watch.polls}", now, _repeated(reading))
            if is_late(claim.late_at, late_told_at, asked_at, reading):
                late_told_at = now
                told = _event(claim, watch, EventType.LATE, "late", now, _repeated(reading))
        return polling.Polled(
            claim,
            watch,
            asked_at,
            due,
            estimated_end=expected_end(plan, watch, now),
            answer=answer,
            answer_status=_stored_status(reading),
            answer_hash=answer_hash,
            event=told,
            changed=says_new(claim.watch, watch) or late_told_at != claim.late_told_at,
            model=model,
            progress_at=progress_at,
            late_told_at=late_told_at,
            lesson=lesson_of(claim.watch, watch, claim.last_poll_at, cadence),
        )

    async def _save(self, polled: Sequence[polling.Polled]) -> Sequence[None]:
        wanted = Counter(poll.claim.app_id for poll in polled for _ in range(PER_EVENT) if poll.event)
        with self._dispatcher.reserved(wanted) as allot:
            told = await self._process.db.persist(_save_and_claim, polled, allot)
            self._dispatcher.take(told.claims)
        if told.waiting:
            self._process.wake.deliveries()
        self._process.feed.announce([poll.claim.id for poll in polled if poll.changed])
        self.wake_for([poll.next_poll_at for poll in polled if poll.next_poll_at is not None])
        ended = [poll for poll in polled if poll.watch is not None and poll.watch.ended_at is not None]
        for poll in ended:
            self._note_end(poll)
        if self._process.tracing.on:
            await self._trace_ends(ended)
        return [None] * len(polled)

    async def _trace_ends(self, ended: Sequence[polling.Polled]) -> None:
        """Trace the polls that ended watches, from the query to the commit."""
        parents: dict[str, str] = {}
        with contextlib.suppress(StoreUnavailable):
            parents = await self._process.db.read(watches.traceparents, [poll.claim.id for poll in ended])
        for poll in ended:
            claim, watch = poll.claim, poll.watch
            if watch is not None and claim.id in parents:
                with self._process.tracing.span("poll", "client", parents[claim.id], since=poll.asked_at) as span:
                    end = {"watch_id": claim.id, "provider": claim.provider, "state": watch.state}
                    span.note(end | {"polls": watch.polls})

    @staticmethod
    def _note_end(poll: polling.Polled) -> None:
        """Count an end, and log it."""
        claim, watch = poll.claim, poll.watch
        if watch is None or watch.ended_at is None:
            return
        metrics.ENDS.labels(family(claim.provider), watch.state).inc()
        metrics.DETECTION_LAG.labels(family(claim.provider)).observe(
            polling.detection_lag(claim, watch.ended_at) / 1000
        )
        log.info(
            watch.state.value, watch_id=claim.id, task_id=claim.task_id, provider=claim.provider, polls=watch.polls
        )


def _save_and_claim(tx: sa.Connection, polled: Sequence[polling.Polled], allot: Callable[[], Allotment]) -> Told:
    """Save polls, and claim what may be claimed of the deliveries that this makes."""
    return polling.save(tx, polled, allot())


def _to_keep(claim: polling.PollClaim, reading: Reading) -> tuple[bytes | None, int | None]:
    """Return the answer if it is to be stored, and the hash of what is stored then.

    "Unknown task" never replaces what the upstream said of the task before.
    """
    if reading.body is not None:
        answer_hash = crc32(reading.body)
        return reading.body if answer_hash != claim.answer_hash else None, answer_hash
    if reading.kind is Kind.UNKNOWN_TASK and reading.aside is not None and claim.answer_hash in (None, UNKNOWN):
        return reading.aside, UNKNOWN
    return None, claim.answer_hash


def _stored_status(reading: Reading) -> int:
    """Return the HTTP status of an answer that is stored as it came, or how it differs from what came."""
    if reading.repaired:
        return REPAIRED
    return CUT if reading.cut else reading.http_status


def _miss(watch: Watch, query: Query) -> Miss:
    """Return what came in place of an answer that tells something."""
    answer = query.answer
    message = query.reading.error["message"] if query.reading.error else ""
    body = b"" if answer is None else bytes(answer.body[:KEPT])
    return Miss(query.asked_at, watch.misses, None if answer is None else answer.status, message, body)


def _repeated(reading: Reading) -> Upstream | None:
    """Return the answer as events repeat it."""
    body = reading.aside if reading.body is None else reading.body
    return None if body is None else Upstream(body, reading.repaired)


def _event(
    claim: polling.PollClaim, watch: Watch, kind: EventType, key: str, at: Millis, upstream: Upstream | None
) -> Event:
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
