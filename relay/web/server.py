"""The HTTP server: uvicorn, started and ended by whoever puts the process together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn

from relay.errors import ConfigError
from relay.web.protocol import BoundedProtocol


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, so that the process ends by the book, and saying when it listens."""

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
    """A listening socket.

    Args:
        given_as: where whoever is told that it cannot be had has set the port.

    Raises:
        ConfigError: the address cannot be had.
    """
    # The protocol is named because asyncio sets TCP_NODELAY only where it is.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        return listener
    except socket.gaierror as error:
        listener.close()
        raise ConfigError(f"RELAY_HOST: '{host}' is no address to listen on: {error.strerror}") from None
    except OSError as error:
        listener.close()
        why = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise ConfigError(f"{given_as}: {why}; choose another, or 0 for any that is free") from None


@contextlib.asynccontextmanager
async def serving(app: object, listener: socket.socket, answering: int = 10) -> AsyncIterator[None]:
    """Serves an ASGI application on `listener` while inside; on the way out answers for up to `answering` seconds."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=BoundedProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=answering,
        proxy_headers=False,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await task
