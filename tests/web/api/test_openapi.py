"""The OpenAPI document and the app say the same, and what the app answers is what the document says."""

from __future__ import annotations

import ast
import copy
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from relay.errors import RelayError
from relay.model.event import EventType
from relay.web import site
from relay.web.api.openapi.creates import TAG
from relay.web.api.openapi.samples import KEY
from tests.support.browser import CHROMIUM, browsing
from tests.support.deployment import API_KEY
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.web.callers import Caller

pytestmark = pytest.mark.anyio

AXE = Path(__file__).parents[2] / "vendor/axe-4.14.1.min.js"
Json = dict[str, Any]
METHODS = ("get", "post", "put", "patch", "delete")


async def document(relay: Caller) -> Json:
    async with httpx.AsyncClient(base_url=relay.url, verify=False) as nobody:
        response = await nobody.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    return response.json()


def operations(api: Json) -> Iterator[tuple[str, str, Json]]:
    """Those of the API; health is documented too, and asked without a key. Creates answer what the upstream says."""
    for path, methods in ((path, methods) for path, methods in api["paths"].items() if path.startswith("/v1/")):
        for method, operation in methods.items():
            assert method in METHODS
            if operation["tags"] == [TAG]:
                continue
            yield method.upper(), path, operation


def strict(api: Json) -> Json:
    """The components, with a field that no schema names made an error."""
    components = copy.deepcopy(api["components"])
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return components


def check(api: Json, schema: Json, value: Any) -> None:
    validator = Draft202012Validator(
        {**schema, "components": strict(api)}, format_checker=FormatChecker(formats=["date-time"])
    )
    validator.check_schema(schema)
    errors = [f"{error.json_path}: {error.message}"[:300] for error in validator.iter_errors(value)]
    assert errors == []


