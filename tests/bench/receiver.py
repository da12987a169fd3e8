"""The receiver of the benchmarks: the cheapest HTTP server that takes webhooks and remembers when each came.

`GET /arrivals` answers with the monotonic times of all. What is sent to `/hang…` is never answered. Like the upstream,
it has a process of its own.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import orjson

from tests.bench import child

TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver(asyncio.Protocol):
    """Takes requests off one connection.

    Args:
        take: called with the path and the body of each.
        answer: returns the body of the answer to a GET.
    """

    def __init__(self, take: Callable[[bytes, bytes], None], answer: Callable[[], bytes]) -> None:
        self._take = take
        self._answer = answer
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n") + 4) > 3:
            head = self._rest[:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 : head.index(b"\r", mark)]) if mark > 0 else 0
            if len(self._rest) < end + length:
                return
            body = self._rest[end : end + length]
            self._rest = self._rest[end + length :]
            self._request(*head.split(b" ", 2)[:2], body)

    def _request(self, method: bytes, path: bytes, body: bytes) -> None:
        if path.startswith(b"/hang"):
            return
        if method == b"get":
            answer = self._answer()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
            return
        self._transport.write(TAKEN)
        self._take(path, body)


running = partial(child.running, "tests.bench.receiver")
"""Runs the receiver in a process of its own for the length of the block, and gives its port on 127.0.0.1."""


async def listening(take: Callable[[bytes, bytes], None], answer: Callable[[], bytes] = bytes) -> asyncio.Server:
    """Start a receiver in this process, on a free port of 127.0.0.1."""
    return await child.listening(lambda: Receiver(take, answer))


async def remembering() -> asyncio.Server:
    """Start a receiver that remembers when each webhook came."""
    arrivals: list[float] = []
    return await listening(lambda _path, _body: arrivals.append(time.monotonic()), lambda: orjson.dumps(arrivals))


if __name__ == "__main__":
    child.main(remembering)
