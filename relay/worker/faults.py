"""Faults of relay's own within a claim: counted, and logged once per kind, without the words of the exception."""

from __future__ import annotations

import traceback
from collections import Counter

import structlog

from relay.telemetry import metrics

log = structlog.stdlib.get_logger(__name__)

MAX_KINDS = 1000
"""Kinds of faults that are remembered."""


class Faults:
    """The faults of one loop.

    The words of an exception may repeat what a row or an answer holds, so only its class and its traceback are logged:
    with the first fault of a kind. After that, a line says how many there were, at 10, at 100, at 1000 …

    Args:
        loop: what the loop is called in the metrics.
    """

    def __init__(self, loop: str) -> None:
        self._counter = metrics.INTERNAL_ERRORS.labels(loop)
        self._loop = loop
        self._kinds: Counter[str] = Counter()

    def note(self, what: str, error: Exception, claim: str) -> None:
        """Count a fault, and log it if it is the first of its kind."""
        self._counter.inc()
        kind = f"{what} {kind_of(error)}"
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] += 1
        times = self._kinds[kind]
        if times == 1:
            log.error(what, claim=claim, loop=self._loop, error=kind_of(error), exc_info=wordless(error))
        elif times in (10**power for power in range(1, 10)):
            log.error(f"{what} again", claim=claim, loop=self._loop, error=kind_of(error), times=times)


def kind_of(error: Exception) -> str:
    """Return the classes of an exception and of its cause, and the function in which it was raised."""
    classes = [type(one).__name__ for one in (error, error.__cause__) if one is not None]
    frames = list(traceback.walk_tb(error.__traceback__))
    where = f" in {frames[-1][0].f_code.co_name}" if frames else ""
    return " from ".join(classes) + where


def wordless(error: Exception) -> Exception:
    """Return an exception of the same name with the same traceback, and without its words."""
    silent: Exception = type(type(error).__name__, (Exception,), {"__module__": type(error).__module__})()
    return silent.with_traceback(error.__traceback__)
