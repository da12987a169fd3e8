"""What attacks and their judge stand on: one relay with few descriptors, two apps, an upstream, receivers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.flow.formation import run
from tests.neighbours.wire import NEVER, Answer, Asked, Line, Reply, Server, serving
from tests.support.deployment import API_KEY, environment
from tests.support.processes import CONFIG, serve

DESCRIPTORS = 512
"""What relay may open: half of what a machine allows by default."""

REFUSALS = {408, 413, 429, 502, 503}
"""How relay may answer one that asks too much, or asks on an upstream that is slow."""

RESOLVER = Path(__file__).parent / "resolver"


def upstream_says(asked: Asked) -> Reply:
    """Answer a query by the kind of its task, the part of its id before the first dash."""
    task_id = asked.target.rpartition("id=")[2]
    kind = task_id.partition("-")[0]
    match kind:
        case "done":
            return _status("completed", video_url="https://cdn.example/v.mp4")
        case "fail":
            return _status("failed", error="out of credits")
        case "slow":
            return Reply(b'{"status": "pending"}', after=5.0)
        case "limited":
            return Reply(b'{"error": {"code": "rate_limit_exceeded"}}', 429)
        case "moving":  # each answer says something new
            return _status(f"phase-{time.monotonic()}", progress=time.monotonic() % 100)
        case "large":
            return LARGE
        case "masked":
            return _status("pending", prompt="a\nb ********", more=["\u00e9"] * 6000)
    return _status("pending")


def _status(status: str, **fields: Any) -> Reply:
    return Reply(json.dumps({"status": status, **fields}).encode(), headers="Content-Type: application/json\r\n")


LARGE = _status("pending", prompt="x" * 2_000_000)


def receiver_says(asked: Asked) -> Reply:
    """Answer a webhook by the first part of its path."""
    kind = asked.target.strip("/").partition("/")[0]
    match kind:
        case "hang":
            return Reply(after=NEVER)
        case "trickle":
            return Reply(b"x", piece=b"x", pause=0.5)
        case "endless":
            return Reply(b"x", piece=b"x" * 65536, pause=0.01)
        case "redirect":
            return Reply(b"", 302, headers=f"Location: {asked.target}\r\n")
        case "gone":
            return Reply(b"", 410)
        case "binary":
            return Reply(b"\xff" * 16384, 500)
        case "masked":
            return Reply(json.dumps({"a": "\n ********", "p": ["\u00e9"] * 6000}).encode(), 500)
    return Reply()


@dataclass(slots=True)
class Stage:
    """Where it takes place.

    Attributes:
        alpha, beta: the keys of the app that attacks and of the one that must not notice.
        upstream, receiver: what both apps share.
        pid: of relay.
        names: whether receiver and upstream are called by names, which relay has to look up.
        told: the type of each event that beta's tasks were told with, and when, by task id.
        asked: how often alpha has asked for something.
        answers: how often each status was answered to alpha, 0 where the connection ended before.
        prepared: whether the attack has all that it needs.
        odd: what alpha was answered that no attack reckons with.
    """

    alpha: str
    beta: str
    port: int
    pid: int
    upstream: Server
    receiver: Server
    names: bool
    told: defaultdict[str, list[tuple[str, float]]]
    asked: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    prepared: asyncio.Event = field(default_factory=asyncio.Event)
    odd: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def number(self) -> int:
        """Return a number that no one else got."""
        return next(self._numbers)

    def url(self, path: str, host: str = "") -> str:
        """Return a URL of the receiver."""
        host = host or ("receiver.fast.neighbours.com" if self.names else "127.0.0.1")
        return f"http://{host}:{self.receiver.port}{path}"

    def note(self, answer: Answer, allowed: Sequence[int] = ()) -> Answer:
        """Count what alpha was answered. Each attack must be one that relay understands."""
        self.answers[answer.status] += 1
        if answer.status >= 400 and answer.status not in REFUSALS and answer.status not in allowed:
            self.odd.append(f"{answer.status} {answer.body[:200]!r}")
        return answer

    async def ask(self, method: str, path: str, body: Any = None, allowed: Sequence[int] = ()) -> Answer:
        """Have alpha ask for something once; if it is told to wait, or not heard, it asks again."""
        answered: asyncio.Queue[Answer] = asyncio.Queue()

        async def until_answered(line: Line) -> Answer:
            answer = await line.ask(method, path, body)
            if answer.status not in (429, 503):
                answered.put_nowait(answer)
            return answer

        asking = asyncio.ensure_future(self.together(1, until_answered, allowed))
        try:
            return await answered.get()
        finally:
            asking.cancel()

    async def batch(self, watches: Sequence[dict[str, Any]]) -> Answer:
        """Have alpha register many tasks, as many at once as are allowed."""
        return await self.ask("POST", "/v1/watches/batch", {"watches": list(watches)})

    async def each(self, count: int, one: Callable[[Line], Awaitable[None]]) -> None:
        """Have alpha do something that is not answered on so many connections at once, each again and again."""

        async def go_on() -> None:
            while True:
                self.asked += 1
                with contextlib.suppress(OSError, EOFError), Line(self.port, self.alpha) as line:
                    await one(line)
                await asyncio.sleep(0.5)

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(go_on())

    async def together(self, count: int, one: Callable[[Line], Awaitable[Answer]], allowed: Sequence[int] = ()) -> None:
        """Have alpha do something on so many connections at once, each again and again, for as long as it is let."""

        async def go_on() -> None:
            with Line(self.port, self.alpha) as line:
                while True:
                    self.asked += 1
                    try:
                        answer = self.note(await one(line), allowed)
                    except (OSError, EOFError):
                        self.answers[0] += 1
                        await asyncio.sleep(0.2)
                        continue
                    if answer.status in (429, 503):
                        await asyncio.sleep(min(1.0, answer.retry_after))

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(go_on())

    def descriptors(self) -> int:
        """Return how many descriptors relay has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu(self) -> tuple[float, float]:
        """Return the seconds that relay's main thread has run, and those that it waited for a core."""
        ran, waited, _ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9

    def memory(self) -> float:
        """Return the resident set of relay, in MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6


@contextlib.asynccontextmanager
async def stage(database_url: str, folder: Path, *, names: bool = False, **options: str) -> AsyncIterator[Stage]:
    """Set everything up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for the test itself, which plays a thousand hosts
    told: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)

    def take(asked: Asked) -> Reply:
        if asked.target.startswith("/told"):
            event = json.loads(asked.body)
            told[event["data"]["task_id"]].append((event["type"], time.monotonic()))
        return receiver_says(asked)

    async with serving(upstream_says) as upstream, serving(take) as receiver:
        place = "upstream.fast.neighbours.com" if names else "127.0.0.1"
        environ = {
            **environment(database_url, UNIFIED_VIDEO_BASE_URL=f"http://{place}:{upstream.port}"),
            "RELAY_POLL_INTERVAL": "0.5",
            "RELAY_RETRY_SCHEDULE": "0s,5s,300s",
            "RELAY_CONFIG": CONFIG,
            "PYTHONPATH": str(RESOLVER),
            **options,
        }
        async with serve(environ, folder) as process:
            resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            alpha, _ = await asyncio.gather(_create(environ, folder, "alpha"), process.ready())
            port = int(process.url.rpartition(":")[2])
            yield Stage(alpha, API_KEY, port, process.process.pid, upstream, receiver, names, told)
            process.kill()


async def _create(environ: dict[str, str], folder: Path, name: str) -> str:
    code, said = await run(environ, folder, sys.executable, "-m", "relay", "apps", "create", name, "--json")
    assert code == 0, said
    return str(json.loads(said)["api_key"])
