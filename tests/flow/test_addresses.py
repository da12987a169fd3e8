"""An address per watch, and ids that are addresses (contract §5d), over real HTTP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relay.store import Database, schema
from tests.support.deployment import Deployment, deployment, environment
from tests.support.maker import always, making
from tests.support.parties import Answer, Receiver, Upstream, done

pytestmark = pytest.mark.anyio

HOOK = {"type": "webhook", "url": "https://app.example/hook"}
OPERATION = "gid://shopify/BulkOperation/7"
SANDBOX_HAS_NO_HOSTS = "the address is not within the hosts of 'sandbox'; it must be left out: its file lists no hosts"


async def refused(relay: Deployment, **fields: Any) -> tuple[str, str]:
    """Return where a registration is refused, and why."""
    response = await relay.http.post("/v1/watches", json={"targets": [HOOK], **fields})
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    return error["pointer"], error["detail"]


async def test_an_id_that_is_an_address_is_asked_and_only_where_the_file_allows_it(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    url = f"{upstream.url}/v1/video/query?id=op"
    upstream.scripts["op"] = Answer(b'{"status": "Succeeded", "resourceLocation": "https://cdn.example/7"}')
    environ = environment(database_url, AZURE_LRO_BASE_URL=upstream.url, AZURE_LRO_API_KEY="sk-azure")
    async with deployment(environ) as relay:
        watch = await relay.register(url, f"{receiver.url}/hook", provider="azure-lro")
        (event,) = await receiver.wait_for(1)
        assert event.event["data"]["result"]["url"] == "https://cdn.example/7"
        assert upstream.heads[0][0] == url
        assert upstream.heads[0][1]["ocp-apim-subscription-key"] == "sk-azure"
        assert watch["task_id"] == url
        for elsewhere in (
            "https://evil.example/op",
            "http://127.0.0.1:9/op",
            "https://a.openai.azure.com:8443/op",
            "op",
        ):
            assert (await refused(relay, provider="azure-lro", task_id=elsewhere))[0] == "/task_id"
        monitor = "https://shop.openai.azure.com/operations/7"
        pointer, why = await refused(relay, provider="azure-lro", task_id=monitor)
        assert (pointer, "its own 'upstream_key'" in why) == ("/upstream_key", True)
        await relay.register(monitor, HOOK, provider="azure-lro", upstream_key="sk-mine")


async def test_a_watch_brings_its_address_and_its_key(database_url: str, db: Database) -> None:
    async with deployment(environment(database_url, SHOPIFY_BULK_API_KEY="sk-ours"), working=False) as relay:
        ask = partial(refused, relay, provider="shopify-bulk", task_id=OPERATION)
        pointer, why = await ask()
        assert (pointer, "https://*.myshopify.com, or set SHOPIFY_BULK_BASE_URL" in why) == ("/upstream_base", True)
        assert (await ask(upstream_base="https://evil.example"))[0] == "/upstream_base"
        assert (await ask(upstream_base="https://a.myshopify.com"))[0] == "/upstream_key"
        assert (await ask(upstream_base=7))[0] == "/upstream_base"
        register = partial(relay.register, OPERATION, HOOK, provider="shopify-bulk")
        watch = await register(upstream_base="https://A.myshopify.com/", upstream_key="sk-a")
        assert (await register(upstream_base="https://a.myshopify.com"))["id"] == watch["id"], "it has its key"
        pointer, why = await ask(upstream_base="https://b.myshopify.com", upstream_key="sk-b")
        assert (pointer, "watched at https://a.myshopify.com already" in why) == ("/upstream_base", True)
        elsewhere = {"provider": "sandbox", "task_id": "t", "upstream_base": "https://a.myshopify.com"}
        assert await refused(relay, **elsewhere) == ("/upstream_base", SANDBOX_HAS_NO_HOSTS)
        listed = (await relay.http.get("/v1/providers")).json()["data"]
        assert {one["name"]: one["configured"] for one in listed}["shopify-bulk"]
    bases = db.run_here(lambda tx: tx.execute(sa.select(schema.watches.c.upstream_base)).scalars().all())
    assert bases == ["https://a.myshopify.com"]


async def test_the_configured_address_is_one_of_them(database_url: str, upstream: Upstream, receiver: Receiver) -> None:
    upstream.scripts["b"] = done()
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ) as relay:
        await relay.register("b", f"{receiver.url}/hook", upstream_base=upstream.url, upstream_key="sk-mine")
        assert (await refused(relay, task_id="c", upstream_base="http://127.0.0.1:9"))[0] == "/upstream_base"
        await receiver.wait_for(1)
    assert upstream.heads[0][1]["authorization"] == "Bearer sk-mine"


OPERATIONS = """
hosts = ["*.operations.example"]

[request]
path = "{task_url}"
headers = { x-key = "{key}" }

[[submit]]
path = "/jobs"
task_id = "header:operation-location"

[read]
status = "status"

[statuses]
pending = ["pending"]
completed = ["done"]
"""


async def test_a_create_goes_to_the_address_of_its_provider_alone(database_url: str) -> None:
    async with deployment(environment(database_url, DATABRICKS_RUN_API_KEY="sk-ours"), working=False) as relay:
        answer = await relay.http.post("/via/databricks-run/api/2.2/jobs/run-now", json={"job_id": 7})
        assert answer.status_code == 422
        for remedy in ("set DATABRICKS_RUN_BASE_URL", "register its task with 'upstream_base'"):
            assert remedy in answer.json()["detail"]
        assert (await relay.http.get("/v1/submissions")).json()["data"] == []


async def test_what_a_create_names_is_watched_only_where_it_may_be_asked(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/operations.toml").write_text(OPERATIONS, "utf-8")
    async with making() as maker:
        at_home = f"{maker.url}/v1/videos/7"
        environ = environment(
            database_url,
            RELAY_CONFIG=str(tmp_path),
            RELAY_PROVIDER="operations",
            OPERATIONS_BASE_URL=maker.url,
            OPERATIONS_API_KEY="sk-ours",
        )
        async with deployment(environ, working=False) as relay:
            maker.answer = always({"id": "7"}, operation_location=at_home)
            made = await relay.http.post("/via/operations/jobs", json={})
            assert (await relay.watch(made.headers["relay-watch"]))["task_id"] == at_home
            mirrored = await relay.http.get("/v1/video/query", params={"id": at_home})
            assert mirrored.json() == {"id": "7", "status": "pending"}
            # One is nobody's address, the other anybody's: it gets no key of the deployment's.
            for elsewhere in ("https://evil.example/7", "https://one.operations.example/7"):
                maker.answer = always({"id": "7"}, operation_location=elsewhere)
                made = await relay.http.post("/via/operations/jobs", json={})
                assert (made.status_code, made.headers["operation-location"]) == (200, elsewhere)
                assert made.headers["relay-error"] == "not_registered"
                assert "relay-watch" not in made.headers
                (newest,) = (await relay.http.get("/v1/submissions", params={"limit": 1})).json()["data"]
                assert (newest["state"], newest["task_id"], newest["watch_id"]) == ("created", elsewhere, None)
            assert [made.header("x-key") for made in maker.made] == [["sk-ours"]] * 3
