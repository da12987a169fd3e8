"""The OpenAPI 3.1 document, made of the same models that validate, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from relay import __version__
from relay.model import EventData, EventType
from relay.web import schemas as s
from relay.web.api import DEFAULT_LIMIT, MAX_LIMIT

Json = dict[str, Any]

_SCHEMAS: tuple[tuple[type[Any], JsonSchemaMode], ...] = (
    (s.WatchIn, "validation"),
    (s.BatchIn, "validation"),
    (s.RetryIn, "validation"),
    (s.WebhookTarget, "validation"),
    (s.SlackTarget, "validation"),
    (s.WatchOut, "serialization"),
    (s.WatchPage, "serialization"),
    (s.BatchOut, "serialization"),
    (s.DeliveryOut, "serialization"),
    (s.DeliveryPage, "serialization"),
    (s.Retried, "serialization"),
    (s.TestOut, "serialization"),
    (s.Providers, "serialization"),
    (s.ProblemOut, "serialization"),
    (EventData, "serialization"),
)

_PROBLEMS = {
    400: "The request could not be read.",
    401: "A valid API key is required.",
    404: "There is no such thing, or it belongs to another app.",
    408: "The body did not arrive in time.",
    409: "It is being sent at this moment.",
    413: "The body is too large.",
    415: "The body must be JSON.",
    422: "The request is not valid; `errors` says where.",
    429: "The key asks too often, or its app has too many watches under way; try again after `Retry-After`.",
    503: "The database does not answer; try again after `Retry-After`.",
}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


_HEADERS = {
    "Location": "Of the watch.",
    "RateLimit": "What is left of the key's requests, and in how many seconds it has all of them again.",
    "RateLimit-Policy": "How many requests a key may make in how many seconds.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "`Bearer`.",
    "X-Request-ID": "Names this request in the log.",
}
_LIMITED = ("RateLimit", "RateLimit-Policy", "X-Request-ID")


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _answer(description: str, name: str, *headers: str) -> Json:
    return {"description": description, "headers": _headers(*_LIMITED, *headers), "content": _json(_ref(name))}


def _problem(status: int, description: str) -> Json:
    more = {401: ("WWW-Authenticate",), 429: ("Retry-After", *_LIMITED), 503: ("Retry-After",)}
    headers = _headers(*more.get(status, ()), "X-Request-ID")
    return {
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": _ref("ProblemOut")}},
    }


def _links(path: str, *operations: str) -> Json:
    """Where the id in an answer leads."""
    return {
        "links": {name: {"operationId": name, "parameters": {"id": f"$response.body#{path}"}} for name in operations}
    }


def _query(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


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
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


_TARGET = {
    "oneOf": [_ref("WebhookTarget"), _ref("SlackTarget")],
    "discriminator": {
        "propertyName": "type",
        "mapping": {
            "webhook": "#/components/schemas/WebhookTarget",
            "slack": "#/components/schemas/SlackTarget",
        },
    },
}
_BODY = (400, 408, 413, 415, 422)


def _paths() -> Json:
    states = ["watching", "completed", "failed", "expired", "lost", "cancelled"]
    return {
        "/v1/watches": {
            "post": _operation(
                "Watches",
                "registerWatch",
                "Watch a task",
                "Registers a task and where to tell its end. A 2xx is a promise, made after the commit, that every "
                "target will hear it. The same task registered again by the same app is the same watch: new targets "
                "are added (told at once if the task has already ended), an `upstream_key` replaces the one before, "
                "and `metadata` and the deadline stay as they are. A watch that was stopped makes room for a new one.",
                {
                    "201": _answer("A new watch.", "WatchOut", "Location") | _links("/id", "readWatch", "stopWatch"),
                    "200": _answer("The watch that was there, with the new targets added.", "WatchOut"),
                },
                _BODY,
                body=_ref("WatchIn"),
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
                "ones are kept although others are refused.",
                {"200": _answer("One item per registration, in order.", "BatchOut")},
                _BODY,
                body=_ref("BatchIn"),
            )
        },
        "/v1/watches/{id}": {
            "get": _operation(
                "Watches",
                "readWatch",
                "Read a watch",
                "The watch as it stands.",
                {"200": _answer("The watch.", "WatchOut")},
                (404,),
                (_id("wch"),),
            ),
            "delete": _operation(
                "Watches",
                "stopWatch",
                "Stop watching",
                "The watch becomes `cancelled` and tells nobody; one that has ended stays as it is.",
                {"204": {"description": "Stopped.", "headers": _headers(*_LIMITED)}},
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
                body=_ref("RetryIn"),
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


_TOLD = {
    EventType.COMPLETED: "The upstream said that the task is done; `result` holds the link.",
    EventType.FAILED: "The upstream said that the task failed; `error` says why.",
    EventType.EXPIRED: "The deadline passed first; `error` holds the last thing that the upstream said.",
    EventType.LOST: "The upstream no longer knows the task.",
    EventType.PROGRESS: "The task goes on (only for targets that ask for it; throttled, never retried).",
    EventType.TEST: "A test, sent by `POST /v1/targets/test`.",
}


def _webhook(kind: EventType, description: str) -> Json:
    data = {"type": "object"} if kind is EventType.TEST else _ref("EventData")
    body = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": kind.value},
            "timestamp": {"type": "string", "format": "date-time", "description": "Of the event."},
            "data": data,
        },
    }
    headers = {
        "webhook-id": "One per event and target, the same on every attempt: drop what you have seen.",
        "webhook-timestamp": "Unix seconds of the attempt.",
        "webhook-signature": "`v1,` and the HMAC-SHA256 over `id.timestamp.body`; several while a secret is rotated.",
    }
    operation = {
        "tags": ["Events"],
        "operationId": kind.value.replace(".", "_"),
        "summary": kind.value,
        "description": description + " Standard Webhooks 1.0.0; answer 2xx to have it counted as delivered.",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"2XX": {"description": "Delivered."}, "410": {"description": "Send nothing more here."}},
    }
    return {"post": operation}


def document(public_url: str) -> Json:
    """The OpenAPI document of a deployment.

    Args:
        public_url: where it is reached.
    """
    adapters = [(kind.__name__, mode, TypeAdapter(kind)) for kind, mode in _SCHEMAS]
    _, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    components = dict(shared["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relay",
            "version": __version__,
            "summary": "Webhooks for APIs that have none.",
            "description": "Register the id of a task that some API is working on, and where to tell the end of it. "
            "relay polls the API's query endpoint and sends a signed webhook or a Slack message when the task ends.",
        },
        "servers": [{"url": public_url}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name} for name in ("Watches", "Deliveries", "Targets", "Providers", "Events")],
        "paths": _paths(),
        "webhooks": {kind.value: _webhook(kind, text) for kind, text in _TOLD.items()},
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "`relay apps create NAME` prints one."}
            },
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
            "responses": {str(status): _problem(status, text) for status, text in _PROBLEMS.items()},
        },
    }
