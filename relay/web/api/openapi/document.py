"""The OpenAPI 3.1 document: the operations as they stand at their handlers, and the models that validate."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from relay import __version__
from relay.model.event import ALERTS, AlertData, EventData, EventType
from relay.providers.definition import Definition
from relay.web import callbacks, ops
from relay.web.api.answers import ProblemOut
from relay.web.api.openapi.creates import TAG, own_paths
from relay.web.api.openapi.samples import samples
from relay.web.api.openapi.spec import HEADERS, LIMITED, MODELS, SOMETIMES, JsonObject, headers_of, json_of, ref
from relay.web.api.operations import Operation
from relay.web.api.routes import OPERATIONS

_PROBLEMS = {
    400: "The request could not be read.",
    401: "A valid API key is required.",
    404: "There is no such thing, or it belongs to another app.",
    408: "The body did not arrive in time.",
    409: "It is being sent at this moment, or nobody knows what became of it.",
    413: "The body is too large.",
    415: "The body must be JSON, and not compressed.",
    422: "The request is not valid; `errors` says where.",
    429: "More than the key, its app or a place that is asked may have at once; try again after `Retry-After`.",
    502: "The upstream does not answer.",
    504: "The upstream did not answer a create call in time: nobody knows whether it took it.",
    503: "The database does not answer; try again after `Retry-After`.",
}


def _problem(status: int, description: str) -> JsonObject:
    more = {401: ("WWW-Authenticate",), 429: ("Retry-After", *LIMITED), 503: ("Retry-After",)}
    headers = headers_of(*more.get(status, ()), "X-Request-ID")
    return {
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": ref(ProblemOut)}},
    }


_TOLD = {
    EventType.COMPLETED: "The upstream said that the task is done; `result` holds the link.",
    EventType.FAILED: "The upstream said that the task failed; `error` says why.",
    EventType.EXPIRED: "The deadline passed first; `error` holds the last thing that the upstream said.",
    EventType.LOST: "The upstream no longer knows the task.",
    EventType.PROGRESS: "The task goes on (only for targets that ask for it; throttled, never retried).",
    EventType.LATE: "The task takes longer than `late_after` (only for targets that ask for it; once).",
    EventType.TEST: "A test, sent by `POST /v1/targets/test`.",
    EventType.DELIVERY_DEAD: "For the operator (`RELAY_ALERTS`): a delivery is dead.",
    EventType.TARGET_UNWELL: "For the operator: a place is unwell, and its deliveries are held.",
    EventType.UPSTREAM_REFUSED: "For the operator: an upstream refuses, is silent, or knows no such address.",
    EventType.SUBMISSION_UNKNOWN: "For the operator: nobody knows whether an upstream took a submission.",
}


def _webhook(kind: EventType, description: str) -> JsonObject:
    data = {"type": "object"} if kind is EventType.TEST else ref(AlertData if kind in ALERTS else EventData)
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
        "requestBody": {"required": True, "content": json_of(body)},
        "responses": {"2XX": {"description": "Delivered."}, "410": {"description": "Send nothing more here."}},
    }
    return {"post": operation}


_TAGS = ("Watches", "Deliveries", "Targets", "Providers", "Submissions", TAG, "Callbacks", "Health", "Events")


def _paths(public_url: str) -> JsonObject:
    paths: defaultdict[str, JsonObject] = defaultdict(dict)
    operations: list[Operation[Any]] = [*OPERATIONS, *callbacks.operations.all, *ops.operations.all]
    for operation in operations:
        paths[operation.path][operation.method.lower()] = _with_samples(operation, public_url)
    return dict(paths)


def _with_samples(operation: Operation[Any], public_url: str) -> JsonObject:
    """Return what the document says of an operation, and how it is called."""
    documented = operation.documentation
    path = operation.path
    for parameter in documented.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["examples"][0])
    body = None
    if "requestBody" in documented:
        (content,) = documented["requestBody"]["content"].values()
        schema = content["schema"]
        first = next(iter(schema.get("oneOf", [schema])))
        body = _examples().get(first.get("$ref", "").rpartition("/")[2])
    called = samples(operation.method, public_url + path, body, public=documented.get("security") == [])
    return documented | {"x-codeSamples": called}


@functools.cache
def _examples() -> JsonObject:
    """Return an example for each model that has one."""
    examples: JsonObject = orjson.loads(Path(__file__).with_name("examples.json").read_bytes())
    return examples


@functools.cache
def _schemas() -> JsonObject:
    """Return the schemas of all models that the document refers to."""
    adapters = [(model.__name__, mode, TypeAdapter(model)) for model, mode in MODELS.items()]
    _, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    examples = _examples()
    schemas = shared["$defs"].items()
    return {name: schema | ({"examples": [examples[name]]} if name in examples else {}) for name, schema in schemas}


def document(public_url: str, definition: Definition | None = None) -> JsonObject:
    """Return the OpenAPI document of a deployment.

    Args:
        public_url: where it is reached.
        definition: of its default provider.
    """
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
        "tags": [{"name": name} for name in _TAGS],
        "paths": _paths(public_url) | own_paths(definition),
        "webhooks": {kind.value: _webhook(kind, text) for kind, text in _TOLD.items()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "`relay apps create NAME` prints one."}
            },
            "headers": {
                name: {"description": text, "required": name not in SOMETIMES, "schema": {"type": "string"}}
                for name, text in HEADERS.items()
            },
            "responses": {str(status): _problem(status, text) for status, text in _PROBLEMS.items()},
        },
    }
