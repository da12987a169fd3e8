"""The HTTP server: uvicorn, started and ended by the process that it is part of."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import uvicorn

from relay.errors import ConfigError
from relay.settings.options import KEEP_ALIVE
from relay.web.http_limits import BoundedProtocol, Crowd

BACKLOG = 2048
"""Connections that wait to be accepted."""

ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the first of them is looked at: so many there may be too many for a moment."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, because the process ends itself; and with an event for when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def listen(host: str, port: int, given_as: str = "PORT") -> socket.socket:
    """Return a listening socket.

    Args:
        given_as: which option gave the port; an error names it.

    Raises:
        ConfigError: relay cannot listen on this address.
    """
    # The protocol is named because asyncio sets TCP_NODELAY only where it is.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        return listener
    except socket.gaierror as error:
        listener.close()
        raise ConfigError(f"RELAY_HOST: '{host}' is no address to listen on: {error.strerror}") from None
    except OSError as error:
        listener.close()
        why = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise ConfigError(f"{given_as}: {why}; choose another, or 0 for any that is free") from None


def link_to(listener: socket.socket) -> str:
    """Return an address that opens on this machine: what listens on every address is reached as localhost."""
    host, port = listener.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    return f"http://{name}:{port}"


@contextlib.asynccontextmanager
async def serving(
    app: object, listener: socket.socket, answering: int = 10, keep_alive: float = KEEP_ALIVE
) -> AsyncIterator[None]:
    """Serve an ASGI application on `listener` while inside.

    On the way out, wait for requests under way, and for what goes on after their answers.

    Args:
        answering: seconds that requests under way have to finish.
        keep_alive: seconds for which an idle connection is kept.
    """
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=partial(BoundedProtocol, Crowd()),  # type: ignore[arg-type]
        backlog=ACCEPTED_AT_ONCE,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=answering,
        timeout_keep_alive=round(keep_alive),
        proxy_headers=False,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    listener.listen(BACKLOG)  # uvicorn has set it to what it accepts at once
    try:
        yield
    finally:
        server.should_exit = True
        await task
