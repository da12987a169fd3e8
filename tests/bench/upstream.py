"""The upstream of the benchmarks: the cheapest HTTP server that answers like the documented endpoint.

It runs in a process of its own, so that a benchmark's CPU figures are the client's alone, and it does no more per
request than find the end of the head and write one ready-made answer, so that the client is what is measured.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import cast

from tests.bench import child

BODY = (Path(__file__).parent / "pending.json").read_bytes()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Pending(asyncio.Protocol):
    """Answers every request head with the pending body, and keeps the connection; requests carry no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        self.transport.write(ANSWER * len(heads))


running = partial(child.running, "tests.bench.upstream")
"""Runs the upstream in a process of its own for the length of the block, and gives its port on 127.0.0.1."""


if __name__ == "__main__":
    child.main(lambda: child.listening(Pending))
