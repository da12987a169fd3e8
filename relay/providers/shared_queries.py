"""Queries about several tasks at once: those of one provider and key that are due together share one (`[bulk]`).

Apps whose tasks wait take turns, so that one with many does not push the others into later queries. A query is one call
in its lane, and what it comes to is the outcome of a poll of each of its tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from relay.providers.bulk import Bulk
from relay.providers.provider import Provider

GATHER = 0.05
"""Seconds for which a task waits for others, to share a query."""

ALONE = 300.0
"""Seconds for which tasks are asked about one by one, after an upstream had no list for several."""

MAX_ALONE = 1000
"""Keys of which that is remembered."""

AnswerT = TypeVar("AnswerT")


@dataclass(eq=False, slots=True)
class Asker(Generic[AnswerT]):
    """A task that waits for what a query says of it."""

    task_id: str
    app: str
    answer: asyncio.Future[AnswerT]


_Of = tuple[str, str, str | None]


def _of(provider: Provider, key: str | None) -> _Of:
    """Return what shares queries: a provider at one address, and a key."""
    return provider.name, provider.address, key


@dataclass(eq=False, slots=True)
class Group(Generic[AnswerT]):
    """The tasks of one provider and key that wait.

    Attributes:
        waiting: by app, in the order of their turns.
        queries: how many queries are on their way to a place in the lane, where they take tasks.
    """

    provider: Provider
    key: str | None
    bulk: Bulk
    waiting: OrderedDict[str, deque[Asker[AnswerT]]] = field(default_factory=OrderedDict)
    queries: int = 0
    gathering: bool = False

    @property
    def count(self) -> int:
        """Return how many tasks wait."""
        return sum(map(len, self.waiting.values()))

    def put(self, asker: Asker[AnswerT]) -> None:
        """Add a task, as the last of its app."""
        self.waiting.setdefault(asker.app, deque()).append(asker)

    def take(self) -> list[Asker[AnswerT]]:
        """Remove and return the tasks of the next query."""
        taken = list(islice(self._in_turn(), self.bulk.most))
        fitting = self.bulk.fitting([asker.task_id for asker in taken]) if taken else 0
        for asker in reversed(taken[fitting:]):
            self.waiting.setdefault(asker.app, deque()).appendleft(asker)
        return taken[:fitting]

    def _in_turn(self) -> Iterator[Asker[AnswerT]]:
        while self.waiting:
            app, askers = self.waiting.popitem(last=False)
            asker = askers.popleft()
            if askers:
                self.waiting[app] = askers
            if not asker.answer.done():
                yield asker


Ask = Callable[[Provider, str | None, str, Callable[[], list[Asker[AnswerT]]]], Awaitable[Callable[[str], AnswerT]]]
"""Makes a query for an app, about tasks that it takes when it has a place; returns what that says of a task."""


class SharedQueries(Generic[AnswerT]):
    """Gathers tasks, and asks about them together.

    Args:
        ask: makes one query.
    """

    def __init__(self, ask: Ask[AnswerT]) -> None:
        self._ask = ask
        self._groups: dict[_Of, Group[AnswerT]] = {}
        self._alone: dict[_Of, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def allows(self, provider: Provider, key: str | None) -> bool:
        """Return whether tasks may share queries: the file says how, and the upstream has not just refused one."""
        return provider.definition.bulk is not None and time.monotonic() >= self._alone.get(_of(provider, key), 0.0)

    def refused(self, provider: Provider, key: str | None) -> None:
        """Have tasks asked about one by one for a while: the upstream had no list for several."""
        if len(self._alone) >= MAX_ALONE:
            self._alone.clear()
        self._alone[_of(provider, key)] = time.monotonic() + ALONE

    async def query(self, provider: Provider, task_id: str, key: str | None, app: str) -> AnswerT:
        """Return what the next query that has room for a task says of it."""
        assert provider.definition.bulk is not None  # noqa: S101
        group = self._groups.get(_of(provider, key))
        if group is None:
            group = self._groups[_of(provider, key)] = Group(provider, key, provider.definition.bulk)
        asker: Asker[AnswerT] = Asker(task_id, app, asyncio.get_running_loop().create_future())
        group.put(asker)
        if not group.gathering:
            group.gathering = True
            self._start(self._gathered(group))
        return await asker.answer

    async def _gathered(self, group: Group[AnswerT]) -> None:
        """Wait for more tasks, and begin as many queries as they need."""
        await asyncio.sleep(GATHER)
        group.gathering = False
        while group.count > group.queries * group.bulk.most:
            group.queries += 1
            self._start(self._one(group))

    async def _one(self, group: Group[AnswerT]) -> None:
        taken: list[Asker[AnswerT]] | None = None

        def take() -> list[Asker[AnswerT]]:
            nonlocal taken
            group.queries -= 1
            taken = group.take()
            if group.count > group.queries * group.bulk.most and not group.gathering:  # ids too long for one address
                group.gathering = True
                self._start(self._gathered(group))
            return taken

        try:
            said = await self._ask(group.provider, group.key, next(iter(group.waiting), ""), take)
        except Exception as error:
            for asker in take() if taken is None else taken:
                if not asker.answer.done():
                    asker.answer.set_exception(error)
        else:
            for asker in take() if taken is None else taken:
                if not asker.answer.done():
                    asker.answer.set_result(said(asker.task_id))
        if not (group.waiting or group.queries or group.gathering):
            self._groups.pop(_of(group.provider, group.key), None)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
