"""The way of answers to a connection: head and body in one write, since uvicorn makes two.

Each write is a system call and a packet. Together they cost a small answer more than it takes to make it.
"""

from __future__ import annotations

import asyncio
from typing import Any

MOST = 64 * 1024
"""Bytes of a body that are copied behind its head. To copy more costs more than a write."""


class AnswerTransport:
    """The transport of a connection, which holds the head of an answer back until the body follows.

    A head whose body does not follow at once, such as that of a stream, goes at the end of this turn of the event loop.

    Args:
        transport: has the connection, and does all the rest.
        loop: the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send some bytes, or hold them if they are the head of an answer."""
        if self._head and len(data) <= MOST:
            head, self._head = self._head, b""
            self._transport.write(head + data)
            return
        self._flush()
        if data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is held, and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """Return what this leaves as it is."""
        return getattr(self._transport, name)
