"""File descriptors: the limit of the process, raised as far as the system allows, and what of it goes to whom.

A process that has used up its descriptors can accept no caller, look up no name and open no file. So connections in and
out have a part of the limit each, whatever the limit is, and together they leave about half of it.
"""

from __future__ import annotations

import errno
import os
import resource
from functools import lru_cache
from typing import NamedTuple

import httpx

MOST = 1 << 20
"""Descriptors beyond which a limit makes no difference, and to which the limit is raised at most."""

USED_UP = (errno.EMFILE, errno.ENFILE)
"""The errors of the system when the process, or the machine, has no descriptor left."""


class NoRoom(httpx.ConnectError):
    """Nothing was sent, because relay itself had no connection or descriptor to spare. It says nothing about a host."""


class Parts(NamedTuple):
    """How many descriptors go to whom.

    Attributes:
        incoming: connections of callers.
        receivers, upstreams, slack: connections to these.
        creates: connections to upstreams on which create calls go out: they may take minutes.
        lookups: names that are looked up at once for receivers; each takes a descriptor or two.
    """

    incoming: int
    receivers: int
    upstreams: int
    slack: int
    lookups: int
    creates: int


def limit() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)


def raise_limit() -> None:
    """Raise the limit as far as the system allows: the soft one is often low for the sake of old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a system may allow less than it says: relay lives within what there is
        return


@lru_cache(8)  # each request asks, and the limit hardly ever changes
def parts(of: int) -> Parts:
    """Divide a limit."""
    return Parts(
        incoming=max(8, of // 4),
        receivers=min(max(4, of // 8), 1024),
        upstreams=min(max(4, of // 8), 1024),
        slack=min(max(2, of // 32), 128),
        lookups=min(max(2, of // 16), 64),
        creates=min(max(2, of // 16), 512),
    )


def used_up(error: BaseException | None) -> bool:
    """Return whether an error of the system means that there is no descriptor left."""
    return isinstance(error, OSError) and error.errno in USED_UP


def none_left() -> bool:
    """Return whether there is no descriptor left. What failed for that reason may have said something else."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return used_up(error)
    return False
