"""Grouped saves: many small results, one transaction.

Every commit costs a sync of the disk; results that come within a few milliseconds of each other share one. The answer
to a result comes when its transaction is committed, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from relay.errors import StoreUnavailable

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class Batcher(Generic[ItemT, AnswerT]):
    """Gathers items, and commits them together.

    Args:
        commit: takes the items and returns one answer for each, in the same order. One runs at a time, so the longer
            it takes, the more items the next one has.
        gather: seconds to wait for more items.
        most: items in one commit, at most.
    """

    def __init__(
        self, commit: Callable[[Sequence[ItemT]], Awaitable[Sequence[AnswerT]]], gather: float, most: int
    ) -> None:
        self._commit = commit
        self._gather = gather
        self._most = most
        self._waiting: list[tuple[ItemT, asyncio.Future[AnswerT]]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: ItemT) -> asyncio.Future[AnswerT]:
        """Return the answer to `item`, once it is committed, or the exception that `commit` raised for it.

        An outage is the answer to every item of the commit. Any other exception may be the fault of one item: each is
        then committed by itself.
        """
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._start()  # before the item waits: if this raises, nothing may be committed of what the caller gives up
        self._waiting.append((item, future))
        return future

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._most:
                await asyncio.sleep(self._gather)
            batch = self._waiting[: self._most]
            await self._settle(batch)
            self._waiting = self._waiting[len(batch) :]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            for _, future in self._lost():
                future.cancel()
            return
        error = task.exception()
        try:
            if error is None and self._waiting:  # an item that came in the last moment
                self._start()
        except Exception as fault:
            error = fault
        if error is not None:  # a bug
            self._refuse(self._lost(), error)

    def _lost(self) -> list[tuple[ItemT, asyncio.Future[AnswerT]]]:
        """Return what waits, and forget it: no one may wait for what will not come."""
        lost, self._waiting = self._waiting, []
        return lost

    @staticmethod
    def _refuse(batch: Sequence[tuple[ItemT, asyncio.Future[AnswerT]]], error: BaseException) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)

    async def _settle(self, batch: Sequence[tuple[ItemT, asyncio.Future[AnswerT]]]) -> None:
        """Commit a batch, and answer each of its items."""
        try:
            answers = await self._commit([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for entry in batch:
                    await self._settle([entry])
                return
            self._refuse(batch, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
