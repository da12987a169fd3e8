"""Commands as their users run them: real processes in a folder of their own, judged by exit code and output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[2] / "config"

MANY = """
import contextlib, io, json, os, sys, traceback
import relay.app
from relay.cli import main

relay.app.START_PATIENCE = 0.0
for words, environ in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["relay", *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    print(json.dumps([code, *(one.buffer.getvalue().decode() for one in (out, err))]))
"""
"""Runs many command lines one after another, and has none of them wait for its database."""


@dataclass
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a command that failed."""
        assert self.code == 1, self
        assert "Traceback" not in self.out + self.err
        (line,) = self.err.splitlines()
        assert line.startswith("relay: ")
        return line.removeprefix("relay: ")

    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


class Shell:
    """A folder of the test's own in which commands run, without what the environment of the tests may set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"RELAY_CONFIG": str(CONFIG), "HOME": str(folder)}
        self.environ |= {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}

    async def _start(self, *words: str, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            env=self.environ | environ,
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A shell starts what is in the background with SIGINT ignored, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    async def _python(self, *words: str, said: bytes = b"", environ: Mapping[str, str]) -> Ran:
        process = await self._start(*words, environ=environ)
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate(said)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def run(self, *words: str, **environ: str) -> Ran:
        """`relay WORDS`"""
        return await self._python("-m", "relay", *words, environ=environ)

    async def run_many(self, *lines: Sequence[str], **environ: str) -> list[Ran]:
        """`relay WORDS` for each line, in one process: the start of one takes longer than most commands."""
        return await self.run_each([(line, {}) for line in lines], **environ)

    async def run_each(self, lines: Sequence[tuple[Sequence[str], dict[str, str]]], **environ: str) -> list[Ran]:
        """As `run_many`, with an environment for each line."""
        said = json.dumps([(words, self.environ | environ | own) for words, own in lines]).encode()
        ran = await self._python("-c", MANY, said=said, environ={})
        assert (ran.code, ran.err) == (0, "")
        return [Ran(*json.loads(line)) for line in ran.out.splitlines()]

    @contextlib.asynccontextmanager
    async def running(self, *words: str, **environ: str) -> AsyncIterator[Running]:
        """A command that runs until it is told to stop."""
        running = Running(await self._start("-m", "relay", *words, environ=environ))
        try:
            yield running
        finally:
            if running.process.returncode is None:
                running.process.kill()
            await running.rest()


class Running:
    """A command that runs, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Waits until the pattern has been printed."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            while not (found := re.search(pattern, self.printed)):
                line = await self.process.stdout.readline()
                assert line, (self.printed, await self.process.stderr.read())
                self.printed += line.decode()
        return found

    async def rest(self) -> str:
        """Everything that it printed, once it has ended."""
        out, err = await self.process.communicate()
        self.printed += out.decode()
        return err.decode()

    async def stop(self, name: signal.Signals = signal.SIGTERM) -> int:
        """Tells it to stop; the exit code."""
        self.process.send_signal(name)
        async with asyncio.timeout(30):
            error = await self.rest()
        assert "Traceback" not in self.printed + error
        return self.process.returncode or 0
