"""The upstream of the benchmarks: the cheapest HTTP server that answers like the documented endpoint.

It runs in a process of its own, so that a benchmark's CPU figures are the client's alone, and it does no more per
request than find the end of the head and write one ready-made answer, so that the client is what is measured.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvloop

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


@contextmanager
def running() -> Iterator[int]:
    """Run the upstream in a subprocess for the length of the block, and give its port on 127.0.0.1."""
    child = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield int(child.stdout.readline())
    finally:
        child.terminate()
        child.communicate()


async def serve() -> None:
    # The backlog holds a burst of 1,000 connections: a dropped SYN would be measured as a second of waiting.
    server = await asyncio.get_running_loop().create_server(Pending, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
