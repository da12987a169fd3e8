"""How the interpreter shares its time among the threads of a process, and how often it looks for garbage.

The event loop is busy in a busy process, and each transaction runs in a thread beside it.
"""

from __future__ import annotations

import gc
import sys

TURN = 0.001
"""Seconds for which a thread may keep the interpreter from another that wants it.

A transaction gives it away for each statement. With Python's five milliseconds, one that took four waited for twenty
until it had it back each time: most of the time from an answer that ends a task to its webhook.
"""

YOUNG = 10_000
"""New objects that make the collector look through them.

Each claim, query and answer is some, and nearly none of them is garbage that only the collector finds. With Python's
700, looking was a tenth of the work.
"""


def tune() -> None:
    """Set the interpreter up for a process that polls, delivers or serves."""
    sys.setswitchinterval(TURN)
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
