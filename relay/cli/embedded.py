"""A whole relay inside a command: the same parts as `relay serve`, on a socket that the command has opened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.types import ASGIApp

from relay.app import Relay
from relay.settings.options import Settings
from relay.web import site
from relay.web.server import serving


@contextlib.asynccontextmanager
async def embedded(
    settings: Settings,
    environ: Mapping[str, str],
    listener: socket.socket,
    around: Callable[[ASGIApp], ASGIApp] = lambda application: application,
) -> AsyncIterator[Relay]:
    """Run relay with HTTP, polling and delivery while inside.

    Args:
        settings: the effective configuration.
        environ: where providers find their addresses and keys.
        listener: the socket that serves HTTP.
        around: returns what is served, given relay's own HTTP application.
    """
    relay = await asyncio.to_thread(Relay, settings, environ)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(relay.aclose)
        await stack.enter_async_context(relay.listening())
        await stack.enter_async_context(relay.working())
        await stack.enter_async_context(serving(around(site.build(relay.context)), listener))
        yield relay
