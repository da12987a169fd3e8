"""Many watches in one Slack channel, with Slack's rate limits on: `python -m tests.bench.slack --help`.

Each task makes progress every second and ends some time within `--seconds`; with `--seconds 0` all have ended when they
are registered. Judged is what the channel shows: one message and one reply per watch, no call that Slack had to refuse,
edits within the budget, ends in time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from relay.store import Database, migrate
from tests.support import parties
from tests.support.deployment import deployment, environment
from tests.support.parties import Answer, done, says, until
from tests.support.workspace import RENDERS, calls, replies, roots, variables, workspace


@dataclass(frozen=True)
class Options:
    """What is run.

    Attributes:
        seconds: over which the ends are spread; 0 for tasks that have ended before they are registered.
        first: seconds before the first end.
    """

    watches: int = 40
    seconds: float = 120.0
    first: float = 5.0
    database_url: str = ""


@dataclass
class Report:
    """What was seen.

    Attributes:
        roots, replies: how many watches have how many of each.
        lags: seconds from the end of each task until Slack showed it, in the order of the ends.
        limited: calls that Slack refused because they came too fast.
        fullest_minute: edits in the fullest minute.
        overtaken: posts of something else than an end, between the poll that brought an end and its showing.
    """

    roots: Counter[int] = field(default_factory=Counter)
    replies: Counter[int] = field(default_factory=Counter)
    lags: list[float] = field(default_factory=list)
    limited: int = 0
    posts: int = 0
    edits: int = 0
    fullest_minute: int = 0
    overtaken: int = 0
    took: float = 0.0

    def lines(self) -> list[str]:
        lags = sorted(self.lags)
        return [
            f"roots per watch   {dict(self.roots)}",
            f"replies per watch {dict(self.replies)}",
            f"limited           {self.limited}",
            f"posts, edits      {self.posts}, {self.edits}; in the fullest minute {self.fullest_minute} edits",
            f"end shown after   median {lags[len(lags) // 2]:.1f} s, worst {lags[-1]:.1f} s",
            f"overtaken by      {self.overtaken} posts that were no ends",
            f"took              {self.took:.0f} s",
        ]


async def measure(options: Options) -> Report:
    """Runs it."""
    started, report = time.monotonic(), Report()
    step = options.seconds / options.watches
    tasks = [f"sora-2:task_{number:03}" for number in range(options.watches)]
    ends = dict.fromkeys(tasks, 0.0)
    async with parties.upstream() as upstream, workspace() as slack:
        begun = time.time()
        for number, task_id in enumerate(tasks):
            ends[task_id] = begun + options.first + number * step if options.seconds else begun

            def script(_number: int, end: float = ends[task_id]) -> Answer:
                left = end - time.time()
                whole = max(0.01, end - begun)
                return done() if left <= 0 else says("processing", progress=max(0.0, round(1 - left / whole, 2)))

            upstream.scripts[task_id] = script
        given = {"UNIFIED_VIDEO_BASE_URL": upstream.url, "RELAY_POLL_INTERVAL": "1", **variables(slack)}
        async with deployment(environment(options.database_url, **given)) as relay:
            targets = [{"type": "slack", "channel": "#renders"}]
            body = {"watches": [{"task_id": task_id, "targets": targets} for task_id in tasks]}
            answer = await relay.http.post("/v1/watches/batch", json=body)
            assert {item["status"] for item in answer.json()["data"]} == {201}, answer.text

            async def all_told() -> bool:
                return len(await relay.deliveries(state="delivered", limit=200)) == options.watches

            await until(all_told, within=options.first + options.seconds + 4 * options.watches + 60)
            listed = (await relay.http.get("/v1/watches", params={"limit": 200})).json()["data"]
            heard = {one["task_id"]: datetime.fromisoformat(one["ended_at"]).timestamp() for one in listed}
        shown: dict[str, float] = {}
        for call in slack.calls:
            about = (call.args.get("metadata") or {}).get("event_payload", {})
            if about.get("state") == "completed":
                shown.setdefault(about["task_id"], call.at)
            elif call.method == "chat.postMessage":
                report.overtaken += sum(end + 1.5 < call.at and task not in shown for task, end in heard.items())
        edits = [call.at for call in slack.calls if call.method == "chat.update"]
        of_roots = {root["metadata"]["event_payload"]["task_id"]: root for root in roots(slack)}
        counted = Counter(root["metadata"]["event_payload"]["task_id"] for root in roots(slack))
        report.roots = Counter(counted[task] for task in tasks)
        report.replies = Counter(len(replies(slack, of_roots[task])) if task in of_roots else 0 for task in tasks)
        report.lags = [shown[task] - ends[task] for task in tasks]
        report.limited, report.edits = slack.limited, len(edits)
        report.posts = len(calls(slack, "chat.postMessage"))
        report.fullest_minute = max((sum(at <= one < at + 60 for one in edits) for at in edits), default=0)
        unfinished = [m["text"] for m in slack.messages(RENDERS) if "Video finished" not in m["text"]]
        assert not unfinished, unfinished
    report.took = time.monotonic() - started
    return report


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slack", description=__doc__)
    parser.add_argument("--watches", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=120.0, help="ends are spread over so many; 0: ended already")
    parser.add_argument("--database", default="", help="a migrated PostgreSQL; else a SQLite file of its own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        url = given.database or f"sqlite:///{Path(folder) / 'relay.db'}"
        db = Database(url)
        db.run_here(migrate.upgrade)
        db.close()
        report = asyncio.run(measure(Options(given.watches, given.seconds, database_url=url)))
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
