"""Work that goes on after its request was answered: Slack wants an answer within 3 s, whatever there is to do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

log = structlog.stdlib.get_logger(__name__)


class Errands:
    """What is under way, so that the process can wait for it before it ends."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Sets the work going. What it raises is a bug, and logged."""
        task = asyncio.create_task(self._run(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    @staticmethod
    async def _run(work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("errand failed")

    async def drain(self) -> None:
        """Waits until all is done."""
        if self._under_way:
            await asyncio.wait(self._under_way)
