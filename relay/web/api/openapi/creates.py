"""What the document says of a provider's own calls: once for all of `/via/{provider}`, and the default one's own."""

from __future__ import annotations

import re
from collections import defaultdict

from relay.providers.definition import Definition
from relay.web.api.openapi.spec import LIMITED, JsonObject, errors, header, headers_of, json_of, query

TAG = "Submit and watch"

_HEADERS = (
    header("Idempotency-Key", "Makes the call safe to repeat: one key is one call, for ever if it is not known."),
    header("Relay-Key", "An API key of relay's, where `Authorization` holds the caller's own key for the upstream."),
    header("Relay-Webhook", "A URL to tell of the end; may stand several times."),
    header("Relay-Slack", "A Slack channel to tell of the end; may stand several times."),
    header("Relay-Events", "What they want to hear, `task.completed,task.failed`; every end, if left out."),
    header("Relay-Metadata", "A JSON object that comes back in every event; at most 4 KiB."),
    header("Relay-Expires-In", "Seconds until relay stops watching."),
    query("relay_webhook", "What `Relay-Webhook` says, for tools that cannot set headers.", type="string"),
    query("relay_slack", "What `Relay-Slack` says, likewise.", type="string"),
)

_CREATE = (
    "The call goes to the upstream, once, and its own answer comes back: status, headers and body. What it creates is "
    "watched before the caller has the answer: `Relay-Watch` names the watch. A callback that the body names is taken "
    "out, and relay tells it of the end itself, signed. Where nobody knows whether the upstream took the call, the "
    "answer has `x-should-retry: false`, and GET /v1/submissions?state=unknown lists it."
)


def own_paths(definition: Definition | None) -> JsonObject:
    """Return the paths of the document.

    Args:
        definition: of the default provider, whose calls stand at the root too; None where there is none.
    """
    paths: defaultdict[str, JsonObject] = defaultdict(dict)
    where = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": text}
        for name, text in (("provider", "The provider's name."), ("path", "The path, as the upstream has it."))
    ]
    via = "/via/{provider}/{path}"
    paths[via]["post"] = _create("createVia", "Create a task at any provider", where)
    paths[via]["get"] = _query("queryVia", "The query of any provider, mirrored", where)
    for submit in definition.submit if definition else ():
        names = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in submit.path_names
        ]
        words = re.findall(r"\w+", submit.path)
        operation = _create("create" + "".join(map(str.title, words)), f"Create a task: {submit.path}", names)
        paths[submit.path][submit.method.lower()] = operation
    return dict(paths)


def _create(name: str, summary: str, where: list[JsonObject]) -> JsonObject:
    answer = {
        "description": "What the upstream said.",
        "headers": headers_of(*LIMITED, "Relay-Watch", "Relay-Error", "Idempotent-Replayed", "X-Should-Retry"),
        "content": {"*/*": {"schema": {}}},
    }
    return {
        "tags": [TAG],
        "operationId": name,
        "summary": summary,
        "description": _CREATE,
        "parameters": [*where, *_HEADERS],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {}} for kind in ("application/json", "multipart/form-data", "*/*")},
        },
        "responses": {"2XX": answer, **_or_the_upstreams(400, 401, 404, 408, 409, 413, 422, 429, 502, 503, 504)},
    }


def _or_the_upstreams(*statuses: int) -> JsonObject:
    """Return errors of relay's own, in whose place one of the upstream may stand as it came."""
    said = {"description": "A problem of relay's own, or what the upstream said.", "content": {"*/*": {"schema": {}}}}
    return {**dict.fromkeys(map(str, statuses), said), "default": said}


def _query(name: str, summary: str, where: list[JsonObject]) -> JsonObject:
    return {
        "tags": [TAG],
        "operationId": name,
        "summary": summary,
        "description": "As GET /v1/video/query, under the path, and with the method, that the provider's file has.",
        "parameters": where,
        "responses": {
            "200": {
                "description": "What the upstream said.",
                "headers": headers_of(*LIMITED, "Age", "Relay-Watch"),
                "content": json_of({}),
            },
            "default": {"description": "An error of the upstream, as it came."},
            **errors(401, 404, 422, 429, 502, 503),
        },
    }
