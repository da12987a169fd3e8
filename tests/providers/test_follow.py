"""`[follow]`: the second request of a poll, as it goes over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError
from relay.model.reading import Kind
from relay.model.watch import Caution, State, Watch, transition
from relay.outbound.callers import Caller, CallKind
from relay.outbound.transport import Transport
from relay.providers.definition import load_definition
from relay.providers.files import ProviderFiles
from relay.providers.provider import Provider
from relay.providers.upstreams import Query, Upstreams
from relay.security.guard import Guard
from tests.support.loopback import Server
from tests.support.upstream import Said, answering, targets

SHIPPED = Path(__file__).parents[2] / "config/providers"
NOW = 1_760_000_000_000
FILM = "https://cdn.example/film.mp4"

FOLLOWING = """
request = { path = "/tasks/{task_id}", headers = { X-Key = "{key}" } }
read.status = "status"
statuses.completed = ["done"]
"""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def asking(file: Path, upstream: Server) -> AsyncIterator[tuple[Upstreams, Provider]]:
    address = {f"{file.stem.upper().replace('-', '_')}_BASE_URL": upstream.url("")}
    transport = Transport(Guard([ip_network("127.0.0.0/8")]), timeout=30, max_bytes=10_000)
    provider = Provider(load_definition(file, address), "sk-1", transport)
    try:
        yield Upstreams(ProviderFiles({provider.name: file}, lambda _: provider), lambda: NOW), provider
    finally:
        await transport.aclose()


async def polled(file: Path, upstream: Server, task_id: str = "t1", kind: CallKind = CallKind.POLL) -> Query:
    async with asking(file, upstream) as (upstreams, provider):
        query = await upstreams.query(provider, task_id, None, Caller(kind, "app"))
        assert isinstance(query, Query)
        return query


def ends(query: Query) -> State:
    return transition(Watch(NOW, NOW + 1_000_000), query.reading, NOW, Caution()).state


def minimax(second: Said) -> Any:
    def answer(upstream: Server) -> Said:
        if "/v1/query/" in upstream.request_line:
            return 200, {"task_id": "t1", "status": "Success", "file_id": "f 1&x", "video_width": 8}
        return second

    return answer


@pytest.mark.anyio
async def test_the_result_of_a_task_is_asked_for_in_the_same_poll() -> None:
    async with answering(minimax((200, {"file": {"download_url": FILM}}))) as upstream:
        query = await polled(SHIPPED / "minimax-v1.toml", upstream)
    assert targets(upstream) == ["/v1/query/video_generation?task_id=t1", "/v1/files/retrieve?file_id=f%201%26x"]
    assert all(b"Authorization: Bearer sk-1\r\n" in request for request in upstream.heard)
    assert query.reading.result is not None
    assert (query.reading.result["url"], query.reading.result["width"]) == (FILM, 8)
    assert b"file_id" in (query.reading.body or b"")
    assert ends(query) is State.COMPLETED


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("second", "limited"),
    [
        ((500, {"error": "no"}), False),
        ((200, {"file": None}), False),
        ((200, ["no"]), False),
        ((429, {"base_resp": {"status_msg": "slower"}}), True),
        ((200, {"base_resp": {"status_code": 1002, "status_msg": "slower"}}), True),
    ],
)
async def test_a_second_request_that_fails_leaves_the_task_without_a_link(second: Said, limited: bool) -> None:
    """It must be repeated before that is believed; and a refusal counts for the lane."""
    async with answering(minimax(second)) as upstream:
        query = await polled(SHIPPED / "minimax-v1.toml", upstream)
    assert (query.reading.kind, query.reading.limited) == (Kind.COMPLETED, limited)
    assert ends(query) is State.WATCHING


@pytest.mark.anyio
async def test_the_address_of_the_result_is_followed_at_the_upstream_only() -> None:
    def elsewhere(_: Server) -> Said:
        return 200, {"video": {"url": FILM}}

    async with answering(elsewhere) as other:
        place = {"there": ""}

        def answer(upstream: Server) -> Said:
            if upstream.request_line.split(" ")[1].endswith("/status"):
                return 200, {"status": "COMPLETED", "response_url": place["there"]}
            return 200, {"video": {"url": FILM}}

        async with answering(answer) as upstream:
            for address, followed in [
                (upstream.url("/o/a/requests/1?x=1"), "/o/a/requests/1?x=1"),
                ("/o/a/requests/1", "/o/a/requests/1"),
                (other.url("/o/a/requests/1"), None),
                (upstream.url("/o", host="localhost"), None),
                (f"//127.0.0.1:{other.port}/o", None),
                (upstream.url("/o", scheme="https"), None),
                ("file:///etc/passwd", None),
                ("http://[", None),
                (upstream.url("/" + "x" * 20_000), None),
                ("", None),
            ]:
                upstream.heard.clear()
                place["there"] = address
                query = await polled(SHIPPED / "fal-queue.toml", upstream, "o/a/requests/1")
                asked = ["/o/a/requests/1/status"] if followed is None else ["/o/a/requests/1/status", followed]
                assert targets(upstream) == asked
                assert ends(query) is (State.WATCHING if followed is None else State.COMPLETED)
    assert other.heard == []


@pytest.mark.anyio
async def test_the_mirror_asks_once() -> None:
    async with answering(minimax((200, {"file": {"download_url": FILM}}))) as upstream:
        query = await polled(SHIPPED / "minimax-v1.toml", upstream, kind=CallKind.MIRROR)
    assert len(upstream.heard) == 1
    assert query.answer is not None
    assert b"file_id" in query.answer.body


@pytest.mark.anyio
async def test_each_of_the_two_requests_spends_the_budget(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    follow = '[follow]\npath = "/files/{task_id}/{f}"\nwith = { f = "f" }\nresult = { text = "text" }\n'
    file.write_text(f"{FOLLOWING}{follow}[budget]\nper_second = 5", "utf-8")
    done = (200, {"status": "done", "f": 7, "text": "hello"})
    async with answering(lambda _: done) as upstream, asking(file, upstream) as (upstreams, provider):
        query = await upstreams.query(provider, "a/b", None, Caller(CallKind.POLL, "app"))
        (lane,) = [lane for _, lane in upstreams.lanes]
        assert lane.opens_in(0.0) > 0
    assert isinstance(query, Query)
    assert targets(upstream) == ["/tasks/a%2Fb", "/files/a%2Fb/7"]
    assert query.reading.result is not None
    assert query.reading.result["text"] == "hello"
    assert ends(query) is State.COMPLETED


@pytest.mark.parametrize(
    ("follow", "why"),
    [
        ('result.url = "u"', "either 'path' or 'url'"),
        ('path = "/a"\nurl = "u"\nresult.url = "u"', "either 'path' or 'url'"),
        ('path = "/a/{b}"\nresult.url = "u"', "'{b}' stands for nothing"),
        ('path = "/a"\nwith = { b = "b" }\nresult.url = "u"', "{b} does not stand in 'path'"),
        ('path = "/a/{b}"\nwith = { b = "[" }\nresult.url = "u"', "not JMESPath"),
        ('path = "/a"\nresult.width = "w"', "needs 'url', 'text' or 'ref'"),
        ('path = "a"\nresult.url = "u"', "must begin with '/'"),
        ('path = "/a"', "is missing"),
        ('path = "/a"\nresult.url = "u"\n[request]\ntimeout = 21', "at most 20"),
    ],
)
def test_a_mistake_is_told(follow: str, why: str, tmp_path: Path) -> None:
    table = 'extends = "base"\n[follow]\n' + follow
    (tmp_path / "base.toml").write_text(FOLLOWING, "utf-8")
    (tmp_path / "example.toml").write_text(table, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_definition(tmp_path / "example.toml", {})
    assert why in caught.value.detail


@pytest.mark.anyio
async def test_in_a_full_lane_the_second_request_goes_before_other_polls(tmp_path: Path) -> None:
    """Else a task whose second request lost its turn would begin anew with the first one, time and again."""
    file = tmp_path / "example.toml"
    file.write_text(f'{FOLLOWING}[follow]\nurl = "next"\nresult.url = "url"\n[budget]\nconcurrency = 1', "utf-8")

    def answer(upstream: Server) -> Said:
        target = targets(upstream)[-1]
        return 200, {"url": FILM} if target.startswith("/results") else {"status": "done", "next": f"/results{target}"}

    async with answering(answer) as upstream, asking(file, upstream) as (upstreams, provider):
        polls = (upstreams.query(provider, f"t{n}", None, Caller(CallKind.POLL, "app")) for n in range(20))
        queries = await asyncio.gather(*polls)
    assert all(isinstance(query, Query) and ends(query) is State.COMPLETED for query in queries)
    asked = targets(upstream)
    behind = [asked.index(f"/results/tasks/t{n}") - asked.index(f"/tasks/t{n}") for n in range(20)]
    assert max(behind) <= 3
