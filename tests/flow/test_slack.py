"""Slack from end to end, with its rate limits on: registered, lived, ended, whatever is killed in between.

At full size: `python -m tests.bench.slack` (40 watches, ends over two minutes), the same with `--seconds 0` (40 ends at
once), `python -m tests.flow.slack_kill` (50 kills).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from relay.simulators.slack import Fault
from tests.bench.slack import Options, measure
from tests.flow.slack_kill import MOMENTS, kill_test
from tests.support.deployment import deployment, environment
from tests.support.parties import Upstream, done, says, until
from tests.support.workspace import HOOK, calls, replies, roots, variables, workspace

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def test_a_message_lives_from_the_registration_to_the_end(database_url: str, upstream: Upstream) -> None:
    upstream.scripts["sora-2:task_1"] = says("processing", progress=0.3)
    async with workspace() as slack:
        given = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, **variables(slack))
        async with deployment(given) as relay:
            hook = {"type": "slack", "webhook_url": f"{slack.url}/services/{HOOK}"}
            watch = await relay.register("sora-2:task_1", {"type": "slack", "channel": "#renders"}, hook)

            async def posted() -> bool:
                return bool(roots(slack))

            await until(posted)
            assert roots(slack)[0]["text"].startswith("Video under way: ")
            upstream.scripts["sora-2:task_1"] = done()

            async def told() -> bool:
                return len(await relay.deliveries(watch_id=watch["id"], state="delivered")) == 2

            await until(told)
            living, ended = roots(slack)
            assert living["text"] == ended["text"]
            assert len(replies(slack, living)) == 1
            assert not [block for block in ended["blocks"] if block["type"] == "actions"], "a webhook has no buttons"
            assert slack.limited == 0


async def test_a_rate_limit_costs_no_attempt(database_url: str, upstream: Upstream) -> None:
    upstream.scripts["task"] = done()
    async with workspace() as slack:
        given = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, **variables(slack))
        async with deployment(given | {"RELAY_RETRY_SCHEDULE": "0s"}) as relay:
            for _ in range(3):
                slack.fail_next("chat.postMessage", Fault.rate_limited(1))
            await relay.register("task", {"type": "slack", "channel": "#renders"})

            async def settled() -> bool:
                return bool([one for one in await relay.deliveries() if one["state"] in ("delivered", "dead")])

            await until(settled)
            (delivery,) = await relay.deliveries()
            assert delivery["state"] == "delivered"
            assert len(calls(slack, "chat.postMessage")) == 5
            assert len(roots(slack)) == 1


async def test_many_watches_of_one_channel_keep_slacks_limits(database_url: str) -> None:
    report = await measure(Options(watches=6, seconds=6.0, first=2.0, database_url=database_url))
    said = "\n".join(report.lines())
    assert (report.roots, report.replies) == (Counter({1: 6}), Counter({1: 6})), said
    assert (report.limited, report.overtaken) == (0, 0), said
    assert max(report.lags) <= 10, said


async def test_many_that_end_at_once_are_shown_before_anything_else(database_url: str) -> None:
    report = await measure(Options(watches=6, seconds=0.0, database_url=database_url))
    said = "\n".join(report.lines())
    assert (report.roots, report.replies) == (Counter({1: 6}), Counter({1: 6})), said
    assert (report.limited, report.overtaken, report.posts) == (0, 0, 12), said


async def test_killed_between_slack_and_the_record(database_url: str, tmp_path: Path) -> None:
    report = await kill_test(database_url, tmp_path, len(MOMENTS))
    said = "\n".join(report.lines())
    assert report.kills == Counter(dict.fromkeys(MOMENTS, 1)), said
    assert (report.roots, report.replies) == (Counter({1: 4}), Counter({1: 4})), said
    assert not report.unfinished, said
