"""The lines of the log about registrations: one for all that are answered in the same moment.

Registrations share a commit, so they are answered together, thousands per second. A line for each would cost as much as
all else that relay does for it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import NamedTuple

import structlog

log = structlog.stdlib.get_logger(__name__)

MOST = 100
"""Registrations of one line, at most: a longer line would be cut."""


class _Entry(NamedTuple):
    watch_id: str
    task_id: str
    request_id: str


class RegistrationLog:
    """Gathers registrations until the event loop turns, and writes lines with their ids."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def note(self, watch_id: str, task_id: str) -> None:
        """Note that the request of this task has registered a task."""
        if not self._entries:
            # In a context of its own, because the line belongs to no single request.
            asyncio.get_running_loop().call_soon(self._write, context=Context())
        request_id = structlog.contextvars.get_contextvars().get("request_id", "-")
        self._entries.append(_Entry(watch_id, task_id, request_id))

    def _write(self) -> None:
        entries, self._entries = self._entries, []
        if len(entries) == 1:
            log.info("registered", **entries[0]._asdict())
            return
        for start in range(0, len(entries), MOST):
            some = entries[start : start + MOST]
            watch_ids = " ".join(entry.watch_id for entry in some)
            request_ids = " ".join(entry.request_id for entry in some)
            log.info("registered", watches=len(some), watch_ids=watch_ids, request_ids=request_ids)
