"""Whether the address of an upstream is right: a router that knows no such address says nothing about any task."""

from __future__ import annotations

import structlog

from relay.model.reading import Kind, Reading
from relay.telemetry import metrics

MANY = 3
"""Tasks in a row that an upstream's router knows no address for, before relay says that the address is wrong."""

log = structlog.stdlib.get_logger(__name__)


class Routing:
    """Notices when an upstream answers 404 without a word about the task, for many tasks and nothing else.

    It says so once in the log and in a metric, and once more when the upstream answers again.
    """

    def __init__(self) -> None:
        self._unrouted: dict[str, set[str]] = {}

    def heard(self, provider: str, task_id: str, reading: Reading, remedy: str) -> None:
        """Take note of an answer; `remedy` is what to look at where the address is wrong."""
        if reading.no_route:
            tasks = self._unrouted.setdefault(provider, set())
            if len(tasks) < MANY:
                tasks.add(task_id)
                if len(tasks) == MANY:
                    metrics.UPSTREAM_UNROUTED.labels(provider).set(1)
                    message = reading.error["message"] if reading.error else ""
                    log.error("upstream address looks wrong", provider=provider, answer=message, remedy=remedy)
        elif self._unrouted and reading.kind not in (Kind.NOT_ANSWERED, Kind.NOT_UNDERSTOOD):
            tasks = self._unrouted.pop(provider, set())
            if len(tasks) == MANY:
                metrics.UPSTREAM_UNROUTED.labels(provider).set(0)
                log.info("upstream address answers again", provider=provider)
