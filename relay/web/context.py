"""What a request handler has to work with, put together by `relay.app`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from relay import keyring
from relay.budget import Budget
from relay.changes import Changes
from relay.channels.slack_api import SlackApi
from relay.dispatcher import Dispatcher
from relay.errors import Unauthorized
from relay.model import Millis
from relay.provider import Provider
from relay.settings import Settings
from relay.store import Database, apps
from relay.tracing import Tracing
from relay.vault import Vault
from relay.web.addresses import Addresses
from relay.web.errands import Errands

APP_CACHE = 5.0
"""Seconds for which an API key once looked up is believed."""


USED_EVERY: Millis = 60_000
"""Milliseconds between two notes of an app's last use."""


@dataclass(slots=True)
class Context:
    """Everything that the web needs of the rest.

    Attributes:
        due: called with the seconds until something registered here is to be polled.
        told: called when deliveries have been made here.
        measure: brings the gauges of the metrics up to date.
        slack: how Slack is called.
        errands: what goes on after a request was answered.
        unwell: the reasons why this process is not ready, none if it is.
    """

    settings: Settings
    db: Database
    vault: Vault
    providers: Mapping[str, Provider]
    addresses: Addresses
    dispatcher: Dispatcher
    changes: Changes
    budget: Budget
    clock: Callable[[], Millis]
    due: Callable[[float], None]
    told: Callable[[], None]
    unwell: Callable[[], Awaitable[list[str]]]
    measure: Callable[[], Awaitable[None]]
    tracing: Tracing
    slack: SlackApi
    errands: Errands = field(default_factory=Errands)
    _apps: dict[bytes, tuple[float, apps.App]] = field(default_factory=dict)

    async def app_of(self, request: Request) -> apps.App:
        """The app whose API key the request carries.

        Raises:
            Unauthorized: it carries none, or one that nobody has.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("send your API key as 'Authorization: Bearer rly_…'")
        key_hash = keyring.hash_key(key.strip())
        looked_up, app = self._apps.get(key_hash, (0.0, None))
        if app is None or time.monotonic() - looked_up > APP_CACHE:
            app = await self.db.read(apps.by_key, key_hash)
            if app is None:
                self._apps.pop(key_hash, None)
                raise Unauthorized("this API key is not known here, or its app is disabled")
            self._apps[key_hash] = (time.monotonic(), app)
            if self.clock() - (app.last_used_at or 0) > USED_EVERY:
                await self.db.run(apps.used, app.id, self.clock())
        return app


def context_of(request: Request) -> Context:
    """The context that the application was made with."""
    context: Context = request.app.state.context
    return context
