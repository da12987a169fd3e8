"""Callbacks of upstreams wake the poll, and tasks that take longer than expected are told of once."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from relay.model.experience import figures
from relay.security.path_tokens import masked
from relay.store import experiences
from tests.support import parties
from tests.support.deployment import Deployment, deployment, environment
from tests.support.maker import Maker, always, making
from tests.support.maker import says as maker_says
from tests.support.parties import Answer, done, says, until
from tests.support.processes import CONFIG
from tests.web.conftest import NewDatabase

BASE = "https://relay.example"

anyio = pytest.mark.anyio


@pytest.fixture(scope="module")
async def slow(new_database: NewDatabase, upstream: parties.Upstream) -> AsyncIterator[Deployment]:
    """A relay that asks about nothing for half a minute, unless something wakes it."""
    environ = environment(
        new_database(),
        UNIFIED_VIDEO_BASE_URL=upstream.url,
        RELAY_BASE_URL=BASE,
        RELAY_POLL_INTERVAL="60",
        RELAY_RETRY_SCHEDULE="0s,2s,2s",
    )
    async with deployment(environ) as running:
        yield running


async def asked(upstream: parties.Upstream, task_id: str, count: int) -> None:
    """Waits until the upstream was asked so often about a task."""

    async def enough() -> bool:
        return len(upstream.asked[task_id]) >= count

    await until(enough)


def path_of(watch: dict[str, Any]) -> str:
    url: str = watch["callback_url"]
    assert url.startswith(f"{BASE}/in/{watch['id']}.")
    return url.removeprefix(BASE)


@anyio
async def test_a_callback_wakes_the_poll_and_is_not_believed(
    slow: Deployment, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    upstream.scripts[name] = [says("pending"), done()]
    watch = await slow.register(name, f"{receiver.url}/{name}")
    assert (await slow.http.post(path_of(watch), json={"status": "failed"})).status_code == 200
    await asked(upstream, name, 1)
    assert (await slow.watch(watch["id"]))["state"] == "watching"
    assert (await slow.http.post(path_of(watch), content=b"x" * 200_000)).status_code == 200
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert post.event["type"] == "task.completed"
    answer = await slow.http.post(path_of(watch), json={"challenge": "abc", "more": 1})
    assert (answer.status_code, answer.json()) == (200, {"challenge": "abc"}), "of an ended watch, too"


@anyio
async def test_forged_and_unknown_tokens_are_404_and_ask_nothing(
    slow: Deployment, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    watch = await slow.register(name, f"{receiver.url}/{name}")
    path = path_of(watch)
    other = "/in/wch_01K6X15VHRFF09DKKQJRZWHM60" + path[path.index(".") :]
    for forged in (path[:-1] + ("A" if path[-1] != "A" else "B"), other, "/in/nonsense", f"/in/{watch['id']}"):
        answer = await slow.http.post(forged, content=b"{}")
        assert answer.status_code == 404, forged
        assert answer.json()["code"] == "not_found"
    assert not upstream.asked[name]
    await slow.http.delete(f"/v1/watches/{watch['id']}?erase=true")
    assert (await slow.http.post(path)).status_code == 404


@anyio
async def test_a_flood_of_callbacks_causes_one_query_a_second(
    slow: Deployment, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    watch = await slow.register(name, f"{receiver.url}/{name}")
    ends = time.monotonic() + 2.5
    while time.monotonic() < ends:
        answers = await asyncio.gather(*(slow.http.post(path_of(watch), content=b"news") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
    await asked(upstream, name, 3)
    upstream.scripts[name] = done()
    await slow.http.post(path_of(watch))
    await receiver.wait_for(1, f"/{name}")
    assert all(after - before > 0.9 for before, after in pairwise(upstream.asked[name]))


@anyio
async def test_a_late_task_is_told_of_once(
    slow: Deployment, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    events = ["task.late", "task.completed"]
    target = {"type": "webhook", "url": f"{receiver.url}/{name}", "events": events}
    watch = await slow.register(name, target, late_after=1)
    (late,) = await receiver.wait_for(1, f"/{name}")
    assert late.event["type"] == "task.late"
    assert late.event["data"]["state"] == "watching"
    for count in (2, 3):
        await slow.http.post(path_of(watch))
        await asked(upstream, name, count)
    upstream.scripts[name] = done()
    await slow.http.post(path_of(watch))
    posts = await receiver.wait_for(2, f"/{name}")
    assert [post.event["type"] for post in posts] == events


@anyio
async def test_that_a_task_is_late_is_not_said_again_once_it_has_ended(
    slow: Deployment, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = [Answer(b"later", 503), Answer(b"ok")]
    target = {"type": "webhook", "url": f"{receiver.url}/{name}", "events": ["task.late", "task.completed"]}
    watch = await slow.register(name, target, late_after=1)
    await receiver.wait_for(1, f"/{name}")
    upstream.scripts[name] = done()
    await slow.http.post(path_of(watch))
    await receiver.wait_for(2, f"/{name}")

    async def over() -> bool:
        found = await slow.deliveries(watch_id=watch["id"])
        return sorted(one["state"] for one in found) == ["dead", "delivered"]

    await until(over)
    assert [post.event["type"] for post in receiver.to(f"/{name}")] == ["task.late", "task.completed"]


@anyio
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "p90", "600", 10**9, [], {}])
async def test_late_after_is_seconds_or_p95(slow: Deployment, name: str, wrong: object) -> None:
    target = {"type": "webhook", "url": "http://127.0.0.1:9/x"}
    body = {"task_id": name, "targets": [target], "late_after": wrong}
    answer = await slow.http.post("/v1/watches", json=body)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/late_after"]


@anyio
async def test_p95_says_nothing_while_too_little_is_known(
    slow: Deployment, receiver: parties.Receiver, name: str
) -> None:
    watch = await slow.register(name, f"{receiver.url}/{name}", late_after="p95")
    assert watch["state"] == "watching"


# In the create call itself


CREATE = "/v1/video/create"


def config_in(folder: Path) -> str:
    """Makes a configuration whose provider says `callback_forward`."""
    file = (Path(CONFIG) / "providers/unified-video.toml").read_text("utf-8")
    text = re.sub(r"^callback = .*$", 'callback = ["notify_hook"]\ncallback_forward = "callback_url"', file, flags=re.M)
    (folder / "providers").mkdir()
    (folder / "providers/unified-video.toml").write_text(text)
    shutil.copy(Path(CONFIG) / "providers/sandbox.toml", folder / "providers")
    return str(folder)


@pytest.fixture(scope="module")
async def forwarding(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Deployment, Maker]]:
    """A relay whose provider is told in each create call to call relay."""
    async with making() as maker:
        environ = environment(
            new_database(),
            UNIFIED_VIDEO_BASE_URL=maker.url,
            RELAY_BASE_URL=BASE,
            RELAY_CONFIG=config_in(tmp_path_factory.mktemp("config")),
            RELAY_POLL_INTERVAL="60",
        )
        async with deployment(environ) as relay:
            yield relay, maker


@anyio
async def test_a_create_call_carries_the_callback_of_its_watch(
    forwarding: tuple[Deployment, Maker], receiver: parties.Receiver, name: str
) -> None:
    relay, maker = forwarding
    maker.answer = always({"id": name, "status": "pending"})
    maker.found = lambda task_id: {"id": task_id, "status": "completed", "video_url": "https://cdn.example/a.mp4"}
    body = {"model": "m", "callback_url": f"{receiver.url}/{name}", "notify_hook": f"{receiver.url}/{name}-2"}
    answer = await relay.http.post(CREATE, json=body)
    watch = await relay.watch(answer.headers["relay-watch"])
    assert json.loads(maker.made[-1].body) == {"model": "m", "callback_url": watch["callback_url"]}
    assert watch["state"] == "watching"
    assert (await relay.http.post(path_of(watch), json={"status": "anything"})).status_code == 200
    for path in (f"/{name}", f"/{name}-2"):  # the caller's own callbacks are its targets
        (post,) = await receiver.wait_for(1, path)
        assert post.event["type"] == "task.completed"


@anyio
async def test_the_callback_of_a_create_call_wakes_the_watch_that_was_there_before(
    forwarding: tuple[Deployment, Maker], receiver: parties.Receiver, name: str
) -> None:
    relay, maker = forwarding
    maker.answer = always({"id": name, "status": "pending"})
    maker.found = lambda task_id: {"id": task_id, "status": "completed", "video_url": "https://cdn.example/a.mp4"}
    before = await relay.register(name, f"{receiver.url}/{name}")
    answer = await relay.http.post(CREATE, json={"model": "m"})
    assert answer.headers["relay-watch"] == before["id"]
    url = json.loads(maker.made[-1].body)["callback_url"]
    assert url != before["callback_url"]
    assert (await relay.http.post(url.removeprefix(BASE))).status_code == 200
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert post.event["type"] == "task.completed"
    await relay.http.delete(f"/v1/watches/{before['id']}?erase=true")

    async def unknown() -> bool:  # callbacks of the same second are answered without a look
        return (await relay.http.post(url.removeprefix(BASE))).status_code == 404

    await until(unknown)


@anyio
async def test_a_callback_that_is_there_before_the_answer_to_the_create_is_no_error(
    forwarding: tuple[Deployment, Maker], name: str
) -> None:
    relay, maker = forwarding
    said: list[int] = []

    async def answer(_: int) -> Response:
        url = json.loads(maker.made[-1].body)["callback_url"]
        said.append((await relay.http.post(url.removeprefix(BASE))).status_code)
        return maker_says({"id": name, "status": "pending"})

    maker.answer = answer
    assert (await relay.http.post(CREATE, json={"model": "m"})).status_code == 200
    assert said == [200]


# From the file's cadence to what was learned


@anyio
async def test_what_has_ended_says_when_the_next_task_is_late_and_how_long_it_takes(
    new_database: NewDatabase, receiver: parties.Receiver, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.learned.FRESH", 0.0)
    environ = environment(new_database())
    del environ["RELAY_POLL_INTERVAL"]
    async with deployment(environ) as relay:
        target = {"type": "webhook", "url": f"{receiver.url}/{name}"}
        for number in range(25):
            await relay.register(f"sandbox:complete-in-3s#{number}", target, provider="sandbox")
        await receiver.wait_for(25, f"/{name}")
        late = {"type": "webhook", "url": f"{receiver.url}/{name}-late", "events": ["task.late", "task.completed"]}
        watch = await relay.register("sandbox:complete-in-9s#late", late, provider="sandbox", late_after="p95")
        posts = await receiver.wait_for(2, f"/{name}-late")
        assert [post.event["type"] for post in posts] == ["task.late", "task.completed"]
        assert 2 < posts[0].at - posts[1].at + 9 < 7, "about when 95 % of such tasks have ended"
        (known,) = relay.relay.db.run_here(experiences.of_provider, "sandbox")
        assert known.count >= 20
        assert figures(known) is not None
        assert (await relay.watch(watch["id"]))["state"] == "completed"


def test_logs_do_not_show_the_tokens() -> None:
    assert masked("/in/wch_1.secret") == "/in/********"
    assert masked("/inbox/app_1.secret") == "/inbox/********"
    assert masked("/v1/watches") == "/v1/watches"
