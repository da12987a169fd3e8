"""relay as real processes, to be told to stop or killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx

from relay.web.server import listen
from tests.support.deployment import API_KEY

CONFIG = str(Path(__file__).parents[2] / "config")


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

    def kill(self) -> None:
        """`kill -9`"""
        self.process.send_signal(signal.SIGKILL)

    async def stop(self, within: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def serve(environ: Mapping[str, str], folder: Path, command: str = "serve") -> AsyncIterator[Serve]:
    """Starts a process; it is killed on the way out if it still runs."""
    with contextlib.closing(listen("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / f"{command}-{port}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "relay",
            command,
            env={"PATH": os.environ["PATH"], "PORT": str(port), "RELAY_CONFIG": CONFIG, **environ},
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    running = Serve(process, f"http://127.0.0.1:{port}", log)
    try:
        yield running
    finally:
        await running.http.aclose()
        if process.returncode is None:
            process.kill()
            await process.wait()
