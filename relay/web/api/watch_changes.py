"""One watch as it changes: read with its `ETag`, waited for (`Prefer: wait`), followed as a stream of events.

https://www.rfc-editor.org/rfc/rfc7240#section-4.3
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b

import orjson
from starlette.requests import Request
from starlette.responses import Response

from relay.model.event import TERMINAL_EVENTS
from relay.model.watch import State
from relay.store import watches
from relay.store.watches import StoredWatch
from relay.web.api.views import callback_url, show_watch
from relay.web.context import Context, key_hash_of
from relay.web.sse import BEGIN, COMMENT, HEARTBEAT, event_stream, require_room

MAX_WAIT = 25
"""Seconds for which an answer is held back at most: platforms cut a silent connection after 30."""

LIFETIME = 3600.0
"""Seconds after which a stream is closed, so that a client that comes back must still have a valid key."""

CHANGING = ("polls", "last_poll_at", "next_poll_at", "estimated_end")
"""Fields that every poll changes: an `ETag` is about the others."""


@dataclass(frozen=True, slots=True)
class Representation:
    """A watch as it is shown, in JSON, and the `ETag` of that."""

    json: bytes
    tag: str


async def read(context: Context, request: Request, app_id: str) -> Response:
    """Answer with the watch: at once, or with `Prefer: wait` when it is no longer what `If-None-Match` names."""
    watch_id = request.path_params["id"]
    wait = preferred_wait(request)
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if not wait:
        return _answer(_represent(context, await context.db.read(watches.read, app_id, watch_id)), known)
    require_room(request, context.streams, app_id)
    with context.streams.hold(app_id):
        changed = await _changed(context, app_id, watch_id, known, wait)
    return _answer(changed, known, {"Preference-Applied": f"wait={wait}"})


async def _changed(context: Context, app_id: str, watch_id: str, known: list[str], wait: float) -> Representation:
    """Return the watch once it is none of `known`, or as it is after `wait` seconds."""
    until = time.monotonic() + wait
    with context.feed.follow(watch_id) as follower:
        follower.watch = await context.db.read(watches.read, app_id, watch_id)
        shown = _represent(context, follower.watch)
        if known == [""]:
            # With nothing to compare with, it must become different from what it is now, if it still can.
            known = [] if follower.watch.row.ended_at is not None else [shown.tag]
        while shown.tag in known and (left := until - time.monotonic()) > 0:
            watch = await follower.next(left)
            if follower.over:  # erased, or this process is about to end
                break
            if watch is not None:
                shown = _represent(context, watch)
    if follower.over and not context.feed.closed:
        shown = _represent(context, await context.db.read(watches.read, app_id, watch_id))
    return shown


async def follow(context: Context, request: Request, app_id: str) -> Response:
    """Stream the watch now and whenever it changes, up to its end; nothing to a client that has that already."""
    last = request.headers.get("last-event-id", "")
    sent = int(last) if re.fullmatch("[0-9]{1,9}", last) else -1
    if request.method != "HEAD":
        require_room(request, context.streams, app_id)
    watch = await context.db.read(watches.read, app_id, request.path_params["id"])
    if watch.row.ended_at is not None and sent >= watch.row.changes:
        return Response(status_code=204)  # which tells an EventSource not to come back
    events = _events(context, watch, min(sent, watch.row.changes), key_hash_of(request))
    return event_stream(request, events, context.streams, app_id)


async def _events(context: Context, watch: StoredWatch, sent: int, key_hash: bytes) -> AsyncIterator[bytes]:
    """Yield an event for each change of the watch after number `sent`, and a comment where none comes for a while."""
    until = time.monotonic() + LIFETIME
    yield BEGIN
    with context.feed.follow(watch.row.id, key_hash) as follower:
        follower.watch = watch
        while True:
            if watch.row.changes > sent:
                yield _event(context, watch)
                sent = watch.row.changes
            if watch.row.ended_at is not None:
                return
            news = await follower.next(HEARTBEAT)
            if follower.over or time.monotonic() > until:
                return
            if news is None:
                yield COMMENT
            else:
                watch = news


def _event(context: Context, watch: StoredWatch) -> bytes:
    """Return the event about a change."""
    state = State(watch.row.state)
    name = "progress" if state is State.WATCHING else TERMINAL_EVENTS.get(state, f"task.{state}")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (watch.row.changes, name.encode(), _represent(context, watch).json)


def _represent(context: Context, watch: StoredWatch) -> Representation:
    """Return a watch as it is shown, made once for all that are handed it."""
    made: Representation | None = watch.made.get("representation")
    if made is None:
        shown = show_watch(watch, context.targets.show_all(watch), callback_url(context, watch))
        lasting = {name: value for name, value in shown.items() if name not in CHANGING}
        tag = blake2b(orjson.dumps(lasting), digest_size=12).hexdigest()
        made = watch.made["representation"] = Representation(orjson.dumps(shown), f'"{tag}"')
    return made


def _answer(shown: Representation, known: list[str], headers: dict[str, str] | None = None) -> Response:
    headers = {"ETag": f"W/{shown.tag}", "Cache-Control": "private, no-cache", **(headers or {})}
    if shown.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(shown.json, headers=headers, media_type="application/json")


def preferred_wait(request: Request) -> int:
    """Return for how many seconds a request would wait for a change, at most `MAX_WAIT`; 0 if it does not say."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"')
            return min(int(text), MAX_WAIT) if re.fullmatch("[0-9]{1,9}", text) else 0
    return 0
