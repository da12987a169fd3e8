"""A party of the benchmarks in a process of its own, so that a benchmark's CPU figures are relay's alone."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[2]


@contextmanager
def running(module: str) -> Iterator[int]:
    """Run a module that ends in `main` in a subprocess for the length of the block, and give its port on 127.0.0.1."""
    child = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield int(child.stdout.readline())
    finally:
        child.terminate()
        child.communicate()


async def listening(protocol: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen on a free port of 127.0.0.1."""
    # The backlog holds a burst of 1,000 connections: a dropped SYN would be measured as a second of waiting.
    return await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, backlog=4096)


def main(start: Callable[[], Awaitable[asyncio.Server]]) -> None:
    """Serve until the process is ended, and print the port first."""

    async def serve() -> None:
        server = await start()
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(serve())
