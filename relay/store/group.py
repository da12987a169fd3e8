"""Grouped saves: many small results, one transaction.

A commit costs a sync of the disk, whoever asks for it; results that come within a few milliseconds of each other share
one. Whoever gave a result gets its answer when that transaction is committed, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from relay.errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


class Group(Generic[T, R]):
    """Gathers items and hands them on together.

    Args:
        commit: takes the items, returns one answer for each in the same order; runs one at a time, so that the
            longer it takes the more the next one carries.
        gather: seconds to wait for company.
        most: items at most in one go.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], gather: float, most: int) -> None:
        self._commit, self._gather, self._most = commit, gather, most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: T) -> asyncio.Future[R]:
        """The answer to `item`, once committed, or the exception that `commit` raised for it.

        An outage comes to everybody who shared the commit. Any other exception may be the fault of one item: each is
        then committed by itself.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._most:
                await asyncio.sleep(self._gather)
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            await self._settle(batch)
        self._task = None

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._commit([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for one in batch:
                    await self._settle([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
