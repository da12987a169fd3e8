"""Every upstream that this deployment can ask, each through its lane: for the poller and the mirror alike."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from relay.model.reading import Kind, Reading
from relay.model.times import Millis
from relay.model.watch import NOUN
from relay.outbound.callers import Caller, CallKind
from relay.outbound.descriptors import NoRoom
from relay.outbound.lane import Limit
from relay.outbound.lanes import Lanes, enter_each
from relay.outbound.shares import on_behalf_of
from relay.providers.bulk import SharedReading
from relay.providers.creating import CreateOutcome, Sending
from relay.providers.document import Answer
from relay.providers.files import ProviderFiles
from relay.providers.hosts import Unaskable
from relay.providers.inline import InlineProviders
from relay.providers.provider import Provider
from relay.providers.shared_queries import Asker, SharedQueries
from relay.providers.troubles import Heard, UpstreamTroubles

MAX_UNDER_WAY = 500
"""Queries under way at once in one process, whomever they ask."""

MAX_WAITING = 300
"""Of these, how many may wait for a place in one lane.

A fast lane has work while the next claims are on their way from the database, and leaves room for the other lanes.
"""


MAX_CREATES = 1000
"""Create calls under way at once in one process, whomever they ask."""

CREATES = Limit(concurrency=200)
"""What a process sends to one upstream at once with one key, beside its polls. A 429 of the upstream goes back to the
caller, who knows best when to try again."""

ROOM_RETRY = 1.0
"""Seconds until the next try where relay itself had no connection to spare."""


OutcomeT = TypeVar("OutcomeT")

NO_READING = Reading(Kind.NOT_ANSWERED)
"""What a query is to its lane until it has been read."""


class Query(NamedTuple):
    """What one query came to.

    Attributes:
        asked_at: when it was sent, after any wait for a place in its lane.
        reading: how the answer was read.
        answer: the answer as it came; None where none came.
    """

    asked_at: Millis
    reading: Reading
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Busy:
    """The lane has no place at the moment: ask again after `wait` seconds."""

    wait: float


class Upstreams(Mapping[str, Provider]):
    """All providers by name, and how much each is asked at once.

    Args:
        providers: the providers by name, parsed when they are first used.
        clock: milliseconds since the epoch.
        inline: those of inline definitions; None where these are switched off.

    Attributes:
        lanes: one for each (host, key).
        troubles: which of them are in trouble.
        creates: the same for create calls: they neither wait behind polls nor hold them up.
    """

    def __init__(
        self, providers: ProviderFiles, clock: Callable[[], Millis], inline: InlineProviders | None = None
    ) -> None:
        self._providers = providers
        self._inline = inline
        self._clock = clock
        self.lanes = Lanes(MAX_UNDER_WAY, MAX_WAITING, between_apps=True)
        self.creates = Lanes(MAX_CREATES, 0, between_apps=True)
        self._shared: dict[tuple[str, str, str, str | None], asyncio.Task[Query | Busy]] = {}
        self._together: SharedQueries[Query | Busy] = SharedQueries(self._ask_many)
        self.troubles = UpstreamTroubles()

    def __getitem__(self, name: str) -> Provider:
        return self._providers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    async def readable(self) -> list[Provider]:
        """Return every provider whose file is right, by name."""
        return await asyncio.to_thread(self._providers.readable)

    def files_followed(self) -> AbstractContextManager[None]:
        """Return what takes in, while it is entered, what changes in the provider files."""
        return self._providers.followed()

    def missing(self, name: str) -> str:
        """Return why there is no provider of this name, in words for an app."""
        return self._providers.missing(name)

    def chance(self, name: str) -> float | None:
        """Return what spreads the polls of a provider; None where they come due together, to share queries."""
        provider = self.get(name)
        return None if provider and provider.definition.bulk else random.random()  # noqa: S311

    def no_provider(self, name: str) -> Unaskable:
        """Return what to tell an app that asked for a provider that there is not, and where it finds the right name."""
        written = name.lower().replace("_", "-")  # no closer look: a batch may name a thousand that there are not
        names = set(self) - {name}
        hint = f"did you mean '{written}'?" if written in names else "GET /v1/providers lists what is"
        return Unaskable("provider", self.missing(name), hint)

    def find(self, name: str, task_id: str, base: str | None = None, inline: str | None = None) -> Provider:
        """Return the provider of a task, at the address where this one is asked about.

        Args:
            base: the address that its watch has given; None for the provider's own.
            inline: the inline definition of its watch, as it is stored; None where a file declares the provider.

        Raises:
            Unaskable: there is no such provider, or no such address of it.
        """
        if inline is not None:
            if self._inline is None:
                remedy = "RELAY_INLINE_PROVIDERS=1 switches them on"
                raise Unaskable("provider", "inline definitions are switched off here", remedy)
            if base is not None:
                raise Unaskable("upstream_base", "an inline definition has its own 'url'", "leave it out")
            return self._inline[inline]
        provider = self.get(name)
        if provider is None:
            raise self.no_provider(name)
        if not provider.configured and "sandbox" in list(self):
            why = f"'{name}' has no address in this deployment"
            meanwhile = 'try relay with "provider": "sandbox" and the task_id "sandbox:complete-in-5s"'
            raise Unaskable("provider", why, f"{provider.remedy}, or {meanwhile}")
        return provider.at(base, task_id)

    async def problem(self, inline: str | None) -> str | None:
        """Return why relay may not ask where an inline definition says, or None if it may, or if there is none."""
        return None if inline is None or self._inline is None else await self._inline.problem(inline)

    def noun_of(self, name: str) -> str:
        """Return what a task of a provider is to people, such as "Transcription"; `NOUN` if there is no such file."""
        provider = self._providers.get(name)
        return provider.definition.noun if provider else NOUN

    async def query(self, provider: Provider, task_id: str, key: str | None, caller: Caller) -> Query | Busy:
        """Ask a provider once about a task, in its turn. What the upstream does is a reading, never an exception.

        Where the result is behind a second request, that has a turn of its own. The mirror repeats the first answer
        and needs no second one.

        Args:
            provider: a configured one.
            key: the watch's own API key; None for the deployment's.
            caller: whose turn it is.
        """

        async def ask(at: Millis) -> tuple[Reading, Query]:
            reading, answer = await provider.query(task_id, key, at)
            return reading, Query(at, reading, answer)

        first = await self._in_turn(provider, key, caller, ask)
        if isinstance(first, Busy):
            return first
        self._hear(provider, key, task_id, first)
        if first.answer is None or caller.kind is CallKind.MIRROR or not provider.is_followed(first.reading):
            return first
        answer = first.answer

        async def follow(at: Millis) -> tuple[Reading, Query]:
            reading = await provider.follow(task_id, key, first.reading, answer, at)
            return reading, Query(first.asked_at, reading, answer)

        # Before other polls: in a full lane, a task would lose its turn here, and begin anew with the first request.
        return await self._in_turn(provider, key, Caller(CallKind.LAST, caller.app), follow)

    async def poll(
        self, provider: Provider, task_id: str, key: str | None, caller: Caller, *, alone: bool = False
    ) -> Query | Busy:
        """Ask as `query` does, for a poll, which may share its query with those of other tasks.

        Args:
            alone: it may not: more can be learned of this task by itself.
        """
        key = provider.lane(key)[1]
        if alone or caller.kind is not CallKind.POLL or not self._together.allows(provider, key):
            return await self.query(provider, task_id, key, caller)
        return await self._together.query(provider, task_id, key, caller.app)

    async def _ask_many(
        self, provider: Provider, key: str | None, app: str, take: Callable[[], Sequence[Asker[Query | Busy]]]
    ) -> Callable[[str], Query | Busy]:
        """Ask once about the tasks that it takes when it has a place."""

        task_ids: list[str] = []

        async def ask(at: Millis) -> tuple[Reading, tuple[Millis, SharedReading]]:
            task_ids.extend(dict.fromkeys(asker.task_id for asker in take()))
            if len(task_ids) > 1:
                shared = await provider.query_many(task_ids, key, at)
            elif task_ids:
                reading, _ = await provider.query(task_ids[0], key, at)
                shared = SharedReading({task_ids[0]: reading}, reading)
            else:  # those that waited have gone
                shared = SharedReading({}, NO_READING)
            return shared.otherwise, (at, shared)

        told = await self._in_turn(provider, key, Caller(CallKind.POLL, app), ask)
        if isinstance(told, Busy):
            return lambda _: told
        asked_at, shared = told
        if shared.refused:
            self._together.refused(provider, key)
        elif not shared.of_tasks and task_ids:
            self._hear(provider, key, task_ids[0], Query(asked_at, shared.otherwise, None))
        for task_id, reading in shared.of_tasks.items():
            self._hear(provider, key, task_id, Query(asked_at, reading, None))
        return lambda task_id: Query(asked_at, shared.of_tasks.get(task_id, shared.otherwise), None)

    async def _in_turn(
        self,
        provider: Provider,
        key: str | None,
        caller: Caller,
        ask: Callable[[Millis], Awaitable[tuple[Reading, OutcomeT]]],
    ) -> OutcomeT | Busy:
        """Do something with a place in each lane that a query of a provider with a key goes through."""
        lanes = provider.lanes(key, caller.app)
        if wait := await enter_each(((self.lanes, *lane) for lane in lanes), caller):
            return Busy(wait)
        started = time.monotonic()
        reading = NO_READING
        try:
            with on_behalf_of(*provider.share(caller.app)):
                reading, outcome = await ask(self._clock())
        except NoRoom:
            return Busy(ROOM_RETRY)
        finally:
            done = time.monotonic()
            refused = reading.limited
            # Who is refused pauses the first lane alone: at a host that apps have chosen, each pauses its own.
            (lane, _), *others = lanes
            with ExitStack() as places:  # each is given back, whatever happens to another
                for other, _ in others:
                    places.callback(self.lanes.leave, other, caller)
                self.lanes.done(lane, caller, done - started, done, refused=refused, retry_after=reading.retry_after)
        return outcome

    def _hear(self, provider: Provider, key: str | None, task_id: str, query: Query) -> None:
        if not provider.at_home:
            return  # what is wrong at an address that an app has chosen is no trouble of the operator's
        own_key = None if key == provider.lane(None)[1] else key
        status = None if query.answer is None else query.answer.status
        self.troubles.heard(Heard(provider, own_key, task_id, query.reading, status, query.asked_at))

    async def create(self, provider: Provider, sending: Sending, key: str | None, app: str) -> CreateOutcome:
        """Send a create call once. The caller has a place for it: see `enter_create`."""
        started = time.monotonic()
        try:
            with on_behalf_of(provider.host, app):
                return await sending.send(self._clock())
        finally:
            done = time.monotonic()
            caller = Caller(CallKind.CREATE, app)
            self.creates.done(provider.lane(key), caller, done - started, done, refused=False, retry_after=None)

    async def enter_create(self, provider: Provider, key: str | None, app: str) -> float:
        """Take a place for a create call. Return 0, or the seconds after which to try again."""
        return await self.creates.enter(provider.lane(key), CREATES, Caller(CallKind.CREATE, app))

    def leave_create(self, provider: Provider, key: str | None, app: str) -> None:
        """Give such a place back without a call."""
        self.creates.leave(provider.lane(key), Caller(CallKind.CREATE, app))

    async def mirrored_query(self, provider: Provider, task_id: str, key: str | None, app: str) -> Query | Busy:
        """Ask as `query` does, for the mirror, which has a share of the lane and does not wait.

        Callers that ask the same at once share one query, even if one of them leaves. For one that was refused, each
        asks for itself: it may have been an app's share that was used up.
        """
        asked = (provider.name, provider.address, task_id, key)
        while task := self._shared.get(asked):
            query = await asyncio.shield(task)
            if isinstance(query, Query):
                return query
        asking = self.query(provider, task_id, key, Caller(CallKind.MIRROR, app))
        task = self._shared[asked] = asyncio.create_task(asking)
        task.add_done_callback(lambda _: self._shared.pop(asked, None))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Ask nothing more, and send callers that wait for a place away at once."""
        self.lanes.close()
