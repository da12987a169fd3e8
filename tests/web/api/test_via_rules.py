"""Rules of creates beside the way through: where keys stand, other methods, ids in headers, quotas, size, sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response

from relay.providers import creating
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.maker import Maker, always, making
from tests.support.parties import until
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"
OWN = """
title = "Own"

[request]
path = "/jobs/{task_id}"
headers = { X-Api-Key = "{key}", X-Version = "2" }

[[submit]]
method = "PUT"
path = "/{model}/jobs"
task_id = ["header:Operation-Location", "{model}-{job.id}"]
refused_http = [503]

[read]
status = "status"

[statuses]
completed = ["done"]
failed = ["error"]
"""


@asynccontextmanager
async def creating_at(new_database: NewDatabase, **variables: str) -> AsyncIterator[tuple[Deployment, Maker]]:
    async with making() as maker:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=maker.url, **variables)
        if "RELAY_CONFIG" in variables:
            environ |= {"OWN_BASE_URL": f"{maker.url}/base", "OWN_API_KEY": "sk+own/", "RELAY_PROVIDER": "own"}
        async with deployment(environ, working=False) as relay:
            yield relay, maker


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A configuration with one provider."""
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/own.toml").write_text(OWN)
    return str(tmp_path)


async def test_the_key_stands_in_every_place_that_the_file_has_and_no_other_copy_passes(
    new_database: NewDatabase, folder: str
) -> None:
    async with creating_at(new_database, RELAY_CONFIG=folder) as (relay, maker):
        maker.answer = always({"job": {"id": 7}})
        theirs = {"X-Api-Key": "theirs", "X_API_KEY": "theirs", "X-Other": "1"}
        answer = await relay.http.put("/veo%2D3/jobs?a=1", content=b"{}", headers=theirs)
        assert (await relay.watch(answer.headers["relay-watch"]))["task_id"] == "veo-3-7"
        (made,) = maker.made
        assert (made.method, made.target) == ("PUT", "/base/veo%2D3/jobs?a=1")
        assert made.header("x-api-key") == ["sk+own/"]
        assert made.header("authorization") == made.header("x_api_key") == []
        async with httpx.AsyncClient(base_url=relay.url, verify=False) as own:
            keys = {"Relay-Key": API_KEY, "X-Api-Key": "mine"}
            answer = await own.put("/via/own/veo/jobs", content=b"{}", headers=keys)
        assert answer.status_code == 200
        assert (maker.made[-1].target, maker.made[-1].header("x-api-key")) == ("/base/veo/jobs", ["mine"])
        refused = await relay.http.put("/veo/jobs", content=b"{}", headers={"Relay-Key": API_KEY})
        assert refused.status_code == 422
        assert "'X-Api-Key'" in refused.json()["detail"]
        assert (await relay.http.post("/veo/jobs", content=b"{}")).headers["allow"] == "PUT"
        assert len(maker.made) == 2


async def test_an_id_in_a_header_is_the_id_and_holds_no_key(new_database: NewDatabase, folder: str) -> None:
    async with creating_at(new_database, RELAY_CONFIG=folder) as (relay, maker):
        where = [f"{maker.url}/base/jobs/a-7?v=1", "https://elsewhere.example/op/8?token=sk%2Bown%2F"]

        async def answer(number: int) -> Response:
            return Response(b"", 202, {"Operation-Location": where[number - 1]})

        maker.answer = answer
        answers = [await relay.http.put("/veo/jobs", content=b"{}") for _ in where]
        tasks = [(await relay.watch(one.headers["relay-watch"]))["task_id"] for one in answers]
        assert tasks[0] == "a-7"
        assert "sk%2Bown" not in tasks[1]
        assert "sk%2Bown" not in answers[1].headers["operation-location"]


async def test_a_status_that_the_file_calls_a_refusal_is_one(new_database: NewDatabase, folder: str) -> None:
    async with creating_at(new_database, RELAY_CONFIG=folder) as (relay, maker):
        maker.answer = always({}, 503)
        for _ in range(2):
            answer = await relay.http.put("/veo/jobs", content=b"{}", headers={"Idempotency-Key": "k"})
            assert (answer.status_code, "x-should-retry" in answer.headers) == (503, False)
        assert len(maker.made) == 2


async def test_what_is_watched_already_is_that_watch_with_more_targets(new_database: NewDatabase) -> None:
    async with creating_at(new_database) as (relay, maker):
        hook = "https://127.0.0.1/"
        first = await relay.register("task_1", f"{hook}a", metadata={"order": "1"}, expires_in=3600)
        headers = {"Relay-Webhook": f"{hook}b", "Relay-Metadata": '{"order": "2"}', "Relay-Expires-In": "60"}
        answer = await relay.http.post(PATH, json={}, headers=headers)
        assert (answer.status_code, answer.headers["relay-watch"]) == (200, first["id"])
        watch = await relay.watch(first["id"])
        assert [target["url"] for target in watch["targets"]] == [f"{hook}a", f"{hook}b"]
        assert (watch["metadata"], watch["expires_at"]) == ({"order": "1"}, first["expires_at"])
        (row,) = (await relay.http.get("/v1/submissions")).json()["data"]
        assert (row["state"], row["watch_id"]) == ("created", first["id"])
        assert len(maker.made) == 1


async def test_who_has_no_room_for_another_watch_sends_nothing(new_database: NewDatabase) -> None:
    async with creating_at(new_database, RELAY_MAX_WATCHES="1") as (relay, maker):
        assert (await relay.http.post(PATH, json={}, headers={"Idempotency-Key": "k"})).status_code == 200
        answer = await relay.http.post(PATH, json={})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_watches")
        again = await relay.http.post(PATH, json={}, headers={"Idempotency-Key": "k"})
        assert again.headers["idempotent-replayed"] == "true", "before any other check"
        assert len(maker.made) == 1


async def test_an_answer_that_is_larger_than_relay_reads_is_unknown(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert creating.MAX_ANSWER == 16 * 1024 * 1024
    monkeypatch.setattr(creating, "MAX_ANSWER", 100_000)
    async with creating_at(new_database) as (relay, maker):
        maker.answer = always({"id": "x", "data": "x" * 200_000})
        answer = await relay.http.post(PATH, json={}, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (502, "submission_unknown")
        (row,) = (await relay.http.get("/v1/submissions", params={"state": "unknown"})).json()["data"]
        assert (row["state"], row["status"]) == ("unknown", 200)


async def test_the_sandbox_takes_creates_and_the_mirror_and_the_list_know_them(new_database: NewDatabase) -> None:
    async with creating_at(new_database) as (relay, _):
        ids = []
        for number in range(3):
            task = {"model": "m", "prompt": str(number), "sandbox": "complete-in-0s"}
            answer = await relay.http.post(f"/via/sandbox{PATH}", json=task)
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["id"])
        assert len(set(ids)) == 3

        async def mirrored() -> bool:
            found = await relay.http.get("/via/sandbox/v1/video/query", params={"id": ids[0]})
            return found.json()["status"] == "completed" and found.headers["relay-watch"].startswith("wch_")

        await until(mirrored)
        page = (await relay.http.get("/v1/submissions", params={"limit": 2, "state": "created"})).json()
        rest = (await relay.http.get("/v1/submissions", params={"limit": 2, "cursor": page["next_cursor"]})).json()
        assert [row["task_id"] for row in (*page["data"], *rest["data"])] == ids[::-1]
        assert rest["next_cursor"] is None
        assert (await relay.http.get("/v1/submissions/sub_unheard")).status_code == 404
        assert (await relay.http.get("/v1/submissions", params={"state": "lost"})).status_code == 422
