"""What a request handler has to work with, put together by `relay.app`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from relay.actions import Actions
from relay.channels.slack.api import SlackApi
from relay.channels.targets import Targets
from relay.errors import Unauthorized
from relay.model.times import Millis
from relay.providers.upstreams import Upstreams
from relay.security import app_keys
from relay.security.path_tokens import CALLBACK, INBOX, PathTokens
from relay.security.vault import Vault
from relay.settings.options import Settings
from relay.store import Database, apps
from relay.store.change_feed import ChangeFeed
from relay.submissions.submitting import Submissions
from relay.telemetry.tracing import Tracing
from relay.web.callback_wakes import Callbacks
from relay.web.rate_limit import HeavyRequests
from relay.web.sse import OpenStreams

APP_CACHE = 5.0
"""Seconds for which the app of an API key is remembered."""

RELAY_KEY = "relay-key"
"""The header for an API key of a caller that sends the upstream's credentials in `Authorization`."""

USED_EVERY: Millis = 60_000
"""Milliseconds between two notes of an app's last use."""


@dataclass(slots=True)
class Context:
    """Everything that the web needs of the rest.

    Attributes:
        actions: what can be asked of relay.
        submissions: create calls that pass through relay.
        feed: notifies open pages and streams of what has changed.
        measure: brings the gauges of the metrics up to date.
        slack: how Slack is called.
        callback_tokens, callbacks: whose callback it is, and what wakes its watch.
        inbox_tokens: whose test inbox it is.
        unwell: returns the reasons why this process is not ready, none if it is.
        streams: the streams and waiting answers that are open.
        inbox: the address of an inbox that is used in place of the deployment's own (`relay dev`).
        batches, lists: whose turn it is to register a batch, or to read a list.
    """

    settings: Settings
    db: Database
    vault: Vault
    upstreams: Upstreams
    targets: Targets
    actions: Actions
    feed: ChangeFeed
    clock: Callable[[], Millis]
    unwell: Callable[[], Awaitable[list[str]]]
    measure: Callable[[], Awaitable[None]]
    tracing: Tracing
    slack: SlackApi
    submissions: Submissions
    callback_tokens: PathTokens = field(init=False)
    inbox_tokens: PathTokens = field(init=False)
    callbacks: Callbacks = field(init=False)
    inbox: str | None = field(init=False, default=None)
    streams: OpenStreams = field(init=False, default_factory=OpenStreams)
    batches: HeavyRequests = field(init=False, default_factory=HeavyRequests)
    lists: HeavyRequests = field(init=False, default_factory=HeavyRequests)
    _apps: dict[bytes, tuple[float, apps.App]] = field(init=False, default_factory=dict)
    _looked_for: dict[bytes, asyncio.Task[apps.App]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.callback_tokens = PathTokens(CALLBACK, self.vault, self.settings.base_url)
        self.inbox_tokens = PathTokens(INBOX, self.vault, self.settings.base_url)
        self.callbacks = Callbacks(self.db, self.actions.wake, self.clock)

    async def app_of(self, request: Request) -> apps.App:
        """Return the app whose API key the request carries.

        Raises:
            Unauthorized: it carries none, or one that is not known.
        """
        key_hash = key_hash_of(request)
        looked_up, app = self._apps.get(key_hash, (0.0, None))
        if app is not None and time.monotonic() - looked_up <= APP_CACHE:
            return app
        looking = self._looked_for.get(key_hash)
        if looking is None:
            looking = self._looked_for[key_hash] = asyncio.create_task(self._look_up(key_hash))
            looking.add_done_callback(lambda _: self._looked_for.pop(key_hash, None))
        return await asyncio.shield(looking)

    async def _look_up(self, key_hash: bytes) -> apps.App:
        """Look an app up once for all its requests that wait for that."""
        app = await self.db.read(apps.by_key, key_hash)
        if app is None:
            self._apps.pop(key_hash, None)
            raise Unauthorized("this API key is not known here, or its app is disabled")
        self._apps[key_hash] = (time.monotonic(), app)
        if self.clock() - (app.last_used_at or 0) > USED_EVERY:
            await self.db.run(apps.used, app.id, self.clock())
        return app


def key_hash_of(request: Request) -> bytes:
    """Return the hash of the API key that a request carries.

    Raises:
        Unauthorized: it carries none.
    """
    if RELAY_KEY in request.headers:
        return app_keys.hash_key(request.headers[RELAY_KEY].strip())
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("send your API key as 'Authorization: Bearer rly_…'")
    return app_keys.hash_key(key.strip())


def context_of(request: Request) -> Context:
    """Return the context that the application was made with."""
    context: Context = request.app.state.context
    return context
