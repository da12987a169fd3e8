"""Create calls while processes are killed, and of many callers with the same keys: no render is paid twice or lost.

The long form kills 200 times: `.venv/bin/pytest -m long tests/flow/test_submit.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response

from tests.support.deployment import API_KEY, environment
from tests.support.maker import Maker, making, never, says
from tests.support.parties import until
from tests.support.processes import Serve, serve

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"

AT_ONCE = 30
"""Orders that a client sends at once."""


def order_of(body: bytes) -> str:
    return str(json.loads(body)["order"])


class Client:
    """Sends orders, each with a key of its own, until each is answered or nobody knows.

    Attributes:
        answers: the task of each order that was answered.
        unknown: the orders of which nobody knows.
    """

    def __init__(self) -> None:
        self._url = ""
        self._up = asyncio.Event()
        # Hundreds of orders at once would keep the relay from starting, which is what they wait for.
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.answers: dict[str, str] = {}
        self.unknown: set[str] = set()

    def come(self, url: str) -> None:
        """Send orders to this relay."""
        self._url = url
        self._up.set()

    def go(self) -> None:
        """Send no more orders there: the port may soon be anybody's."""
        self._up.clear()

    async def order(self, name: str) -> None:
        key = {"Idempotency-Key": name, "Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(timeout=30, verify=False) as http:
            while True:
                try:
                    async with self._turns:
                        await self._up.wait()
                        answer = await http.post(f"{self._url}{PATH}", json={"model": "m", "order": name}, headers=key)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    self.answers[name] = answer.json()["id"]
                    return
                if answer.json()["code"] == "submission_unknown":
                    self.unknown.add(name)
                    return
                assert answer.status_code in (409, 429, 503), answer.text
                await asyncio.sleep(0.05)


async def everything(relay: Serve, path: str, **query: str) -> list[dict[str, str]]:
    """Every row of a list."""
    rows: list[dict[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (
            await relay.http.get(path, params={**query, "limit": "200", **({"cursor": cursor} if cursor else {})})
        ).json()
        rows, cursor = rows + page["data"], page["next_cursor"]
    return rows


async def kill_often(database_url: str, folder: Path, kills: int) -> None:
    luck = random.Random(kills)
    async with making() as maker:

        async def answer(number: int) -> Response:
            await asyncio.sleep(luck.random() * 0.05)
            return says({"id": f"task-{number}", "status": "pending"})

        maker.answer = answer
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url)
        client = Client()
        orders: list[asyncio.Task[None]] = []
        for number in range(kills):
            async with serve(environ, folder) as relay:
                await relay.ready()
                client.come(relay.url)
                orders += [asyncio.create_task(client.order(f"order-{number}-{n}")) for n in range(10)]
                await asyncio.sleep(luck.random() * 0.15)
                client.go()
                relay.kill()
                await relay.process.wait()
        async with serve(environ, folder) as relay:
            await relay.ready()
            client.come(relay.url)
            async with asyncio.timeout(60 + 2 * kills):
                await asyncio.gather(*orders)
            assert await everything(relay, "/v1/submissions", state="sending") == []
            watched = {watch["task_id"] for watch in await everything(relay, "/v1/watches")}
            unknown = await everything(relay, "/v1/submissions", state="unknown")
        check_orders(maker, client, watched, len(unknown))


def check_orders(maker: Maker, client: Client, watched: set[str], unknown: int) -> None:
    times = Counter(order_of(made.body) for made in maker.made)
    assert max(times.values()) == 1, "a create was sent twice"
    assert set(client.answers.values()) <= watched, "an answered task is not watched"
    made = {f"task-{number}" for number in range(1, len(maker.made) + 1)}
    assert len(made - watched) <= unknown, "a task was made that is neither watched nor unknown"
    assert len(client.unknown) == unknown


async def test_who_is_killed_at_any_point_pays_nothing_twice_and_loses_nothing(
    database_url: str, tmp_path: Path
) -> None:
    await kill_often(database_url, tmp_path, 4)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_the_same_two_hundred_times(database_url: str, tmp_path: Path) -> None:
    await kill_often(database_url, tmp_path, 200)


async def test_two_processes_and_fifty_callers_with_ten_keys_make_ten_tasks(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    async with making() as maker:
        environ = environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=maker.url)
        async with serve(environ, tmp_path, "web") as one, serve(environ, tmp_path, "web") as other:
            clients = [Client(), Client()]
            for client, relay in zip(clients, (one, other), strict=True):
                await relay.ready()
                client.come(relay.url)
            await asyncio.gather(*(clients[n // 10 % 2].order(f"order-{n % 10}") for n in range(50)))
            answers = [{client.answers.get(f"order-{n}") for client in clients} for n in range(10)]
        assert len(maker.made) == 10
        assert all(len(tasks) == 1 for tasks in answers), "two answers to one key"


async def test_what_a_dead_process_was_sending_is_unknown_to_others(migrated_postgres_url: str, tmp_path: Path) -> None:
    async with making() as maker:
        maker.answer = never
        environ = environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=maker.url)
        async with serve(environ, tmp_path, "web") as other, serve(environ, tmp_path, "web") as relay:
            await other.ready()
            await relay.ready()
            asking = asyncio.create_task(relay.http.post(PATH, json={"order": "x"}, headers={"Idempotency-Key": "x"}))

            async def asked() -> bool:
                return bool(maker.made)

            await until(asked)
            relay.kill()
            with pytest.raises(httpx.TransportError):
                await asking

            async def known() -> bool:
                rows = (await other.http.get("/v1/submissions")).json()["data"]
                return [row["state"] for row in rows] == ["unknown"]

            await until(known)
            again = await other.http.post(PATH, json={"order": "x"}, headers={"Idempotency-Key": "x"})
            assert (again.status_code, again.json()["code"]) == (409, "submission_unknown")
            assert len(maker.made) == 1
