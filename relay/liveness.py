"""Who lives: each working process says so once a second, and buries those that have stopped saying it.

A lease must be longer than the slowest query, and nobody wants to wait that long for the claims of a process that is
dead. On the same host a look at the process table tells at once; from elsewhere, silence does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from relay.store import Database, processes
from relay.store.processes import Member
from relay.sweep import Process

log = structlog.stdlib.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two beats."""

SILENCE = 3.5
"""Seconds without a beat after which a process of another host counts as dead."""

LONG_SILENCE = 120.0
"""The same for one of this host that seems to run: its pid may be somebody else's by now."""


def here() -> str:
    """A name for the set of processes among which a pid means the same: this boot of this host, this container."""
    marks = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            marks.append(str(Path(file).readlink()) if file.endswith("/pid") else Path(file).read_text("ascii").strip())
        except OSError:  # not Linux: the host's name has to do
            continue
    return " ".join(marks)


class Liveness:
    """This process's beat, and its eye on the others.

    Args:
        db: where beats are written.
        process: who this is.
        freed: called when a dead process's claims have come due.
    """

    def __init__(self, db: Database, process: Process, freed: Callable[[], None]) -> None:
        self._db, self._process, self._freed = db, process, freed
        self._me = Member(process.name, here(), os.getpid())
        self._last = self._steady_since = float("-inf")

    async def tick(self) -> None:
        """One beat, and the burial of whoever is dead."""
        others = await self._db.run(processes.beat, self._me, self._process.clock())
        now = time.monotonic()
        if self._last > float("-inf") and now - self._last > SILENCE - INTERVAL:
            # The database was away, for the others too: give them time to be heard again.
            self._steady_since = now
        self._last = now
        for other in others:
            if self._is_dead(other, now):
                freed = await self._db.run(processes.bury, other.name, self._process.clock())
                log.warning("a process died; its claims are due again", process=other.name, claims=freed)
                self._freed()

    def _is_dead(self, other: Member, now: float) -> bool:
        patience = SILENCE
        if other.host == self._me.host:
            if other.pid == self._me.pid or not _is_running(other.pid):
                return True
            patience = LONG_SILENCE
        return other.silent > patience * 1000 and now - self._steady_since > patience

    async def leave(self) -> None:
        """Gives back whatever this process still has claimed, and says goodbye."""
        await self._db.run(processes.bury, self._me.name, self._process.clock())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only its parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
