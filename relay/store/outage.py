"""An outage of the database: one line in the log when it begins, one when it is over, and why writes are refused.

Every job, save and request meets the same outage. If each of them logged it, twenty seconds would fill pages.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

log = structlog.stdlib.get_logger(__name__)

QUIET = 5.0
"""Seconds without a failure after which a write that succeeds ends the outage."""

NO_ROOM = 15.0
"""Seconds for which a write that found no room counts: a smaller one may succeed meanwhile."""

ROOM = 64 * 1024
"""Bytes that the disk of a SQLite file must have free. Less is not enough for the next registrations."""


class Outage:
    """What one process knows of the database's being away."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._failed = self._found_no_room = float("-inf")
        self._no_room = ""

    def failed(self, reason: str, *, no_room: bool) -> None:
        """Note that a transaction failed.

        Args:
            no_room: the disk is full, or another limit of the machine is reached.
        """
        self._failed = time.monotonic()
        if no_room:
            self._found_no_room = self._failed
            self._no_room = reason
        if self._began is None:
            self._began = self._failed
            log.warning("database away", error=reason)

    def wrote(self) -> None:
        """Note that a transaction that may write was committed."""
        if self._began is not None and time.monotonic() - self._failed > QUIET:
            log.info("database back", away=round(self._failed - self._began, 1))
            self._began = None

    @property
    def no_room(self) -> str | None:
        """Return why the last writes found no room, or None where they found some."""
        return self._no_room if time.monotonic() - self._found_no_room < NO_ROOM else None


def full_disk(file: str) -> str | None:
    """Return in words that the disk of a SQLite file is full, or None where it has room.

    Small writes still succeed then, in the room that the file and its log already have.
    """
    disk = os.statvfs(Path(file).resolve().parent)
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail  # some are reserved for root
    return f"the disk of '{file}' is full" if blocks * disk.f_frsize < ROOM else None
