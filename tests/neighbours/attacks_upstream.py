"""Attacks by what relay is made to ask: through the mirror, and by watches without number."""

from __future__ import annotations

import asyncio

from tests.neighbours.attack import attack, rest, watch
from tests.neighbours.stage import Stage
from tests.neighbours.wire import Answer, Line


def mirrored(stage: Stage, kind: str) -> str:
    """Return the path of a query for a task that nobody watches."""
    return f"/v1/video/query?id={kind}-{stage.number()}"


@attack()
async def slow_through_the_mirror(stage: Stage) -> None:
    """Four hundred queries at once for tasks that the upstream is slow about."""
    await stage.together(400, lambda line: line.ask("GET", mirrored(stage, "slow")))


@attack()
async def refused_through_the_mirror(stage: Stage) -> None:
    """Queries that the upstream answers with 429, which pauses whoever asks on."""
    await stage.together(50, lambda line: line.ask("GET", mirrored(stage, "limited")))


@attack()
async def fast_through_the_mirror(stage: Stage) -> None:
    """As many queries as the key's rate allows."""
    await stage.together(100, lambda line: line.ask("GET", mirrored(stage, "pending")))


@attack()
async def large_answers_unread(stage: Stage) -> None:
    """Answers of 2 MB through the mirror, for callers that do not read them."""

    async def one(line: Line) -> None:
        await line.send("GET", mirrored(stage, "large"))
        await asyncio.sleep(30)

    await stage.each(100, one)


@attack(both=True)
async def crowd(stage: Stage) -> None:
    """Thousands of watches that are always due, at an upstream that is slow about each."""
    for _ in range(5):
        batch = [watch(f"slow-{stage.number()}", stage.url("/ok")) for _ in range(1000)]
        await stage.batch(batch)
    await rest()


@attack(both=True)
async def fast_crowd(stage: Stage) -> None:
    """Thousands of watches that are always due, at an upstream that answers at once."""
    for _ in range(5):
        await stage.batch([watch(f"moving-{stage.number()}", stage.url("/ok")) for _ in range(1000)])
    await rest()


@attack()
async def refused_crowd(stage: Stage) -> None:
    """Watches with a key of the app's own, which the upstream refuses to answer."""
    batch = [watch(f"limited-{stage.number()}", stage.url("/ok"), upstream_key="sk-alpha") for _ in range(1000)]
    await stage.batch(batch)
    await rest()


@attack()
async def many_keys(stage: Stage) -> None:
    """Watches with a key each, so that each has a lane of its own, at an upstream that is slow about each."""
    for _ in range(3):
        await stage.batch(
            [
                watch(f"slow-{n}", stage.url("/ok"), upstream_key=f"sk-{n}")
                for n in (stage.number() for _ in range(1000))
            ]
        )
    await rest()


@attack(both=True)
async def deadlines(stage: Stage) -> None:
    """Thousands of watches whose deadline passes in the same second."""

    async def register(line: Line) -> Answer:
        batch = [watch(f"pending-{stage.number()}", stage.url("/ok", "127.0.0.2"), expires_in=1) for _ in range(500)]
        return await line.ask("POST", "/v1/watches/batch", {"watches": batch})

    await stage.together(2, register)
