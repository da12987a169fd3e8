"""`kill -9` between what Slack did and relay's record of it: `python -m tests.flow.slack_kill --help`.

A real `relay serve` is killed while Slack has taken a call and has not answered yet: the post of a message, that of the
reply in its thread, that of a message that ended before it could be posted, an edit. Then it is started again, and in
the end each watch must have one message, which shows its end, and one reply.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from relay.simulators.slack import Fault, SimulatedSlack
from relay.store import Database, migrate
from tests.support import parties
from tests.support.deployment import environment
from tests.support.parties import done, says, until
from tests.support.processes import Serve, serve
from tests.support.workspace import calls, replies, roots, variables, workspace

MOMENTS = ("post", "reply", "late post", "edit")
FOR_EVER = Fault.slow(600)


@dataclass
class Report:
    """What was seen: kills by moment, watches by number of messages and of replies, messages without their end."""

    kills: Counter[str] = field(default_factory=Counter)
    roots: Counter[int] = field(default_factory=Counter)
    replies: Counter[int] = field(default_factory=Counter)
    unfinished: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [
            f"kills             {sum(self.kills.values())} {dict(self.kills)}",
            f"roots per watch   {dict(self.roots)}",
            f"replies per watch {dict(self.replies)}",
            f"without their end {len(self.unfinished)}",
        ]


async def kill_test(database_url: str, folder: Path, kills: int) -> Report:
    """Kills so many times, each time with a watch of its own."""
    report = Report()
    async with parties.upstream() as upstream, workspace() as slack:
        given = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, **variables(slack))
        tasks = [f"sora-2:task_{number:03}" for number in range(kills)]
        for task_id, moment in zip(tasks, islice(cycle(MOMENTS), kills), strict=True):
            async with serve(given, folder) as relay:
                await relay.ready()
                await _kill_at(moment, task_id, relay, slack, upstream)
                report.kills[moment] += 1
            async with serve(given, folder) as relay:
                await relay.ready()
                upstream.scripts[task_id] = done()

                async def told(relay: Serve = relay) -> bool:
                    found = (await relay.http.get("/v1/deliveries?limit=200")).json()["data"]
                    return len(found) == sum(report.kills.values()) and all(d["state"] == "delivered" for d in found)

                await until(told)
                assert await relay.stop() == 0
        of: Counter[str] = Counter(root["metadata"]["event_payload"]["task_id"] for root in roots(slack))
        report.roots = Counter(of[task_id] for task_id in tasks)
        report.replies = Counter(len(replies(slack, root)) for root in roots(slack))
        report.unfinished = [root["text"] for root in roots(slack) if not root["text"].startswith("Video finished")]
    return report


async def _kill_at(moment: str, task_id: str, relay: Serve, slack: SimulatedSlack, upstream: parties.Upstream) -> None:
    """Registers a task and kills relay at that moment of it."""
    before = {method: len(calls(slack, method)) for method in ("chat.postMessage", "chat.update")}
    upstream.scripts[task_id] = done() if moment == "late post" else says("processing", progress=0.1)
    method = "chat.update" if moment == "edit" else "chat.postMessage"
    posted = len(slack.messages("C0RENDERS"))
    if moment in ("post", "late post"):
        slack.fail_next(method, FOR_EVER)
    target = {"type": "slack", "channel": "#renders"}
    answer = await relay.http.post("/v1/watches", json={"task_id": task_id, "targets": [target]})
    assert answer.status_code == 201, answer.text
    if moment in ("reply", "edit"):

        async def stands() -> bool:
            return len(slack.messages("C0RENDERS")) > posted

        await until(stands)
        slack.fail_next(method, FOR_EVER)
        upstream.scripts[task_id] = done()
    wanted = before[method] + (2 if moment == "reply" else 1)

    async def taken() -> bool:
        return len(calls(slack, method)) >= wanted and len(slack.messages("C0RENDERS")) >= posted + (
            2 if moment == "reply" else 1
        )

    await until(taken)
    relay.kill()
    await relay.process.wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.flow.slack_kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--database", default="", help="a migrated PostgreSQL; else a SQLite file of its own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-kill-") as folder:
        url = given.database or f"sqlite:///{Path(folder) / 'relay.db'}"
        db = Database(url)
        db.run_here(migrate.upgrade)
        db.close()
        print("\n".join(asyncio.run(kill_test(url, Path(folder), given.kills)).lines()))


if __name__ == "__main__":
    main()
