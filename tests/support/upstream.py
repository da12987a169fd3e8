"""An upstream on loopback that answers by what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.support.loopback import Server, serving

Said = tuple[int, Any]
"""An HTTP status and a body, which is sent as JSON."""


@asynccontextmanager
async def answering(answer: Callable[[Server], Said]) -> AsyncIterator[Server]:
    """Run a server whose answers are made from what it was asked last."""

    async def write(writer: asyncio.StreamWriter) -> None:
        status, value = answer(upstream)
        body = orjson.dumps(value)
        writer.write(b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()

    async with serving(write) as upstream:
        yield upstream


def targets(upstream: Server) -> list[str]:
    """Return path and query of each request, in their order."""
    return [request.split(b" ", 2)[1].decode("ascii") for request in upstream.heard]
