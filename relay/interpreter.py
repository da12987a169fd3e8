"""How the interpreter shares its time among the threads of a process, looks for garbage, and imports.

The event loop is busy in a busy process, and each transaction runs in a thread beside it.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

TURN = 0.001
"""Seconds for which a thread may keep the interpreter from another that wants it.

A transaction gives it away for each statement. With Python's five milliseconds, one that took four waited for twenty
until it had it back each time: most of the time from an answer that ends a task to its webhook.
"""

YOUNG = 50_000
"""New objects that make the collector look through them.

A thousand claims with their tasks are some 30,000, and none of them is garbage that only the collector finds: with less
than that, each burst of polls has it look, which holds the event loop up for ten milliseconds and took a sixth of a
poll. Whatever runs all the time must leave no cycles, since very many of them would be looked for at once.
"""


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Hide a package that is installed from a library that would use it, while that is imported."""
    hidden = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # as the documentation of `import` says
    try:
        yield
    finally:
        del sys.modules[package]
        if hidden is not None:
            sys.modules[package] = hidden


def tune() -> None:
    """Set the interpreter up for a process that polls, delivers or serves."""
    sys.setswitchinterval(TURN)
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
