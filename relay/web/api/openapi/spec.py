"""What the OpenAPI document is built of: references, headers, parameters, answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from relay.web.api.parameters import DEFAULT_LIMIT, MAX_LIMIT

JsonObject = dict[str, Any]

MODELS: dict[type[Any], JsonSchemaMode] = {}
"""The models that the document refers to; their schemas are its components."""

HEADERS = {
    "Age": "Seconds since the upstream last said so.",
    "ETag": "Names the watch as it is shown here, but for what every poll changes.",
    "Preference-Applied": "`wait=N`: for how many seconds the answer could have been held back.",
    "Relay-Error": "`not_registered`: the task was created, but could not be watched.",
    "Relay-Watch": "The watch of this task.",
    "Idempotent-Replayed": "`true`: this is the answer to the first request with the Idempotency-Key.",
    "Location": "Of the watch.",
    "RateLimit": "What is left of the key's requests, and in how many seconds it has all of them again.",
    "RateLimit-Policy": "How many requests a key may make in how many seconds.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "`Bearer`.",
    "X-Request-ID": "Names this request in the log.",
    "X-Should-Retry": "`false`: nobody knows whether the upstream took the call, so do not send it again.",
}
SOMETIMES = ("Preference-Applied", "Relay-Watch", "Relay-Error", "Idempotent-Replayed", "X-Should-Retry")
"""Headers that an answer does not always have."""

LIMITED = ("RateLimit", "RateLimit-Policy", "X-Request-ID")
"""Headers of every answer to a request with an API key."""

NO_NUL = r"^[^\x00]*$"


def ref(model: type[Any]) -> JsonObject:
    """Refer to a model, and have its schema in the document."""
    # What is taken validates; what is answered is a typed dictionary.
    MODELS[model] = "validation" if issubclass(model, BaseModel) else "serialization"
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def json_of(schema: JsonObject) -> JsonObject:
    """Describe JSON of this schema as the content of a body."""
    return {"application/json": {"schema": schema}}


def headers_of(*names: str) -> JsonObject:
    """Refer to headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def answer(description: str, model: type[Any], *headers: str) -> JsonObject:
    """Describe an answer with JSON of this model, and with these headers beside those that every answer has."""
    return {"description": description, "headers": headers_of(*LIMITED, *headers), "content": json_of(ref(model))}


def empty_answer(description: str, *headers: str) -> JsonObject:
    """Describe an answer without a body."""
    return {"description": description, "headers": headers_of(*LIMITED, *headers)}


def health_answer(description: str, **fields: JsonObject) -> JsonObject:
    """Describe an answer of a process about itself: an object of these fields."""
    schema = {"type": "object", "required": list(fields), "properties": fields}
    return {"description": description, "headers": headers_of("X-Request-ID"), "content": json_of(schema)}


def errors(*statuses: int) -> JsonObject:
    """Refer to the problems that are answered with these statuses."""
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def links_to(path: str, *operations: str) -> JsonObject:
    """Describe which operations take the id that stands at `path` in an answer."""
    return {
        "links": {name: {"operationId": name, "parameters": {"id": f"$response.body#{path}"}} for name in operations}
    }


def query(name: str, description: str, **schema: Any) -> JsonObject:
    """Describe a parameter of the query."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def header(name: str, description: str) -> JsonObject:
    """Describe a header of the request."""
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def id_of(prefix: str) -> JsonObject:
    """Describe the id in a path."""
    schema = {"type": "string", "examples": [f"{prefix}_01K6X15VHRFF09DKKQJRZWHM60"]}
    return {"name": "id", "in": "path", "required": True, "schema": schema}


def page(prefix: str) -> tuple[JsonObject, ...]:
    """Describe the parameters of a list that comes in pages."""
    pattern = rf"^{prefix}_[0-9A-Z]{{26}}$"
    return (
        query("cursor", "The `next_cursor` of the page before.", type="string", pattern=pattern),
        query("limit", "How many.", type="integer", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT),
    )
