"""The change feed: each change of a watch is read once per process and handed to all its followers.

The process that saves a change announces it: to its own feed by a call, to other processes by a notice of PostgreSQL.
The feed then reads the changed watches that have followers, all in one query, however many streams and pages are open.
Where no notice arrives (behind a pooler, or with another process on SQLite), one query a second finds the changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import structlog

from relay.errors import StoreUnavailable
from relay.store import Database, apps, watches

log = structlog.stdlib.get_logger(__name__)

GATHER = 0.02
"""Seconds to wait for more changes before the changed watches are read."""

SWEEP = 1.0
"""Seconds between two searches for changes that were not announced."""


class Follower:
    """A stream or a page that follows one watch.

    Args:
        key_hash: of the API key with which it follows; None for a page of the operator's.

    Attributes:
        watch: the watch as it was last handed out; None before the first time.
        over: nothing more comes: the watch was erased, the key is no longer valid, or the feed is closed.
    """

    __slots__ = ("_changed", "key_hash", "over", "watch")

    def __init__(self, key_hash: bytes | None) -> None:
        self.key_hash = key_hash
        self.watch: watches.StoredWatch | None = None
        self.over = False
        self._changed = asyncio.Event()

    def hand(self, watch: watches.StoredWatch | None) -> None:
        """Hand out the watch as it is now, or None if nothing more comes."""
        self.watch = watch
        self.over = watch is None
        self._changed.set()

    async def next(self, seconds: float) -> watches.StoredWatch | None:
        """Wait for the next change and return the watch, or None if none comes within `seconds`."""
        if not self.over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
                    self._changed.clear()
                    return self.watch
        return None


class ChangeFeed:
    """The followers in one process, and the task that hands changes to them.

    Attributes:
        blind: the changes of other processes are not announced to this one.
        closed: the process is about to end.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._observers: set[asyncio.Event] = set()
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        self.blind = False

    def announce(self, ids: Iterable[str]) -> None:
        """Announce that these watches have changed."""
        for observer in self._observers:
            observer.set()
        if followed := [watch_id for watch_id in ids if watch_id in self._followers]:
            self._changed.update(followed)
            self._wake.set()

    @property
    def followers(self) -> int:
        """Return how many followers there are of single watches."""
        return sum(map(len, self._followers.values()))

    @contextlib.contextmanager
    def follow(self, watch_id: str, key_hash: bytes | None = None) -> Iterator[Follower]:
        """Follow one watch: the follower gets it whenever it has changed from now on, while its key is valid."""
        follower = Follower(key_hash)
        if self.closed:
            follower.hand(None)
        self._followers[watch_id].add(follower)
        self._start()
        try:
            yield follower
        finally:
            others = self._followers[watch_id]
            others.discard(follower)
            if not others:
                del self._followers[watch_id]

    @contextlib.contextmanager
    def any(self) -> Iterator[asyncio.Event]:
        """Observe all watches: the event is set whenever any of them may have changed, and when the feed is closed."""
        observer = asyncio.Event()
        if self.closed:
            observer.set()
        self._observers.add(observer)
        self._start()
        try:
            yield observer
        finally:
            self._observers.discard(observer)

    def close(self) -> None:
        """Release all followers and observers, because the process is about to end."""
        self.closed = True
        for observer in self._observers:
            observer.set()
        for followers in self._followers.values():
            for follower in followers:
                follower.hand(None)
        self._wake.set()

    def _start(self) -> None:
        if self._task is None and not self.closed:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Hand out changes for as long as there are followers or observers."""
        clock = asyncio.get_running_loop().time
        swept = clock()
        while self._is_used():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(swept + SWEEP):
                    await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(GATHER)
            if not self._is_used():
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

    def _is_used(self) -> bool:
        return bool(self._followers or self._observers) and not self.closed

    async def _sweep(self) -> None:
        """Find changes that were not announced, and followers whose key is no longer valid."""
        if self.blind:
            for observer in self._observers:
                observer.set()
        known = {watch_id: max(map(_known_changes, followers)) for watch_id, followers in self._followers.items()}
        counts = await self._db.read(watches.change_counts, list(known)) if known else {}
        self._changed.update(watch_id for watch_id, count in known.items() if counts.get(watch_id) != count)
        await self._end_invalid()

    async def _end_invalid(self) -> None:
        """End the streams of apps that were disabled, and of keys that were replaced."""
        keyed = [one for followers in self._followers.values() for one in followers if one.key_hash is not None]
        keys = {follower.key_hash for follower in keyed}
        valid = await self._db.read(apps.valid_keys, keys) if keys else set()
        for follower in keyed:
            if follower.key_hash not in valid:
                follower.hand(None)

    async def _hand_out(self) -> None:
        if not self._changed:
            return
        ids = list(self._changed)
        self._changed.clear()
        try:
            changed = await self._db.read(watches.read_many, ids)
        except StoreUnavailable:
            self._changed.update(ids)
            raise
        for watch_id in ids:
            for follower in self._followers.get(watch_id, ()):
                follower.hand(changed.get(watch_id))


def _known_changes(follower: Follower) -> int:
    """Return how many changes of its watch a follower has seen; -1 before the first."""
    return follower.watch.row.changes if follower.watch else -1
