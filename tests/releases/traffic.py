"""Apps that go on using relay while its releases change: they register, cancel, and hear of the ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx

from relay.errors import BadSignature
from relay.security import signing
from tests.support import parties
from tests.support.deployment import SECRET
from tests.support.processes import Serve

PAUSE = 0.03
"""Seconds between two registrations."""


@dataclass(slots=True)
class Traffic:
    """What is asked, and what came of it.

    Attributes:
        processes: those that are asked, in turn.
        promised: the tasks whose end has to be told.
        answers: how often each status was answered, by the process that gave it.
        failed: what was asked of a process that should have answered.
    """

    upstream: parties.Upstream
    receiver: parties.Receiver
    processes: list[Serve] = field(default_factory=list)
    promised: set[str] = field(default_factory=set)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    async def go_on(self) -> None:
        """Register task after task, of several kinds, until cancelled; what is under way then comes to its end."""
        async with asyncio.TaskGroup() as group:
            with contextlib.suppress(asyncio.CancelledError):
                for number in itertools.count():
                    process = self.processes[number % len(self.processes)]
                    group.create_task(self._one(number, process))
                    await asyncio.sleep(PAUSE)

    async def _one(self, number: int, process: Serve) -> None:
        task_id = f"task-{number}"
        end = time.monotonic() + 0.5 + number % 7 / 3
        self.upstream.scripts[task_id] = lambda asked: (
            parties.done() if time.monotonic() >= end else parties.says("pending", progress=asked / 100)
        )
        path = f"/hook/{task_id}"
        if number % 5 == 1:  # refused once, so that an attempt is written down, and another release may make the next
            self.receiver.scripts[path] = [parties.Answer(b"not now", 500), parties.Answer(b"ok")]
        target: dict[str, Any] = {"type": "webhook", "url": self.receiver.url + path}
        registration = {"task_id": task_id, "targets": [target], "metadata": {"number": number}}
        if number % 5 == 2:
            answer = await self._ask(process, "POST", "/v1/watches/batch", {"watches": [registration]})
        else:
            answer = await self._ask(process, "POST", "/v1/watches", registration)
        if answer is None:
            return
        self.promised.add(task_id)
        if number % 5 == 3:  # stopped, and registered once more: by another release, where there are two
            self.promised.discard(task_id)
            await self._ask(process, "DELETE", f"/v1/watches/{answer.json()['id']}")
            if await self._ask(self.processes[-1], "POST", "/v1/watches", registration):
                self.promised.add(task_id)

    async def _ask(self, process: Serve, method: str, path: str, body: Any = None) -> httpx.Response | None:
        try:
            answer = await process.http.request(method, path, json=body)
        except httpx.TransportError as error:
            if process in self.processes:
                self.failed.append(f"{method} {path} of {process.log.name}: {error!r}")
            return None
        self.answers[process.log.name, answer.status_code] += 1
        if not answer.is_success:
            self.failed.append(f"{method} {path} of {process.log.name}: {answer.status_code} {answer.text[:200]}")
            return None
        return answer

    async def all_told(self) -> None:
        """Wait until each promised end has come; if one does not, the judgement says which."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.promised - self._told().keys():
                    await asyncio.sleep(0.05)

    def _told(self) -> dict[str, list[str]]:
        told: defaultdict[str, list[str]] = defaultdict(list)
        for post in self.receiver.posts:
            told[post.path.rpartition("/")[2]].append(post.webhook_id)
        return told

    def judgement(self) -> list[str]:
        """Say in words which promise is broken."""
        told = self._told()
        broken = [*self.failed]
        broken += [f"{task_id} was never told" for task_id in sorted(self.promised - told.keys())]
        for task_id, ids in told.items():
            if len({*ids}) > 1:
                broken.append(f"{task_id} was told under several ids")
            if len(ids) > self._answered(task_id):
                broken.append(f"{task_id} was told {len(ids)} times")
        for post in self.receiver.posts:
            with contextlib.suppress(BadSignature):
                signing.verify(SECRET, post.headers, post.body, time.time())
                continue
            broken.append(f"what came to {post.path} is not signed")
        return broken

    def _answered(self, task_id: str) -> int:
        """Return how often a task is to be told: until its receiver has taken it."""
        script = self.receiver.scripts.get(f"/hook/{task_id}")
        return len(script) if isinstance(script, list) else 1