def response_of(api: Json, operation: Json, status: int) -> Json:
    """What is documented for an answer, references followed."""
    responses = operation["responses"]
    assert str(status) in responses, f"{operation['operationId']} does not document {status}"
    found: Json = responses[str(status)]
    if "$ref" in found:
        found = api["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return found


# The document


async def test_the_document_is_openapi_3_1(api: Caller) -> None:
    found = await document(api)
    errors = [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()]
    assert errors == []
    assert found["openapi"].startswith("3.1.")
    assert found["servers"] == [{"url": api.relay.settings.public_url}]


async def test_every_route_of_the_api_is_documented_and_nothing_else_is(api: Caller) -> None:
    application = site.build(api.relay.context)._app  # type: ignore[attr-defined]
    routes = {
        (method, route.path)
        for route in application.routes
        if isinstance(route, Route) and route.path.startswith("/v1/")
        for method in route.methods or ()
        if method != "HEAD"
    }
    found = [(method, path) for method, path, _ in operations(await document(api))]
    assert sorted(found) == sorted(routes)


async def test_examples_are_what_the_schemas_say_and_samples_can_be_read(api: Caller) -> None:
    found = await document(api)
    for name, schema in found["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            check(found, {"$ref": f"#/components/schemas/{name}"}, example)
    for method, path, operation in operations(found):
        samples = {sample["label"]: sample["source"] for sample in operation["x-codeSamples"]}
        assert list(samples) == ["curl", "Python", "JavaScript"]
        ast.parse(samples["Python"])
        words = shlex.split(samples["curl"])
        assert words[0] == "curl"
        assert f"Authorization: Bearer {KEY}" in words
        assert "{" not in next(word for word in words if word.startswith("http")), path
        assert ("requestBody" in operation) == ("-d" in words), "a body has an example"
        assert f"method: {json.dumps(method)}" in samples["JavaScript"] or method == "GET"
        (schema, *_) = [
            content["schema"]
            for status, answer in operation["responses"].items()
            if status.startswith("2")
            for content in answer.get("content", {}).values()
        ] or [{}]
        if "$ref" in schema:
            assert found["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["examples"], path


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
async def test_an_operation_can_be_tried_on_the_page(api: Caller) -> None:
    async with browsing() as page:
        await page.goto(f"{api.url}/docs")
        await page.get_by_role("button", name="Authorize").first.click()
        await page.get_by_label("auth-bearer-value").fill(API_KEY)
        await page.get_by_label("Apply credentials").click()
        await page.get_by_role("button", name="Close").last.click()
        operation = page.locator("#operations-Providers-listProviders")
        await operation.locator(".opblock-summary-control").click()
        await operation.get_by_text("JavaScript", exact=True).wait_for()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        await operation.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for()
        await page.get_by_role("link", name="Back to the dashboard").click()
        await page.wait_for_url(f"{api.url}/**")
    # axe is put into the page, which its policy would refuse.
    async with browsing(bypass_csp=True, viewport={"width": 360, "height": 800}) as page:
        await page.goto(f"{api.url}/docs")
        await page.locator(".opblock").first.wait_for()
        await page.add_script_tag(content=AXE.read_text("utf-8"))
        found = (await page.evaluate("axe.run()"))["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


async def test_every_operation_is_described_has_a_name_of_its_own_and_says_what_is_in_its_path(api: Caller) -> None:
    found = await document(api)
    names = Counter(operation["operationId"] for _, _, operation in operations(found))
    assert set(names.values()) == {1}
    tags = {tag["name"] for tag in found["tags"]}
    assert found["security"] == [{"apiKey": []}]
    for _, path, operation in operations(found):
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        assert "security" not in operation
        assert "401" in operation["responses"]
        parameters = {p["name"]: p for p in operation.get("parameters", [])}
        in_path = {name for name, p in parameters.items() if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


async def test_health_is_documented_as_it_answers(api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await document(api)
    others = {path for path in found["paths"] if not path.startswith(("/v1/", "/v2/"))}
    assert others == {"/healthz", "/readyz", "/in/{token}", "/via/{provider}/{path}"}

    async def unwell() -> list[str]:
        return ["the database does not answer"]

    for path, status in (("/healthz", 200), ("/readyz", 200), ("/readyz", 503)):
        if status == 503:
            monkeypatch.setattr(api.relay.context, "unwell", unwell)
        operation = found["paths"][path]["get"]
        assert (operation["security"], operation["tags"]) == ([], ["Health"])
        response = await api.http.get(path, headers={"Authorization": ""})
        assert response.status_code == status
        (content,) = response_of(found, operation, status)["content"].values()
        check(found, {**content["schema"], "additionalProperties": False}, response.json())


async def test_every_problem_that_can_be_answered_is_documented(api: Caller) -> None:
    found = await document(api)
    answered = {kind.status for kind in every(RelayError) if kind.__module__ == "relay.errors"}
    documented = {int(status) for status in found["components"]["responses"]}
    assert documented == answered - {403, 405, 431, 500}  # which belong to a page, to no operation, or to a bug
    for _, _, operation in operations(found):
        assert {"401", "429", "503"} <= set(operation["responses"])
        assert ("requestBody" in operation) == ({"400", "408", "413", "415", "422"} <= set(operation["responses"]))


async def test_documented_parameters_are_those_that_are_taken(api: Caller) -> None:
    """And the values of each are the ones that the document allows."""
    found = await document(api)
    for method, path, operation in operations(found):
        if "{" in path:
            continue
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            fine = schema.get("enum") or [schema.get("maximum", "x")]
            for value in fine if parameter["name"] != "cursor" else []:
                response = await api.http.request(method, path, params={parameter["name"]: value})
                assert response.status_code == 200, (path, parameter["name"], value)
            for value in ("unheard-of", "waiting") if "enum" in schema else ():
                response = await api.http.request(method, path, params={parameter["name"]: value})
                assert response.status_code == 422, (path, parameter["name"], value)
        if method == "GET" and operation.get("parameters"):
            assert (await api.http.get(path, params={"unheard-of": "1"})).status_code == 422


async def test_the_default_providers_creates_are_documented_and_those_of_all_once(api: Caller) -> None:
    found = await document(api)
    submits = api.relay.upstreams["unified-video"].definition.submit
    creates = {path for path, methods in found["paths"].items() if methods.get("post", {}).get("tags") == [TAG]}
    assert creates == {"/via/{provider}/{path}", *(submit.path for submit in submits)}


# Real requests and answers


CONTRACT = {
    "task_id": "sora-2:task_01k6x15vhrff09dkkqjrzwhm60",
    "provider": "unified-video",
    "targets": [
        {"type": "webhook", "url": "https://app.example/hooks/video", "events": ["task.completed", "task.failed"]},
        {"type": "slack", "channel": "#renders"},
        {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T/B/x"},
    ],
    "metadata": {"order": "42"},
    "expires_in": 86400,
    "upstream_key": "sk-x",
}


async def test_the_contracts_example_is_valid_and_accepted_and_a_typo_is_neither(api: Caller) -> None:
    found = await document(api)
    body = {"$ref": "#/components/schemas/WatchIn"}
    check(found, body, CONTRACT)
    assert (await api.post("/v1/watches", CONTRACT)).status_code == 201
    for wrong in ({**CONTRACT, "tasks_id": 1}, {**CONTRACT, "targets": []}, {**CONTRACT, "expires_in": 0}):
        with pytest.raises(AssertionError):
            check(found, body, wrong)
        assert (await api.post("/v1/watches", wrong)).status_code == 422


async def test_what_each_route_answers_is_as_documented(
    relay: Caller, api: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """Every operation with every 2xx that it documents, and the problems that a caller can bring about."""
    found = await document(relay)
    seen: set[tuple[str, str, int]] = set()

    async def call(method: str, path: str, *, on: Caller = relay, at: str = "", **options: Any) -> Any:
        response = await on.http.request(method, at or path, **options)
        operation = found["paths"][path][method.lower()]
        documented = response_of(found, operation, response.status_code)
        for header in documented.get("headers", {}):
            if found["components"]["headers"][header]["required"]:
                assert header in response.headers, (method, path, header)
        if "content" not in documented:
            assert response.content == b""
        else:
            ((media_type, content),) = documented["content"].items()
            assert response.headers["content-type"].partition(";")[0] == media_type
            check(found, content["schema"], response.json() if "json" in media_type else response.text)
        seen.add((method, path, response.status_code))
        return response.json() if response.content.startswith((b"{", b"[")) else response

    receiver.scripts[f"/{name}/gone"] = Answer(b"x" * 20_000, 410)
    upstream.scripts[f"{name}-good"] = [says("processing", progress="50%"), done()]
    upstream.scripts[f"{name}-bad"] = says("failed", error={"code": "moderated", "message": "no"})
    target = {"type": "webhook", "url": f"{receiver.url}/{name}", "headers": {"X-A": "1"}}
    every = {"events": ["task.progress", "task.completed"]}
    targets = [target, {**target, "url": f"{target['url']}/gone"}, {**target, "url": f"{target['url']}/all", **every}]
    body = {"task_id": f"{name}-good", "targets": targets, "metadata": {"x": [1, None, 2**70]}}
    watch = await call("POST", "/v1/watches", json=body)
    await call("POST", "/v1/watches", json={**body, "metadata": {}})
    bad = {"task_id": f"{name}-bad", "targets": [target]}
    batch = await call("POST", "/v1/watches/batch", json={"watches": [bad, bad, {"task_id": 1}, body]})
    assert [item["status"] for item in batch["data"]] == [201, 200, 422, 200]
    await call("POST", "/v1/watches", on=api, json=CONTRACT)
    await call("GET", "/v1/watches", on=api)

    async def settled() -> bool:
        states = Counter(delivery["state"] for delivery in await relay.deliveries())
        return states == {"delivered": 4, "dead": 1}

    await until(settled)
    one = "/v1/watches/{id}"
    for watch_id in (watch["id"], batch["data"][0]["watch"]["id"]):
        await call("GET", one, at=f"/v1/watches/{watch_id}")
    shown = await relay.http.get(f"/v1/watches/{watch['id']}")
    same = {"If-None-Match": shown.headers["etag"], "Prefer": "wait=1"}
    await call("GET", one, at=f"/v1/watches/{watch['id']}", headers=same)
    events = "/v1/watches/{id}/events"
    stream = await call("GET", events, at=f"/v1/watches/{watch['id']}/events")
    last = stream.text.partition("id: ")[2].partition("\n")[0]
    await call("GET", events, at=f"/v1/watches/{watch['id']}/events", headers={"Last-Event-ID": last})
    upstream.scripts[f"{name}-long"] = Answer(b"x" * 17_000_000)
    for task_id in ("good", "unwatched", "long"):
        await call("GET", "/v1/video/query", params={"id": f"{name}-{task_id}"})
    await call("GET", "/v1/watches", params={"limit": 1})
    deliveries = await call("GET", "/v1/deliveries")
    delivery = deliveries["data"][0]["id"]
    await call("GET", "/v1/deliveries/{id}", at=f"/v1/deliveries/{delivery}")
    await call("POST", "/v1/deliveries/{id}/retry", at=f"/v1/deliveries/{delivery}/retry")
    await call("POST", "/v1/deliveries/retry", json={})
    await call("POST", "/v1/targets/test", json=target)
    await call("POST", "/v1/targets/test", json={"type": "webhook", "url": "http://127.0.0.1:9/"})
    await call("GET", "/v1/providers")
    own = {"Relay-Key": relay.key, "Authorization": "Bearer sk-own"}
    await relay.http.post("/v1/video/create", json={}, headers=own)
    created = (await call("GET", "/v1/submissions"))["data"][0]["id"]
    await call("GET", "/v1/submissions/{id}", at=f"/v1/submissions/{created}")
    await call("DELETE", one, at=f"/v1/watches/{watch['id']}")

    for method, path, operation in operations(found):
        at = path.replace("{id}", "wch_unknown")
        if "requestBody" in operation:
            await call(method, path, content=b"{", headers={"Content-Type": "application/json"})
            await call(method, path, content=b"{}", headers={"Content-Type": "text/plain"})
            await call(method, path, json={"unheard-of": 1})
            await call(method, path, content=b" " * 17_000_000, headers={"Content-Type": "application/json"})
        elif "{id}" in path:
            await call(method, path, at=at)
        elif operation.get("parameters"):
            await call(method, path, params={"limit": "0"})
        await call(method, path, at=at, headers={"Authorization": "Bearer rly_unknown"})
    await call("DELETE", one, at=f"/v1/watches/{watch['id']}", params={"erase": "perhaps"})

    documented = {
        (method, path, int(status))
        for method, path, operation in operations(found)
        for status in operation["responses"]
        if status.isdigit()
    }
    # What no caller can bring about at will: an answer of the database's, a race, too much, too slow.
    assert {key for key in documented - seen if key[2] not in (408, 409, 429, 503)} == set()

    for post in [*receiver.to(f"/{name}"), *receiver.to(f"/{name}/gone"), *receiver.to(f"/{name}/all")]:
        operation = found["webhooks"][post.event["type"]]["post"]
        check(found, operation["requestBody"]["content"]["application/json"]["schema"], post.event)
        assert {parameter["name"] for parameter in operation["parameters"]} <= set(post.headers)
    told = {post.event["type"] for post in receiver.posts if name in post.path}
    assert told == {"task.completed", "task.failed", "task.progress", "relay.test"}


async def test_the_webhooks_are_the_events_that_there_are(api: Caller) -> None:
    found = await document(api)
    assert set(found["webhooks"]) == {kind.value for kind in EventType}
    for kind, webhook in found["webhooks"].items():
        body = webhook["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["properties"]["type"] == {"const": kind}
        assert webhook["post"]["security"] == []
    offered = found["components"]["schemas"]["WebhookTarget"]["properties"]["events"]["items"]["enum"]
    assert set(offered) == {kind for kind in found["webhooks"] if kind.startswith("task.")}


# The page


class Page(HTMLParser):
    """The ids, links, styles and scripts of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            elif key in ("href", "src"):
                self.links.append(value or "")
            elif key == "style" or key.startswith("on"):
                self.inline.append(f"{tag} {key}")
        if tag == "style" or (tag == "script" and not (dict(attrs).get("src") or "").startswith("/static/")):
            self.inline.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_shows_every_operation_schema_event_and_error(api: Caller) -> None:
    found = await document(api)
    async with httpx.AsyncClient(base_url=api.url, verify=False) as nobody:
        response = await nobody.get("/docs")
        css = await nobody.get("/docs.css")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (css.status_code, css.headers["content-type"]) == (200, "text/css; charset=utf-8")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    page = Page(response.text)
    assert page.inline == []  # the policy would refuse it
    assert Counter(page.ids).most_common(1)[0][1] == 1
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert {link for link in page.links if not link.startswith(("#", "/static/"))} == {
        "/",
        "/docs.css",
        "/openapi.json",
        "https://www.standardwebhooks.com/",
    }
    for method, path, operation in operations(found):
        assert operation["operationId"] in page.ids
        assert f"{method} {path}" in page.text
        assert operation["description"] in page.text
    assert set(found["components"]["schemas"]) <= set(page.ids)
    assert all(f"task.{end}" in page.text for end in ("completed", "failed", "expired", "lost"))
    assert {kind.code for kind in every(RelayError) if kind.__module__ == "relay.errors"} <= set(page.ids)


def every(kind: type[RelayError]) -> list[type[RelayError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every(child))]
