"""What each route takes and answers: the paths of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.web.live import MAX_WAIT
from relay.web.params import DEFAULT_LIMIT, MAX_LIMIT
from relay.web.schemas import PRINTABLE

Json = dict[str, Any]


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


HEADERS = {
    "Age": "Seconds since the upstream last said so.",
    "ETag": "Names the watch as it is shown here, but for what every poll changes.",
    "Preference-Applied": "`wait=N`: for how many seconds the answer could have been held back.",
    "Relay-Watch": "The watch of this task.",
    "Location": "Of the watch.",
    "RateLimit": "What is left of the key's requests, and in how many seconds it has all of them again.",
    "RateLimit-Policy": "How many requests a key may make in how many seconds.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "`Bearer`.",
    "X-Request-ID": "Names this request in the log.",
}
SOMETIMES = ("Preference-Applied", "Relay-Watch")
LIMITED = ("RateLimit", "RateLimit-Policy", "X-Request-ID")


def headers_of(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _answer(description: str, name: str, *headers: str) -> Json:
    return {"description": description, "headers": headers_of(*LIMITED, *headers), "content": json_of(ref(name))}


def _links(path: str, *operations: str) -> Json:
    """Where the id in an answer leads."""
    return {
        "links": {name: {"operationId": name, "parameters": {"id": f"$response.body#{path}"}} for name in operations}
    }


def _query(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _header(name: str, description: str) -> Json:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _id(prefix: str) -> Json:
    schema = {"type": "string", "examples": [f"{prefix}_01K6X15VHRFF09DKKQJRZWHM60"]}
    return {"name": "id", "in": "path", "required": True, "schema": schema}


_NO_NUL = r"^[^\x00]*$"


def _page(prefix: str) -> tuple[Json, ...]:
    pattern = rf"^{prefix}_[0-9A-Z]{{26}}$"
    return (
        _query("cursor", "The `next_cursor` of the page before.", type="string", pattern=pattern),
        _query("limit", "How many.", type="integer", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT),
    )


def _operation(
    tag: str,
    operation_id: str,
    summary: str,
    description: str,
    answers: Json,
    problems: Sequence[int],
    parameters: Sequence[Json] = (),
    body: Json | None = None,
) -> Json:
    operation: Json = {
        "tags": [tag],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "responses": answers
        | {str(status): {"$ref": f"#/components/responses/{status}"} for status in (*problems, 401, 429, 503)},
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": json_of(body)}
    return operation


_TARGET = {
    "oneOf": [ref("WebhookTarget"), ref("SlackTarget")],
    "discriminator": {
        "propertyName": "type",
        "mapping": {
            "webhook": "#/components/schemas/WebhookTarget",
            "slack": "#/components/schemas/SlackTarget",
        },
    },
}
_BODY = (400, 408, 413, 415, 422)


def paths() -> Json:
    states = ["watching", "completed", "failed", "expired", "lost", "cancelled"]
    return {
        "/v1/watches": {
            "post": _operation(
                "Watches",
                "registerWatch",
                "Watch a task",
                "Registers a task and where to tell its end. A 2xx is a promise, made after the commit, that every "
                "target will hear it. The same task registered again by the same app is the same watch: new targets "
                "are added (told at once if the task has already ended), one whose `delivery` is `dead` is open again "
                "(sent again now if the task has ended, under the same `webhook-id`), an `upstream_key` replaces the "
                "one before, and `metadata` and the deadline stay as they are. A watch that was stopped makes room for "
                "a new one.",
                {
                    "201": _answer("A new watch.", "WatchOut", "Location") | _links("/id", "readWatch", "stopWatch"),
                    "200": _answer("The watch that was there, with the new targets added.", "WatchOut"),
                },
                _BODY,
                body=ref("WatchIn"),
            ),
            "get": _operation(
                "Watches",
                "listWatches",
                "List watches",
                "The app's watches, newest first.",
                {"200": _answer("A page.", "WatchPage")},
                (422,),
                (
                    _query("state", "Only in this state.", type="string", enum=states),
                    _query("provider", "Only of this provider.", type="string", pattern=_NO_NUL),
                    _query("task_id", "Only of this task.", type="string", pattern=_NO_NUL),
                    *_page("wch"),
                ),
            ),
        },
        "/v1/watches/batch": {
            "post": _operation(
                "Watches",
                "registerWatches",
                "Watch many tasks",
                "Up to 1,000 registrations in one transaction. Each is judged by itself and answered in order; good "
                "ones are kept although others are refused, such as a watch too many (429).",
                {"200": _answer("One item per registration, in order.", "BatchOut")},
                _BODY,
                body=ref("BatchIn"),
            )
        },
        "/v1/watches/{id}": {
            "get": _operation(
                "Watches",
                "readWatch",
                "Read a watch",
                "The watch as it stands; with `Prefer: wait`, as soon as it is no longer what it was. Its `ETag` is "
                "weak: it leaves out `polls`, `last_poll_at`, `next_poll_at` and `estimated_end`.",
                {
                    "200": _answer("The watch.", "WatchOut", "ETag", "Preference-Applied"),
                    "304": {
                        "description": "It still is what `If-None-Match` names.",
                        "headers": headers_of(*LIMITED, "ETag", "Preference-Applied"),
                    },
                },
                (404,),
                (
                    _id("wch"),
                    _header(
                        "Prefer",
                        f"`wait=N` holds the answer for up to N seconds (at most {MAX_WAIT}) until the watch is no "
                        "longer what `If-None-Match` names, or without that, what it is now.",
                    ),
                    _header("If-None-Match", "The `ETag` of what you have."),
                ),
            ),
            "delete": _operation(
                "Watches",
                "stopWatch",
                "Stop watching",
                "The watch becomes `cancelled` and tells nobody; one that has ended stays as it is.",
                {"204": {"description": "Stopped.", "headers": headers_of(*LIMITED)}},
                (404, 422),
                (
                    _id("wch"),
                    _query(
                        "erase",
                        "Also removes everything stored about the task, undelivered events too.",
                        type="boolean",
                    ),
                ),
            ),
        },
        "/v1/watches/{id}/events": {
            "get": _operation(
                "Watches",
                "followWatch",
                "Follow a watch",
                "Server-sent events, each with the watch as its data: `progress` at once and whenever something new "
                "was read, then the end (`task.completed`, `task.failed`, `task.expired`, `task.lost` or "
                "`task.cancelled`), with which the stream closes. A comment comes at once and whenever 15 s pass in "
                "silence; after an hour the stream closes in any case. Who comes back with `Last-Event-ID` hears what "
                "is newer.",
                {
                    "200": {
                        "description": "The stream.",
                        "headers": headers_of(*LIMITED),
                        "content": {
                            "text/event-stream": {"schema": {"description": "`id`, `event`, and the watch as `data`."}}
                        },
                    },
                    "204": {
                        "description": "The end was the last event that you heard.",
                        "headers": headers_of(*LIMITED),
                    },
                },
                (404,),
                (_id("wch"), _header("Last-Event-ID", "The `id` of the last event that you heard.")),
            )
        },
        "/v1/deliveries": {
            "get": _operation(
                "Deliveries",
                "listDeliveries",
                "List deliveries",
                "The outbox: every event on its way to every target, newest first, with its attempts.",
                {"200": _answer("A page.", "DeliveryPage") | _links("/data/0/id", "readDelivery", "retryDelivery")},
                (422,),
                (
                    _query(
                        "state", "Only in this state.", type="string", enum=["pending", "held", "delivered", "dead"]
                    ),
                    _query("watch_id", "Only of this watch.", type="string", pattern=_NO_NUL),
                    *_page("dlv"),
                ),
            )
        },
        "/v1/deliveries/{id}": {
            "get": _operation(
                "Deliveries",
                "readDelivery",
                "Read a delivery",
                "The delivery with its attempts.",
                {"200": _answer("The delivery.", "DeliveryOut")},
                (404,),
                (_id("dlv"),),
            )
        },
        "/v1/deliveries/{id}/retry": {
            "post": _operation(
                "Deliveries",
                "retryDelivery",
                "Send again",
                "Sends the delivery again now, with the same `webhook-id` and a fresh schedule.",
                {"202": _answer("It is on its way.", "DeliveryOut")},
                (404, 409),
                (_id("dlv"),),
            )
        },
        "/v1/deliveries/retry": {
            "post": _operation(
                "Deliveries",
                "retryDeliveries",
                "Send many again",
                "For after a receiver's outage: sends again every delivery in a state, by default the dead ones.",
                {"202": _answer("They are on their way.", "Retried")},
                _BODY,
                body=ref("RetryIn"),
            )
        },
        "/v1/targets/test": {
            "post": _operation(
                "Targets",
                "testTarget",
                "Try a target",
                "Sends a signed `relay.test` event to a target, without a watch, and says what came of it.",
                {"200": _answer("The attempt.", "TestOut")},
                _BODY,
                body=_TARGET,
            )
        },
        "/v1/video/query": {
            "get": _operation(
                "Providers",
                "queryVideo",
                "The query endpoint, mirrored",
                "The upstream's own answer about a task, byte for byte. Of a watched task it is the last one that "
                "relay has heard (`Age`, `Relay-Watch`), without a call of its own; that the task is unknown only as "
                "long as nothing else was said of it. Any other id is asked for through the rate budget. An upstream's "
                "error comes with its own status.",
                {
                    "200": {
                        "description": "What the upstream said.",
                        "headers": headers_of(*LIMITED, "Age", "Relay-Watch"),
                        "content": json_of({}),
                    },
                    "default": {"description": "An error of the upstream, as it came."},
                },
                (422, 502),
                (
                    {
                        **_query(
                            "id",
                            "The task's id; no part of it between slashes is '.' or '..'.",
                            type="string",
                            minLength=1,
                            maxLength=512,
                            pattern=PRINTABLE,
                        ),
                        "required": True,
                    },
                ),
            )
        },
        "/v1/providers": {
            "get": _operation(
                "Providers",
                "listProviders",
                "List providers",
                "The upstreams that this deployment can watch.",
                {"200": _answer("The providers.", "Providers")},
                (),
            )
        },
    }


def _health(name: str, summary: str, description: str, answers: dict[str, tuple[str, Json]]) -> Json:
    """What a platform asks, which has no key."""
    responses = {
        status: {
            "description": text,
            "headers": headers_of("X-Request-ID"),
            "content": json_of({"type": "object", "required": list(fields), "properties": fields}),
        }
        for status, (text, fields) in answers.items()
    }
    operation = {"tags": ["Health"], "operationId": name, "summary": summary, "description": description}
    return {"get": {**operation, "security": [], "responses": responses}}


_REASONS = {"type": "array", "items": {"type": "string"}}
OF_THE_PROCESS = {
    "/healthz": _health(
        "healthz",
        "Is it alive",
        "The process answers. Restart it if it does not.",
        {"200": ("It does.", {"status": {"const": "ok"}})},
    ),
    "/readyz": _health(
        "readyz",
        "Is it ready",
        "The process can do its work: database, schema and clock are well. Send it no requests if it is not.",
        {
            "200": ("It is.", {"status": {"const": "ok"}, "reasons": {**_REASONS, "maxItems": 0}}),
            "503": ("It is not.", {"status": {"const": "unavailable"}, "reasons": {**_REASONS, "minItems": 1}}),
        },
    ),
}
