"""What changed, told once per process to everybody who looks.

However many streams and pages are open, a change is read from the database once: whoever saved it says so, in this
process by a call and in the others by PostgreSQL's notice, and the rows that somebody looks at are read together and
handed out. Where no notice comes through (behind a pooler, or beside another process on SQLite), one query a second
finds what was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import structlog

from relay.errors import StoreUnavailable
from relay.store import Database, watches

log = structlog.stdlib.get_logger(__name__)

GATHER = 0.02
"""Seconds to wait for company before changed watches are read."""

SWEEP = 1.0
"""Seconds between two looks for changes that nobody announced."""


class Follower:
    """Somebody who looks at one watch.

    Attributes:
        found: the watch as it was last handed out; None before the first time.
    """

    __slots__ = ("_news", "found", "over")

    def __init__(self) -> None:
        self.found: watches.Found | None = None
        self.over = False
        self._news = asyncio.Event()

    def hand(self, found: watches.Found | None) -> None:
        """Shows the watch as it is now; None when there is no more to see."""
        self.found, self.over = found, found is None
        self._news.set()

    async def news(self, seconds: float) -> watches.Found | None:
        """The watch when it is next handed out, or None if that takes longer than `seconds`, or there is no more."""
        if not self.over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
                    self._news.clear()
                    return self.found
        return None


class Changes:
    """The followers of one process, and what they are told.

    Args:
        db: where the watches are.

    Attributes:
        blind: what other processes change is not announced here.
        closed: the process is about to end.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._onlookers: set[asyncio.Event] = set()
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        self.blind = False

    def announce(self, ids: Iterable[str]) -> None:
        """Says which watches are no longer what they were."""
        for onlooker in self._onlookers:
            onlooker.set()
        if followed := [one for one in ids if one in self._followers]:
            self._changed.update(followed)
            self._wake.set()

    @property
    def followers(self) -> int:
        """How many look at one watch each."""
        return sum(map(len, self._followers.values()))

    @contextlib.contextmanager
    def follow(self, watch_id: str) -> Iterator[Follower]:
        """Somebody who is shown the watch, from now on, whenever it has changed; once closed there is no more."""
        follower = Follower()
        if self.closed:
            follower.hand(None)
        self._followers[watch_id].add(follower)
        self._look()
        try:
            yield follower
        finally:
            others = self._followers[watch_id]
            others.discard(follower)
            if not others:
                del self._followers[watch_id]

    @contextlib.contextmanager
    def any(self) -> Iterator[asyncio.Event]:
        """An event that is set, from now on, whenever anything may have changed, and when this is closed."""
        onlooker = asyncio.Event()
        if self.closed:
            onlooker.set()
        self._onlookers.add(onlooker)
        self._look()
        try:
            yield onlooker
        finally:
            self._onlookers.discard(onlooker)

    def close(self) -> None:
        """Lets everybody go: the process is about to end."""
        self.closed = True
        for onlooker in self._onlookers:
            onlooker.set()
        for followers in self._followers.values():
            for follower in followers:
                follower.hand(None)
        self._wake.set()

    def _look(self) -> None:
        if self._task is None and not self.closed:
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Hands out what changed, for as long as somebody looks."""
        clock = asyncio.get_running_loop().time
        swept = clock()
        while self._looked_at():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(swept + SWEEP):
                    await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(GATHER)
            if not self._looked_at():
                break
            try:
                if clock() - swept >= SWEEP:
                    swept = clock()
                    await self._sweep()
                await self._hand_out()
            except StoreUnavailable as error:
                log.debug("not looking", error=error.detail)
                await asyncio.sleep(SWEEP)
            except Exception:
                log.exception("looking broke")
                await asyncio.sleep(SWEEP)
        self._task = None

    def _looked_at(self) -> bool:
        return bool(self._followers or self._onlookers) and not self.closed

    async def _sweep(self) -> None:
        """Finds what changed and nobody announced, however much else was."""
        for onlooker in self._onlookers if self.blind else ():
            onlooker.set()
        known = {
            one: max(f.found.row.changes if f.found else -1 for f in all_) for one, all_ in self._followers.items()
        }
        counts = await self._db.read(watches.changes_of, list(known)) if known else {}
        self._changed.update(one for one, count in known.items() if counts.get(one) != count)

    async def _hand_out(self) -> None:
        ids, self._changed = list(self._changed), set()
        try:
            found = await self._db.read(watches.read_many, ids) if ids else {}
        except StoreUnavailable:
            self._changed.update(ids)
            raise
        for one in ids:
            for follower in self._followers.get(one, ()):
                follower.hand(found.get(one))
