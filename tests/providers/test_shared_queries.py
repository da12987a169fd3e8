"""`[bulk]`: tasks that are due together share a query, and each has the outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from relay.errors import ConfigError
from relay.model.cadence import Cadence, first_poll, next_poll
from relay.model.reading import Kind, Reading
from relay.model.watch import Watch
from relay.outbound.callers import Caller, CallKind
from relay.outbound.transport import Transport
from relay.providers.bulk import MAX_QUERY, MISSING
from relay.providers.definition import load_definition
from relay.providers.document import Answer
from relay.providers.files import ProviderFiles
from relay.providers.provider import Provider
from relay.providers.upstreams import Busy, Query, Upstreams
from relay.security.guard import Guard
from tests.support.deployment import deployment, environment
from tests.support.loopback import Server
from tests.support.parties import until
from tests.support.upstream import Said, answering, targets

SHIPPED = Path(__file__).parents[2] / "config/providers"
MIDJOURNEY = SHIPPED / "midjourney-proxy.toml"
MANY = "/mj/task/list-by-condition"
NOW = 1_760_000_000_000

SHARING = """
request = { path = "/tasks/{task_id}" }
bulk = { path = "/tasks", query = { ids = "{task_ids}", v = "1" }, each = "data[]", id = "id" }
read.status = "status"
statuses.completed = ["done"]
"""

SHARED = 'path = "/a"\njson = { i = "{task_ids}" }\neach = "a"\nid = "id"\n'


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def asking(file: Path, upstream: Server) -> AsyncIterator[tuple[Upstreams, Provider]]:
    address = {f"{file.stem.upper().replace('-', '_')}_BASE_URL": upstream.url("")}
    transport = Transport(Guard([ip_network("127.0.0.0/8")]), timeout=30, max_bytes=1_000_000)
    provider = Provider(load_definition(file, address), "sk-1", transport)
    try:
        yield Upstreams(ProviderFiles({provider.name: file}, lambda _: provider), lambda: NOW), provider
    finally:
        await transport.aclose()


async def polled(
    upstreams: Upstreams, provider: Provider, asked: Sequence[tuple[str, str, str | None]]
) -> dict[str, Reading]:
    """Poll tasks of apps with keys, all at once."""

    async def poll(task_id: str, app: str, key: str | None) -> Query | Busy:
        return await upstreams.poll(provider, task_id, key, Caller(CallKind.POLL, app))

    queries = await asyncio.gather(*(poll(*each) for each in asked))
    readings = {}
    for (task_id, _, _), query in zip(asked, queries, strict=True):
        assert isinstance(query, Query)
        readings[task_id] = query.reading
    return readings


def ids_in(request: bytes) -> list[str]:
    """The ids in the body of a query."""
    ids: list[str] = orjson.loads(request.partition(b"\r\n\r\n")[2])["ids"]
    return ids


def midjourney(upstream: Server) -> Said:
    """Knows every task but `gone`."""
    if MANY not in upstream.request_line:
        return 200, {"id": "alone", "status": "IN_PROGRESS", "progress": "1%"}
    ids = orjson.loads(upstream.body)["ids"]
    known = [task_id for task_id in ids if task_id != "gone"]
    return 200, [{"id": each, "status": "SUCCESS", "imageUrl": f"https://cdn.example/{each}.png"} for each in known]


@pytest.mark.anyio
async def test_a_hundred_tasks_are_asked_about_in_two_queries() -> None:
    ids = [f"t{number}" for number in range(99)] + ["gone"]
    async with answering(midjourney) as upstream, asking(MIDJOURNEY, upstream) as (upstreams, provider):
        readings = await polled(upstreams, provider, [(each, "app", None) for each in ids])
    assert targets(upstream) == [MANY, MANY]
    assert [len(ids_in(request)) for request in upstream.heard] == [50, 50]
    assert all(request.startswith(b"POST ") and b"sk-1" in request for request in upstream.heard)
    for each in ids[:-1]:
        reading = readings[each]
        assert reading.result is not None
        assert (reading.kind, reading.result["url"]) == (Kind.COMPLETED, f"https://cdn.example/{each}.png")
        assert orjson.loads(reading.body or b"")["id"] == each
        assert reading.cut, "the mirror must not repeat it as the answer of the query about one task"
    missing = readings["gone"]
    assert (missing.kind, missing.error, missing.aside) == (Kind.NOT_UNDERSTOOD, MISSING, None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "kind", "code", "alone_afterwards"),
    [
        ((404, {"message": "no route"}), Kind.NOT_ANSWERED, "http_404", True),
        ((400, {"code": 4, "description": "task_no_found"}), Kind.NOT_UNDERSTOOD, "no_list", True),
        ((200, {"id": "t1", "status": "SUCCESS"}), Kind.NOT_UNDERSTOOD, "no_list", True),
        ((500, {"message": "the task of another: t9"}), Kind.NOT_ANSWERED, "http_500", False),
        ((401, {}), Kind.NOT_ANSWERED, "unauthorized", False),
        ((429, {}), Kind.NOT_ANSWERED, "rate_limited", False),
    ],
)
async def test_a_query_that_fails_told_nothing_about_any_task(
    said: Said, kind: Kind, code: str, alone_afterwards: bool
) -> None:
    def answer(upstream: Server) -> Said:
        return said if MANY in upstream.request_line else midjourney(upstream)

    both = [("t1", "app", None), ("t2", "other", None)]
    async with answering(answer) as upstream, asking(MIDJOURNEY, upstream) as (upstreams, provider):
        for reading in (await polled(upstreams, provider, both)).values():
            assert (reading.kind, reading.error and reading.error["code"]) == (kind, code)
            assert (reading.body, reading.aside) == (None, None), "it may speak of the tasks of others"
            assert "t9" not in str(reading.error)
        await polled(upstreams, provider, both)
    asked = ["/mj/task/t1/fetch", "/mj/task/t2/fetch"] if alone_afterwards else [MANY]
    assert sorted(targets(upstream)[1:]) == asked


@pytest.mark.anyio
async def test_only_tasks_with_the_same_key_share_a_query() -> None:
    keys = {"a": None, "b": "sk-1", "c": "sk-2", "d": "sk-2"}
    async with answering(midjourney) as upstream, asking(MIDJOURNEY, upstream) as (upstreams, provider):
        await polled(upstreams, provider, [(task_id, f"app of {task_id}", key) for task_id, key in keys.items()])
    ids = {tuple(ids_in(request)): b"sk-2" in request for request in upstream.heard}
    assert ids == {("a", "b"): False, ("c", "d"): True}


@pytest.mark.anyio
async def test_a_task_that_is_due_by_itself_is_asked_about_by_itself() -> None:
    async with answering(midjourney) as upstream, asking(MIDJOURNEY, upstream) as (upstreams, provider):
        assert (await polled(upstreams, provider, [("alone", "app", None)]))["alone"].progress == 0.01
        both = (upstreams.poll(provider, each, None, Caller(CallKind.POLL, "app"), alone=True) for each in "ab")
        await asyncio.gather(*both)
        last = (upstreams.poll(provider, each, None, Caller(CallKind.LAST, "app")) for each in "cd")
        await asyncio.gather(*last)
    assert sorted(targets(upstream)) == [f"/mj/task/{each}/fetch" for each in ["a", "alone", "b", "c", "d"]]


@pytest.mark.anyio
async def test_apps_take_turns() -> None:
    """One with many tasks does not push the only one of another into a later query."""
    many = [(f"t{number}", "big", None) for number in range(200)]
    async with answering(midjourney) as upstream, asking(MIDJOURNEY, upstream) as (upstreams, provider):
        await polled(upstreams, provider, [*many, ("mine", "small", None)])
    assert b'"mine"' in upstream.heard[0]
    assert len(upstream.heard) == 5


@pytest.mark.anyio
async def test_a_query_spends_the_budget_once(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(f"{SHARING}budget = {{ per_second = 0.01, concurrency = 1 }}", "utf-8")
    data = [{"id": "é/1", "status": "done"}, {"id": 2, "status": "on"}]
    caller = Caller(CallKind.POLL, "app")
    said = (200, {"data": data})
    async with answering(lambda _: said) as upstream, asking(file, upstream) as (upstreams, provider):
        readings = await polled(upstreams, provider, [("é/1", "app", None), ("2", "app", None)])
        refused = await asyncio.gather(*(upstreams.poll(provider, each, None, caller) for each in "ab"))
    assert [reading.kind for reading in readings.values()] == [Kind.COMPLETED, Kind.PENDING]
    assert parse_qs(urlsplit(targets(upstream)[0]).query) == {"ids": ["é/1", "2"], "v": ["1"]}
    assert all(isinstance(query, Busy) for query in refused)
    assert len(upstream.heard) == 1


@pytest.mark.anyio
async def test_an_address_does_not_grow_too_long(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(SHARING, "utf-8")
    ids = [f"{number:03}" + "x" * 497 for number in range(40)]

    def answer(upstream: Server) -> Said:
        asked = parse_qs(urlsplit(upstream.request_line.split(" ")[1]).query)["ids"]
        return 200, {"data": [{"id": each, "status": "done"} for each in asked]}

    async with answering(answer) as upstream, asking(file, upstream) as (upstreams, provider):
        readings = await polled(upstreams, provider, [(each, "app", None) for each in ids])
    assert all(reading.kind is Kind.COMPLETED for reading in readings.values())
    assert all(len(target) < MAX_QUERY + 100 for target in targets(upstream))
    assert len(upstream.heard) == 4


@pytest.mark.parametrize(
    ("name", "answer", "ids"),
    [
        ("midjourney-proxy", [{"id": "a", "status": "SUBMITTED"}, {"id": "b"}], ["a", "b"]),
        ("midjourney-proxy", [], []),
        ("midjourney-proxy", {"code": 4, "description": "no"}, None),
        ("suno-newapi", {"code": "success", "data": [{"task_id": "a"}, {"task_id": 7}, "x", {"n": 1}]}, ["a", "7"]),
        ("suno-newapi", {"code": "success", "data": []}, []),
        ("suno-newapi", {"code": "no", "data": None}, None),
        ("volc-ark", {"items": [{"id": "cgt-1"}], "total": 1}, ["cgt-1"]),
        ("volc-ark", {"total": 0}, []),
        ("byteplus-modelark", {"error": {"code": "no"}}, None),
    ],
)
def test_the_lists_of_the_files_that_have_one(name: str, answer: Any, ids: list[str] | None) -> None:
    bulk = load_definition(SHIPPED / f"{name}.toml", {}).bulk
    assert bulk is not None
    items = bulk.items(Answer(200, {}, orjson.dumps(answer)))
    assert (None if items is None else list(items)) == ids


def test_tasks_that_share_queries_come_due_together() -> None:
    cadence = Cadence(first=10, steady=15, floor=5)
    registered = range(NOW, NOW + 60_000, 377)
    first = {first_poll(cadence, at, None) - at for at in registered}
    assert 5000 <= min(first) <= max(first) <= 10_000
    assert len({first_poll(cadence, at, None) for at in registered}) <= 60 / 2.5 + 2
    watch = Watch(NOW, NOW + 10_000_000, polls=20)
    due = {next_poll(cadence, watch, Reading(Kind.PENDING), at, at + 50, None) for at in registered}
    assert len(due) <= 60 / 3.75 + 2
    waits = [next_poll(cadence, watch, Reading(Kind.PENDING), at, at + 50, None) - at for at in registered]
    assert 15_000 * 7 / 8 - 1 <= min(waits) <= max(waits) <= 15_000 * 9 / 8 + 1
    quick = Cadence(first=0.1, steady=0.1, floor=0.1)
    assert next_poll(quick, watch, Reading(Kind.PENDING), NOW + 260, NOW + 260, None) == NOW + 500


@pytest.mark.parametrize(
    ("bulk", "why"),
    [
        ('each = "a"\nid = "id"', "bulk.path: is missing"),
        ('path = "/a"\neach = "a"\nid = "id"', "needs {task_ids}"),
        ('path = "/a/{task_id}"\njson = { i = "{task_ids}" }\neach = "a"\nid = "id"', "'{task_id}' is no placeholder"),
        ('path = "/a"\nquery = { i = "x-{task_ids}" }\neach = "a"\nid = "id"', "'{task_ids}' is no placeholder"),
        ('path = "/a"\nquery = { i = "{task_ids}" }\njson = { i = "{task_ids}" }\neach = "a"\nid = "id"', "of either"),
        ('path = "/a"\nquery = { i = "{task_ids}" }\njson = { i = 1 }\neach = "a"\nid = "id"', "belongs there"),
        ('path = "/a"\njson = { i = "{task_ids}" }\neach = "["\nid = "id"', "not JMESPath"),
        ('path = "/a"\njson = { i = "{task_ids}" }\neach = "a"\nid = "id"\nmost = 1', "must be at least 2"),
        (f'{SHARED}[request]\nid = "{{a}}/{{b}}"\npath = "/{{a}}/{{b}}"', "no place for ids of several parts"),
        (f'{SHARED}[follow]\nurl = "u"\nresult.url = "u"', "the second request in [follow]"),
    ],
)
def test_a_mistake_is_told(bulk: str, why: str, tmp_path: Path) -> None:
    base = "\n".join(line for line in SHARING.splitlines() if not line.startswith("bulk"))
    (tmp_path / "base.toml").write_text(base, "utf-8")
    (tmp_path / "example.toml").write_text(f'extends = "base"\n[bulk]\n{bulk}', "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_definition(tmp_path / "example.toml", {})
    assert why in caught.value.detail


@pytest.mark.anyio
async def test_a_hundred_watches_that_are_due_end_with_two_queries(tmp_path: Path) -> None:
    """And the one of them that no answer holds is asked about alone from then on."""

    def answer(upstream: Server) -> Said:
        unknown = (400, {"code": 4, "description": "task_no_found"})
        return midjourney(upstream) if MANY in upstream.request_line else unknown

    target = {"type": "webhook", "url": "http://127.0.0.1:9/"}
    watches = [{"task_id": task_id, "targets": [target]} for task_id in [f"t{n}" for n in range(99)] + ["gone"]]
    async with answering(answer) as upstream:
        environ = environment(
            f"sqlite:///{tmp_path / 'relay.db'}",
            RELAY_PROVIDER="midjourney-proxy",
            MIDJOURNEY_PROXY_BASE_URL=upstream.url(""),
        )
        async with deployment(environ, working=False) as relay:
            registered = await relay.http.post("/v1/watches/batch", json={"watches": watches})
            made = [item["watch"] for item in registered.json()["data"]]
            due = {watch["next_poll_at"] for watch in made}
            assert len(due) <= 2

        async def is_due() -> bool:
            return datetime.now(UTC) > datetime.fromisoformat(max(due))

        await until(is_due)
        async with deployment(environ) as relay:

            async def asked_alone() -> bool:
                return len(upstream.heard) >= 4

            await until(asked_alone)
            page = (await relay.http.get("/v1/watches?state=completed&limit=200")).json()["data"]
            gone = await relay.watch(made[-1]["id"])
    assert targets(upstream)[:2] == [MANY, MANY]
    assert set(targets(upstream)[2:]) == {"/mj/task/gone/fetch"}
    assert {watch["task_id"] for watch in page} == {watch["task_id"] for watch in made[:-1]}
    assert all(watch["result"]["url"] == f"https://cdn.example/{watch['task_id']}.png" for watch in page)
    assert {watch["polls"] for watch in page} == {1}
    assert (gone["state"], gone["error"]["code"]) == ("watching", "unknown_task")
