"""What an attack is, and the table of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.neighbours.stage import Stage

Run = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One app's worst.

    Attributes:
        run: goes on until it is cancelled.
        seconds: for which it is judged.
        quick: whether it runs with all tests; the others with `-m long`.
        both: whether the database matters.
        prepares: whether it is judged only once it has set `Stage.prepared`.
        names: whether everything is called by name.
        options: of relay, where the default does not show it.
    """

    name: str
    run: Run
    seconds: float = 8.0
    quick: bool = False
    both: bool = False
    prepares: bool = False
    names: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


ATTACKS: list[Attack] = []


def attack(**how: Any) -> Callable[[Run], Run]:
    """Put a coroutine into the table under its own name."""

    def add(run: Run) -> Run:
        ATTACKS.append(Attack(run.__name__, run, **how))
        return run

    return add


async def rest() -> None:
    """Let what was begun take its course."""
    await asyncio.Event().wait()


def hosts(count: int) -> Iterator[str]:
    """Return so many hosts, which are all this machine."""
    for number in range(count):
        yield f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


def watch(task_id: str, *urls: str, **fields: Any) -> dict[str, Any]:
    """Return a registration with a target for each URL."""
    return {"task_id": task_id, "targets": [{"type": "webhook", "url": url} for url in urls], **fields}


def hundreds(urls: list[str], kind: str, stage: Stage) -> list[dict[str, Any]]:
    """Return registrations with a hundred of the URLs each."""
    return [watch(f"{kind}-{stage.number()}", *urls[start : start + 100]) for start in range(0, len(urls), 100)]
