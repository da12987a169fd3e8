"""What a batch may hold and costs, and that nobody else waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay import slices
from relay.web.api.schemas import MAX_BATCH_TARGETS
from tests.support.deployment import deployment, environment
from tests.web.callers import Caller, caller, problem
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio


def batch(name: str, watches: int, targets: int) -> dict[str, Any]:
    return {
        "watches": [
            {
                "task_id": f"{name}:{watch}",
                "targets": [
                    {"type": "webhook", "url": f"https://h{watch}.example/{target}"} for target in range(targets)
                ],
            }
            for watch in range(watches)
        ]
    }


async def test_a_batch_has_ten_thousand_targets_in_all(api: Caller, name: str) -> None:
    wrong = {"task_id": name, "targets": [0] * 100}
    fits = await api.post("/v1/watches/batch", {"watches": [wrong] * (MAX_BATCH_TARGETS // 100)})
    assert {item["status"] for item in fits.json()["data"]} == {422}
    one_more = [wrong] * (MAX_BATCH_TARGETS // 100) + [{"task_id": name, "targets": [0]}]
    refused = problem(await api.post("/v1/watches/batch", {"watches": one_more}), 413)
    assert "10000 targets in all; this one has 10001" in refused["detail"]


async def test_an_item_is_no_larger_than_a_registration_by_itself(api: Caller, name: str) -> None:
    huge = {"task_id": name, **{str(field): 0 for field in range(100_000)}}
    good = batch(name, 1, 1)["watches"][0]
    items = (await api.post("/v1/watches/batch", {"watches": [huge, good]})).json()["data"]
    assert [item["status"] for item in items] == [413, 201]
    assert items[0]["error"]["code"] == "too_large"


async def test_a_batch_costs_one_request_per_twenty_targets_and_at_most_a_full_bucket(
    new_database: NewDatabase, name: str
) -> None:
    environ = environment(new_database(), RELAY_RATE_LIMIT="2", UNIFIED_VIDEO_BASE_URL="http://127.0.0.1:9")
    async with deployment(environ, working=False) as running:
        async with caller(running) as small:
            left = (await small.post("/v1/watches/batch", batch(name, 1, 100))).headers["RateLimit"]
            assert left.startswith('"key";r=15;')
            one = (await small.post("/v1/watches/batch", batch(name, 1, 1))).headers["RateLimit"]
            assert one.startswith('"key";r=14;')
            refused = await small.post("/v1/watches/batch", batch(name, 10, 100))
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert 1 <= int(refused.headers["Retry-After"]) <= 4
        async with caller(running) as large:
            answer = await large.post("/v1/watches/batch", batch(name, 10, 100))
            assert {item["status"] for item in answer.json()["data"]} == {201}
            assert answer.headers["RateLimit"].startswith('"key";r=0;')


async def test_others_are_answered_while_a_batch_is_worked_on(
    api: Caller, stranger: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop turns between any two small steps: without slices, no more than a few times in all."""
    turns = 0
    sleep = asyncio.sleep

    async def count(seconds: float) -> None:
        nonlocal turns
        turns += 1
        await sleep(seconds)

    monkeypatch.setattr(slices, "SLICE", 0.001)
    monkeypatch.setattr(slices.asyncio, "sleep", count)
    working = asyncio.create_task(api.post("/v1/watches/batch", batch(name, 20, 100)))
    answered = 0
    while not working.done():
        assert (await stranger.http.get("/healthz")).status_code == 200
        answered += 1
    assert {item["status"] for item in (await working).json()["data"]} == {201}
    assert turns > 20, "as many slices as items"
    assert answered > 5
