"""Pages are bounded: by what they show of each attempt, by the attempts, by the targets of their watches."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from relay.channels.base import KEPT_ANSWER
from relay.model.delivery import Attempt, Outcome, Verdict
from relay.store import attempts, schema, watches
from relay.store.deliveries import LISTED_ANSWER, SHOWN_ATTEMPTS
from relay.wiring import now
from tests.support.parties import Receiver, Upstream, done, until
from tests.web.callers import Caller

pytestmark = pytest.mark.anyio


async def test_a_list_shows_the_beginning_of_the_last_answers_and_one_delivery_all_that_is_kept(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = done()
    watch = await relay.register(name, f"{receiver.url}/{name}")
    (delivery,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="delivered"))
    assert delivery["attempt_count"] == 1

    def try_often(tx: sa.Connection) -> int:
        for number in range(2, 26):
            text = b"x" * LISTED_ANSWER if number == 25 else b"\xff" * KEPT_ANSWER
            attempt = Attempt(number, now(), 1, Outcome(Verdict.DELIVERED, answer=text))
            attempts.add(tx, [(delivery["id"], attempt)])
        tx.execute(sa.update(schema.deliveries).where(schema.deliveries.c.id == delivery["id"]).values(attempts=25))
        of_it = sa.select(sa.func.count()).where(schema.attempts.c.delivery_id == delivery["id"])
        return int(tx.execute(of_it).scalar_one())

    assert await relay.relay.db.run(try_often) == SHOWN_ATTEMPTS, "the older ones are deleted"
    (listed,) = await relay.deliveries(watch_id=watch["id"])
    one = (await relay.http.get(f"/v1/deliveries/{delivery['id']}")).json()
    for shown, long in ((listed, LISTED_ANSWER), (one, KEPT_ANSWER)):
        assert shown["attempt_count"] == 25
        assert [attempt["number"] for attempt in shown["attempts"]] == [*range(26 - SHOWN_ATTEMPTS, 26)]
        assert {len(attempt["answer"]) for attempt in shown["attempts"][:-1]} == {long}
        assert {attempt["truncated"] for attempt in shown["attempts"][:-1]} == {long == LISTED_ANSWER}
        assert (shown["attempts"][-1]["answer"], shown["attempts"][-1]["truncated"]) == ("x" * LISTED_ANSWER, False)


async def test_a_page_of_watches_ends_where_their_targets_are_too_many(
    api: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "PAGE_TARGETS", 10)
    sizes = [1, 4, 5, 5, 3, 20, 1, 1, 1]
    for number, targets in enumerate(sizes):
        await api.register(f"{name}-{number}", *(f"https://app.example/{target}" for target in range(targets)))
    pages: list[list[int]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await api.http.get("/v1/watches", params={"limit": 4, **cursor})).json()
        pages.append([len(watch["targets"]) for watch in page["data"]])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [[1, 1, 1], [20], [3, 5], [5, 4, 1]]


@pytest.mark.parametrize("path", ["/v1/watches", "/v1/deliveries"])
async def test_lists_of_an_app_are_read_one_after_the_other(
    api: Caller, stranger: Caller, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many an app asks for at once, another app waits for one of them."""
    lists = api.relay.context.lists
    async with lists.one_at_a_time(api.app_id):
        waiting = [asyncio.create_task(api.http.get(path)) for _ in range(3)]
        await until(lambda: asyncio.sleep(0, lists._lines[api.app_id].length == 4))
        assert (await stranger.http.get(path)).status_code == 200
        assert not any(task.done() for task in waiting)
    answers: list[httpx.Response] = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}
