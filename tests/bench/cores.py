"""Which core does what: relay and its database have one, and all others (upstream, receiver, clients) have another.

So "on one core" means the same on a machine with two cores and on one with many, and who plays the others takes nothing
from relay. A thread or process that starts inside the block stays on the core. macOS cannot
pin, and chooses itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

AVAILABLE = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
RELAY = AVAILABLE[-1]
OTHERS = AVAILABLE[0]


@contextlib.contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Run this thread, and the threads and processes that it starts, on these cores."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
