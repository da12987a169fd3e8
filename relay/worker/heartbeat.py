"""Which processes live: each working one beats once a second, and frees the claims of those that stopped.

It beats from a thread of its own, so that a busy event loop is not buried, and its work not done twice. But a process
whose loop hangs does none of its work, though its threads go on: the thread beats only as long as the loop has moved
within the last seconds (`HANGS`).

A lease must be longer than the slowest query, which is too long to wait for the claims of a dead process. On the same
host, the process table shows at once that it is dead; from another host, its silence does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import structlog

from relay.errors import StoreUnavailable
from relay.store import processes, submissions
from relay.store.processes import Member
from relay.worker.claim_loop import Process

log = structlog.stdlib.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two beats."""

SILENCE = 3.5
"""Seconds without a beat after which a process of another host counts as dead."""

LONG_SILENCE = 120.0
"""The same for a process of this host that seems to run: its pid may belong to another program by now."""

HANGS = 15.0
"""Seconds after which an event loop that has not moved hangs: longer than work holds it, shorter than a lease."""


LIVING: set[str] = set()
"""The names under which this very process beats: a pid like its own belongs to one that has died, but for these."""


def here() -> str:
    """Return a name for the processes among which a pid means the same: this boot of this host, this container."""
    marks = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            marks.append(str(Path(file).readlink()) if file.endswith("/pid") else Path(file).read_text("ascii").strip())
        except OSError:  # not Linux: the host's name must do
            continue
    return " ".join(marks)


class Heartbeat:
    """Beats for this process, and looks after the others.

    Args:
        process: the process that beats. Its loops wake when the claims of a dead process come due.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._me = Member(process.name, here(), os.getpid())
        self._last = self._steady_since = float("-inf")
        self._moved = time.monotonic()
        self._hangs = False
        self._stopped = threading.Event()
        self._mover: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Beat once, and from now on every second, until `leave`."""
        with contextlib.suppress(StoreUnavailable):  # the next beat comes in a second
            await self.tick()
        self._mover = asyncio.create_task(self._move())
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._go_on, args=(loop,), name="heartbeat", daemon=True)
        self._thread.start()

    async def tick(self) -> None:
        """Beat once. If that buries a process, wake the loops: its claims are due."""
        if await asyncio.to_thread(self._beat):
            self._wake()
        await self._process.db.run(submissions.abandon_orphans, self._process.clock())

    async def _move(self) -> None:
        """Show that the event loop moves."""
        while True:
            self._moved = time.monotonic()
            await asyncio.sleep(INTERVAL)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat for as long as the event loop moves: the life of the thread."""
        looked = time.monotonic()
        while not self._stopped.wait(INTERVAL):
            before, looked = looked, time.monotonic()
            # Where this thread stood still as well, the whole process was stopped, and the loop has had no time yet.
            hangs = looked - self._moved > HANGS > looked - before
            if hangs and not self._hangs:
                log.error("the event loop hangs: this process beats no more until it moves", seconds=HANGS)
            self._hangs = hangs
            try:
                if not hangs and self._beat():
                    loop.call_soon_threadsafe(self._wake)
            except StoreUnavailable as error:  # the loops log that
                log.debug("no heartbeat", error=error.detail)
            except Exception:
                log.exception("the heartbeat broke")

    def _wake(self) -> None:
        self._process.wake.polls()
        self._process.wake.deliveries()

    def _beat(self) -> bool:
        """Beat, and bury the processes that are dead; return whether there were any."""
        LIVING.add(self._me.name)
        others = self._process.db.run_here(processes.beat, self._me, self._process.clock())
        now = time.monotonic()
        if self._last > float("-inf") and now - self._last > SILENCE - INTERVAL:
            # The database was away, for the others too: give them time to beat again.
            self._steady_since = now
        self._last = now
        dead = [other for other in others if self._is_dead(other, now)]
        for other in dead:
            freed = self._process.db.run_here(processes.bury, other.name, self._process.clock())
            log.warning("a process died; its claims are due again", process=other.name, claims=freed)
        return bool(dead)

    def _is_dead(self, other: Member, now: float) -> bool:
        patience = SILENCE
        if other.host == self._me.host:
            gone = other.pid == self._me.pid or not _is_running(other.pid)
            if gone and other.name not in LIVING:
                return True
            patience = LONG_SILENCE
        return other.silent > patience * 1000 and now - self._steady_since > patience

    async def leave(self) -> None:
        """Beat no more, give back the claims that this process still has, and forget the process."""
        LIVING.discard(self._me.name)
        self._stopped.set()
        if self._mover is not None:
            self._mover.cancel()
            await asyncio.wait([self._mover])
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, SILENCE)
        await self._process.db.run(processes.bury, self._me.name, self._process.clock(), died=False)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether the process has ended, and its parent has not asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
