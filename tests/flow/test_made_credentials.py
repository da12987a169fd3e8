"""Providers whose key is not sent as it is, from a registration to the end."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import jwt
import pytest
from starlette.responses import Response

from tests.support.deployment import API_KEY, SECRET, deployment, environment
from tests.support.parties import Receiver, until
from tests.support.tokens import upstream

pytestmark = pytest.mark.anyio

KEY = "client-of-relay:secret-of-relay"
OWN = "client-of-the-app:secret-of-the-app"


async def until_true(reached: Callable[[], bool]) -> None:
    async def looked() -> bool:
        return reached()

    await until(looked)


async def test_one_token_serves_all_polls_and_a_watch_may_bring_a_key_of_its_own(
    database_url: str, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    async with upstream() as api:
        api.answers = b'{"jobId": 1, "status": "running"}'
        environ = environment(database_url, AIRBYTE_JOB_BASE_URL=api.url, AIRBYTE_JOB_API_KEY=KEY)
        async with deployment(environ) as relay:
            hook = f"{receiver.url}/hook"
            for task in range(5):
                await relay.register(str(task), hook, provider="airbyte-job")
            await until_true(lambda: len(api.queries) >= 100)
            assert len(api.asked) == 1
            await relay.register("own", hook, provider="airbyte-job", upstream_key=OWN)
            await until_true(lambda: len(set(api.tokens)) == 2)
            assert len(api.asked) == 2
            api.valid.clear()  # all are revoked
            before = len(api.queries)
            await until_true(lambda: len(api.queries) >= before + 100)
            assert len(api.asked) == 4
            you = [*KEY.split(":"), *OWN.split(":"), *api.valid]
            api.answers = ('{"jobId": 1, "status": "succeeded", "you": "' + " ".join(you) + '"}').encode()
            posts = await receiver.wait_for(6)
            receiver.verify(SECRET)
            wrong = {"task_id": "x", "provider": "airbyte-job", "targets": [{"type": "webhook", "url": hook}]}
            refused = await relay.http.post("/v1/watches", json={**wrong, "upstream_key": "sk-not-a-record"})
    assert {post.event["type"] for post in posts} == {"task.completed"}
    own = b"".join(post.body for post in posts if post.event["data"]["task_id"] == "own")
    others = b"".join(post.body for post in posts if post.event["data"]["task_id"] != "own")
    logged = "".join(capfd.readouterr())
    for secret in KEY.split(":"):
        assert secret.encode() not in others
        assert secret not in logged
    for secret in OWN.split(":"):
        assert secret.encode() not in own
        assert secret not in logged
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "/upstream_key"
    assert error["detail"].startswith("must be CLIENT_ID:CLIENT_SECRET")
    assert "sk-not-a-record" not in refused.text


async def test_an_endpoint_that_gives_no_token_leaves_the_watch_under_way_and_says_why(
    database_url: str, receiver: Receiver
) -> None:
    async with upstream() as api:
        api.gives = lambda _: Response(b'{"error": "invalid_client", "error_description": "Unknown client"}', 401)
        environ = environment(database_url, AIRBYTE_JOB_BASE_URL=api.url, AIRBYTE_JOB_API_KEY=KEY)
        async with deployment(environ) as relay:
            registered = await relay.register("1", f"{receiver.url}/hook", provider="airbyte-job")

            async def refused() -> bool:
                return (await relay.watch(registered["id"]))["polls"] >= 2

            await until(refused)
            watch = await relay.watch(registered["id"])
            assert watch["state"] == "watching"
            assert not api.queries
            api.gives = api.give
            api.answers = b'{"jobId": 1, "status": "succeeded"}'
            await receiver.wait_for(1)


async def test_kling_is_asked_with_a_token_that_it_can_verify(database_url: str, receiver: Receiver) -> None:
    secret_key = "the-secret-key-of-relay-at-kling"
    async with upstream() as api:
        api.lets_in = lambda token: jwt.decode(token, secret_key, ["HS256"])["exp"] > time.time()
        api.answers = b'{"code": 0, "data": {"task_status": "succeed", "task_result": {"videos": [{"url": "https://c.example/v"}]}}}'
        environ = environment(database_url, KLING_BASE_URL=api.url, KLING_API_KEY=f"my-access-key:{secret_key}")
        async with deployment(environ) as relay:
            await relay.register("text2video/7", f"{receiver.url}/hook", provider="kling")
            (post,) = await receiver.wait_for(1)
    assert post.event["data"]["result"]["url"] == "https://c.example/v"
    assert api.queries[0].url.path == "/v1/videos/text2video/7"


async def test_a_create_that_is_refused_is_not_repeated_and_the_next_one_has_another_token(database_url: str) -> None:
    async with upstream() as api:
        api.answers = b'{"jobId": 1, "status": "running"}'
        environ = environment(database_url, AIRBYTE_JOB_BASE_URL=api.url, AIRBYTE_JOB_API_KEY=KEY)
        async with deployment(environ, working=False) as relay:

            async def create() -> int:
                return (await relay.http.post("/via/airbyte-job/v1/jobs", json={"jobType": "sync"})).status_code

            assert await create() == 200
            api.valid.clear()  # it is revoked
            assert await create() == 401
            assert (len(api.queries), len(api.asked)) == (2, 1), "it was sent once"
            assert await create() == 200
            assert (len(api.queries), len(api.asked)) == (3, 2)
            api.lets_in = lambda _: False
            for _ in range(5):
                assert await create() == 401
            assert len(api.asked) <= 3, "an upstream that refuses all tokens is not asked for one with each create"
            secrets = [*KEY.split(":"), *api.tokens]
            api.lets_in = lambda _: True
            api.answers = b'{"jobId": 2, "you": "%b"}' % " ".join(secrets).encode()
            answer = await relay.http.post("/via/airbyte-job/v1/jobs", json={})
            assert answer.json()["jobId"] == 2
            assert not [secret for secret in (*KEY.split(":"), api.tokens[-1]) if secret in answer.text]


async def test_who_asks_the_mirror_with_a_key_of_its_own_gives_the_key_and_not_what_is_made_of_it(
    database_url: str,
) -> None:
    async with upstream() as api:
        api.answers = b'{"jobId": 7, "status": "running"}'
        environ = environment(database_url, AIRBYTE_JOB_BASE_URL=api.url, AIRBYTE_JOB_API_KEY=KEY)
        async with deployment(environ, working=False) as relay:

            async def ask(credential: str) -> httpx.Response:
                headers = {"Relay-Key": API_KEY, "Authorization": f"Bearer {credential}"}
                return await relay.http.get("/via/airbyte-job/v1/jobs/7", headers=headers)

            refused = await ask("a-token-that-it-has-made-itself")
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
            assert "CLIENT_ID:CLIENT_SECRET" in refused.json()["detail"]
            assert "a-token" not in refused.text
            assert (api.asked, api.queries) == ([], [])
            assert (await ask(OWN)).json() == {"jobId": 7, "status": "running"}
            assert OWN.partition(":")[0].encode() in api.asked[0]
