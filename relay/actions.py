"""What can be asked of relay: by the API, by the dashboard, by people in Slack.

Register, stop, erase, send again, test a target. What changes rows is one transaction. After it, an action wakes the
loops that have something to do, and announces which watches have changed. How a request arrives and how its answer
looks is the caller's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from relay.channels.base import Target
from relay.channels.sender import Sender
from relay.channels.targets import TargetOut, Targets
from relay.channels.watch_request import WatchRequest
from relay.errors import Invalid, RelayError, TooManyRequests
from relay.model.delivery import Attempt
from relay.model.times import Millis
from relay.outbound.callers import Caller, CallKind
from relay.outbound.receivers import ReceiverLanes
from relay.providers.hosts import Unaskable
from relay.providers.provider import Provider
from relay.providers.upstreams import Upstreams
from relay.security.vault import Vault, inline_owner, upstream_key_owner
from relay.settings.options import Settings
from relay.slices import Slices
from relay.store import Database, cleanup, deliveries, registrations, watches
from relay.store.batches import Batcher
from relay.store.change_feed import ChangeFeed
from relay.store.deliveries import Selection, StoredDelivery
from relay.store.learned import Learned
from relay.store.notifications import Wake
from relay.store.registrations import NewTarget, Registered, Registration
from relay.store.usage import Quota
from relay.store.watches import StoredTarget, StoredWatch
from relay.telemetry.registration_log import RegistrationLog

log = structlog.stdlib.get_logger(__name__)

JUDGED_AT_ONCE = 32
"""Registrations of one batch that are judged at the same time: some wait for a look-up of a name."""


@dataclass(frozen=True, slots=True)
class RegisteredWatch:
    """What came of a request.

    Attributes:
        created: the watch is new.
        targets: the targets of the watch as the app sees them.
    """

    watch: StoredWatch
    created: bool
    targets: Sequence[TargetOut]


Judgement = RegisteredWatch | RelayError
"""What came of a request, or why it is refused."""


@dataclass(slots=True)
class Actions:
    """The actions of one process.

    Attributes:
        targets: checks and seals targets.
        lanes: how much each receiver is sent at once.
        wake: wakes the loops of this process.
        feed: notifies open pages and streams of what has changed.
        learned: how long tasks take.
    """

    settings: Settings
    db: Database
    vault: Vault
    upstreams: Upstreams
    targets: Targets
    sender: Sender
    lanes: ReceiverLanes
    wake: Wake
    feed: ChangeFeed
    clock: Callable[[], Millis]
    learned: Learned = field(init=False)
    _single: Batcher[Sequence[Registration], Sequence[Judgement]] = field(init=False)
    _batches: Batcher[Sequence[Registration], Sequence[Judgement]] = field(init=False)
    _emptied: Batcher[None, None] = field(init=False)
    _log: RegistrationLog = field(init=False, default_factory=RegistrationLog)

    def __post_init__(self) -> None:
        self.learned = Learned(self.db)
        # Requests that come within a few milliseconds of each other share a commit. A batch has one to itself: together
        # they would hold the database for seconds, and name more ids than one statement may.
        self._single = Batcher(self._commit, gather=0.001, most=200)
        self._batches = Batcher(self._commit, gather=0.0, most=1)
        self._emptied = Batcher(partial(cleanup.empty_logs, self.db), gather=0.001, most=1000)

    async def register(self, app_id: str, request: WatchRequest, traceparent: str | None = None) -> RegisteredWatch:
        """Register a task. If the app watches it already, add the new targets to that watch.

        Args:
            traceparent: what the registration is part of, where that is traced.

        Raises:
            RelayError: why it is refused.
        """
        if refusal := await self._refusal(app_id, request, Slices()):
            raise refusal
        registration = self.registration(app_id, request, traceparent)
        (judgement,) = await self._single.put([registration])
        if isinstance(judgement, RelayError):
            raise judgement
        if judgement.created:
            self._log.note(judgement.watch.row.id, request.task_id)
        return judgement

    async def register_many(
        self, app_id: str, requests: Sequence[WatchRequest], traceparent: str | None = None
    ) -> list[Judgement]:
        """Register many tasks in one transaction: each judged by itself in slices, sealed in a thread, and answered."""
        refusals: list[RelayError | None] = [None] * len(requests)
        waiting = iter(enumerate(requests))
        slices = Slices()

        async def judge() -> None:
            for index, request in waiting:
                refusals[index] = await self._refusal(app_id, request, slices)

        await asyncio.gather(*(judge() for _ in range(JUDGED_AT_ONCE)))
        good = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]

        def seal() -> list[Registration]:
            return [self.registration(app_id, request, traceparent) for request in good]

        committed = iter(await self._batches.put(await asyncio.to_thread(seal)) if good else ())
        judgements = [next(committed) if refusal is None else refusal for refusal in refusals]
        created = sum(isinstance(judgement, RegisteredWatch) and judgement.created for judgement in judgements)
        log.info("registered", watches=created)
        return judgements

    async def _refusal(self, app_id: str, request: WatchRequest, slices: Slices) -> RelayError | None:
        """Return why this deployment cannot fulfil a request, or does not allow it; None if it can and does."""
        try:
            await self.learned.refresh()
            await self.check_provider(app_id, request)
            if problem := await self.upstreams.problem(request.inline):
                return Invalid.at("/provider/url", problem)
            self.expires_in(request, self._provider(request))
            for index, target in enumerate(request.targets):
                await slices.turn()
                await self.targets.check(target, f"/targets/{index}", None if request.permitted else app_id)
        except RelayError as error:
            return error
        return None

    def registration(self, app_id: str, request: WatchRequest, traceparent: str | None) -> Registration:
        """Return a request, which is judged, as it is stored: with its secrets sealed."""
        provider = self._provider(request)
        expires_in = self.expires_in(request, provider)
        now = self.clock()
        expires_at = now + round(expires_in * 1000)
        cadence = provider.cadence(self.settings.poll_interval)
        key = (app_id, provider.name, request.task_id)
        chance = self.upstreams.chance(provider.name)
        first_poll_at, late_at = self.learned.outlook(app_id, provider.name, cadence, request.late_after, now, chance)
        return Registration(
            *key,
            targets=tuple(self.targets.seal(app_id, target) for target in request.targets),
            metadata=request.metadata,
            upstream_key=self.vault.seal_text(request.upstream_key, upstream_key_owner(*key)),
            first_poll_at=min(first_poll_at, expires_at),
            expires_at=expires_at,
            traceparent=traceparent,
            upstream_base=provider.address if request.upstream_base and not provider.at_home else None,
            inline=self.vault.seal_text(request.inline, inline_owner(*key)),
            late_at=late_at,
        )

    def _provider(self, request: WatchRequest) -> Provider:
        name = self.settings.provider if request.provider is None else request.provider
        try:
            return self.upstreams.find(name, request.task_id, request.upstream_base, request.inline)
        except Unaskable as why:
            raise Invalid.at(f"/{why.field}", why.advice) from None

    async def check_provider(self, app_id: str, request: WatchRequest) -> None:
        """Refuse a watch whose id lacks a part, or without a key that will do. One that is there may have its own."""
        provider = self._provider(request)
        if problem := provider.id_problem(request.task_id):
            raise Invalid.at("/task_id", problem)
        if not provider.lacks_key(request.upstream_key):
            provider.check_key(request.upstream_key)
        elif not await self.db.read(registrations.has_key, app_id, provider.name, request.task_id):
            raise Invalid.at(*provider.key_refusal)

    def expires_in(self, request: WatchRequest, provider: Provider) -> float:
        longest = int(self.settings.max_expires_in)
        if request.expires_in is None:
            usual = provider.definition.cadence.expires_in
            return min(usual or self.settings.expires_in, self.settings.max_expires_in)
        if request.expires_in > longest:
            raise Invalid.at("/expires_in", f"must be at most {longest} seconds")
        return request.expires_in

    async def _commit(self, groups: Sequence[Sequence[Registration]]) -> Sequence[Sequence[Judgement]]:
        """Store several requests' registrations in one transaction; return what came of them, in the same groups."""
        now = self.clock()
        together = [registration for group in groups for registration in group]
        quota = Quota(self.settings.max_watches, self.settings.max_targets)
        outcomes = await self.db.run(registrations.register, together, now, quota)
        new = {target.id: target for registration in together for target in registration.targets}
        judgements = [self._judgement(outcome, new) for outcome in outcomes]
        self.registered(together, judgements, now)
        in_order = iter(judgements)
        return [[next(in_order) for _ in group] for group in groups]

    def registered(self, new: Sequence[Registration], came: Sequence[Judgement | Registered], now: Millis) -> None:
        """Wake the loops that have something to do now, and announce what has changed."""
        self.wake.polls((min(registration.first_poll_at for registration in new) - now) / 1000)
        good = [outcome for outcome in came if not isinstance(outcome, RelayError)]
        if not all(outcome.created for outcome in good):  # a watch that was there may have ended, and tells it now
            self.wake.deliveries()
        if any(target.living for registration in new for target in registration.targets):
            self.wake.edits()
        self.feed.announce([outcome.watch.row.id for outcome in good])

    def _judgement(self, outcome: Registered | RelayError, new: Mapping[str, NewTarget]) -> Judgement:
        """Return an outcome with its targets as the app sees them. Of new ones, nothing is opened to show them."""
        if isinstance(outcome, RelayError):
            return outcome
        stored = outcome.watch.targets
        shown = [self.targets.show(target, new[target.id].shown if target.id in new else None) for target in stored]
        return RegisteredWatch(outcome.watch, outcome.created, shown)

    async def stop(self, app_id: str, watch_id: str, said: str | None = None) -> bool:
        """Stop a watch: no target is notified of its end. A watch that has ended stays as it is.

        Args:
            said: what its living messages say about who did it.

        Returns:
            Whether this stopped it.

        Raises:
            NotFound: this app has no such watch.
        """
        stopped = await self.db.run(watches.cancel, app_id, watch_id, self.clock(), said)
        self.wake.edits()
        self.feed.announce([watch_id])
        return stopped

    async def erase(self, app_id: str, watch_id: str) -> None:
        """Remove everything stored about a task.

        Raises:
            NotFound: this app has no such watch.
        """
        while await self.db.run(watches.thin, app_id, watch_id):  # in slices, because others wait meanwhile
            pass
        await self.db.run(watches.erase, app_id, watch_id, self.clock())
        self.wake.erasures()
        self.feed.announce([watch_id])
        await self._emptied.put(None)

    async def send_again(self, app_id: str, delivery_id: str) -> StoredDelivery:
        """Send a delivery again now, in any state.

        Raises:
            NotFound: this app has no such delivery.
            Conflict: it is being sent at this moment.
        """
        delivery = await self.db.run(deliveries.retry, app_id, delivery_id, self.clock())
        self.sent_again([delivery.row.watch_id])
        return delivery

    async def send_many_again(self, app_id: str, selection: Selection) -> int:
        """Send the selected deliveries of an app again now; return how many."""
        watch_ids = await self.db.run(deliveries.retry_many, app_id, self.clock(), selection)
        self.sent_again(watch_ids)
        return len(watch_ids)

    async def send_end_again(self, app_id: str, watch_id: str, said: str) -> int:
        """Send the end of a watch again to every webhook that has not received it and is given up; return how many.

        Args:
            said: what its living messages say about who did it.

        Raises:
            NotFound: this app has no such watch.
        """
        count = await self.db.run(deliveries.send_again, app_id, watch_id, self.clock(), said)
        self.sent_again([watch_id])
        return count

    def sent_again(self, watch_ids: Sequence[str]) -> None:
        """Wake the loops that send, and announce of which watches deliveries are sent again."""
        self.wake.deliveries()
        self.wake.edits()
        self.feed.announce(watch_ids)

    async def test(
        self, app_id: str, target: Target | StoredTarget, text: str, traceparent: str | None = None
    ) -> tuple[str, Attempt]:
        """Send a test event to a target: to one of a watch, or to any other that relay may reach.

        Returns:
            Its `webhook-id`, and the attempt.

        Raises:
            Invalid: relay cannot reach the target, or may not.
            TooManyRequests: as many tests as may be are on their way to it.
        """
        if isinstance(target, Target):
            await self.targets.check(target, "", app_id)
        receiver = self.targets.receiver(app_id, target)
        caller = Caller(CallKind.TEST, app_id)
        if wait := await self.lanes.enter(receiver, caller):
            detail = f"{receiver.host} has as many attempts under way as it may have"
            raise TooManyRequests(detail, retry_after=max(1.0, wait))
        started = time.monotonic()
        try:
            return await self.sender.test(app_id, target.type, self.targets.content(target), text, traceparent)
        finally:
            self.lanes.done(receiver, caller, time.monotonic() - started)
