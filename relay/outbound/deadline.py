"""A deadline that an answer which has arrived in time does not miss."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import cast

LAST_LOOK = 0.1
"""Seconds in which what has arrived is still read after the time is over."""


class Deadline:
    """An `asyncio.timeout` that looks at the network once more before it gives up. (Each exchange has one: it is no
    more than a timer, because what asyncio's does beside that would cost as much again.)

    A process that was stopped (SIGSTOP, a laptop that sleeps, a virtual machine that is moved) wakes up with its timers
    due and its answers unread, and asyncio may run the timers first.

    Raises:
        TimeoutError: the time is over. What ran inside was cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object]
        self._cancelling: int
        self._timer: asyncio.TimerHandle
        self._over = False

    def __enter__(self) -> None:
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._timer = self._loop.call_later(self._seconds, self._look_once_more)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # As in asyncio.timeout: where something else has cancelled the task as well, that goes on.
        if self._over and self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def _look_once_more(self) -> None:
        self._timer = self._loop.call_later(LAST_LOOK, self._give_up)

    def _give_up(self) -> None:
        self._over = True
        self._task.cancel()
