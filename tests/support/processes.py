"""relay as real processes, to be told to stop or killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx

from relay.web.server import listen
from tests.support.deployment import API_KEY

CONFIG = str(Path(__file__).parents[2] / "config")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process, while it cannot open one more descriptor."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Serve:
    """One `relay serve` (or `web`, `worker`) of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        head = {"Authorization": f"Bearer {API_KEY}"}
        self.http = httpx.AsyncClient(base_url=url, headers=head, timeout=30, verify=False)

    async def ready(self) -> float:
        """Waits until /readyz says yes; returns the monotonic time of that."""
        async with asyncio.timeout(60):
            while True:
                assert self.process.returncode is None, self.log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    if (await self.http.get("/readyz")).status_code == 200:
                        return time.monotonic()
                await asyncio.sleep(0.02)

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def kill(self) -> None:
        """`kill -9`"""
        self.process.send_signal(signal.SIGKILL)

    async def stop(self, within: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def serve(
    environ: Mapping[str, str],
    folder: Path,
    command: str = "serve",
    output: int | None = None,
    descriptors: tuple[int, int] | None = None,
) -> AsyncIterator[Serve]:
    """Start a process, and kill it on the way out if it still runs.

    Args:
        output: the file descriptor of its standard output; by default a file.
        descriptors: how many it may have, and to how many it may raise that.
    """

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)

    with contextlib.closing(listen("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / f"{command}-{port}.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "relay",
            command,
            env={"PATH": os.environ["PATH"], "PORT": str(port), "RELAY_CONFIG": CONFIG, **environ},
            stdout=file if output is None else output,
            stderr=file,
            cwd=folder,
            preexec_fn=limit,
        )
    running = Serve(process, f"http://127.0.0.1:{port}", log)
    try:
        yield running
    finally:
        await running.http.aclose()
        if process.returncode is None:
            process.kill()
            await process.wait()
