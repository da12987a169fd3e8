"""Virtual time: a loop whose clock jumps to the next timer when nothing is ready, and whose threads run in line.

So hours pass in seconds, and one seed is one order of events.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from relay.model import ids

START = 1_800_000_000.0
"""The wall clock at the beginning, in seconds since the epoch."""


class Host(Protocol):
    """What the loop knows of a simulated process.

    Attributes:
        skew: seconds by which its wall clock is ahead.
        tasks: those that run in it; a dict, because a set has no order of its own.
    """

    dead: bool
    skew: float
    tasks: dict[asyncio.Task[Any], None]

    def latency(self) -> tuple[float, float]:
        """Return the seconds before and after a piece of work in a thread."""
        ...


HOST: ContextVar[Host | None] = ContextVar("HOST", default=None)
"""The simulated process that runs at this moment; None for the world around."""


class Time:
    """The clocks of all: one that only goes ahead, and what the wall clocks show beyond it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wall = START

    def time(self) -> float:
        """Return what `time.time` says in the process that runs."""
        host = HOST.get()
        return self.wall + self.now + (host.skew if host else 0.0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self, clock: Time) -> None:
        super().__init__()
        self._time = clock
        select = self._selector.select

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            clock.now += max(0.0, timeout)
            return select(0)

        self._selector.select = jump
        self.set_task_factory(_task_of_host)

    def time(self) -> float:
        """Return the virtual time."""
        return self._time.now

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a function here, at once or a little later. What a dead process had not begun, never happens."""
        host = HOST.get()
        future = self.create_future()
        before, after = host.latency() if host else (0.0, 0.0)

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def run() -> None:
            if future.done() or (host is not None and host.dead):
                future.cancel()
                return
            result, failure = None, None
            try:
                result = function(*args)
            except Exception as error:
                failure = error
            self.call_later(after, settle, result, failure)

        self.call_later(before, run)
        return future


def _task_of_host(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Make a task, and note to which process it belongs."""
    task = asyncio.Task(coroutine, loop=loop, **kwargs)
    host = HOST.get()
    if host is not None:
        host.tasks[task] = None
        task.add_done_callback(lambda done: host.tasks.pop(done, None))
        if host.dead:
            task.cancel()
    return task


def begin(seed: str) -> tuple[Time, Loop]:
    """Replace the clocks and the dice of this Python process; return the clock and the loop."""
    clock = Time()
    dice = random.Random(f"relay {seed}")
    random.seed(f"relay {seed}")
    time.monotonic = lambda: clock.now
    time.clock_gettime_ns = lambda _clock: round(clock.now * 1e9)
    time.time = clock.time
    time.time_ns = lambda: round(clock.time() * 1e9)
    time.clock_gettime_ns = lambda _id: round(clock.now * 1e9)
    secrets.token_bytes = lambda size=32: dice.randbytes(size)
    secrets.randbits = dice.getrandbits
    ids._last = 0
    return clock, Loop(clock)
